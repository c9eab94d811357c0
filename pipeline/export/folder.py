"""The folder of an export: it is there when all of it is written, or not at all."""

from __future__ import annotations

import contextlib
import csv
import json
import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from masklake.pipeline.errors import UserError
from masklake.pipeline.export.names import file_of
from masklake.pipeline.storage.explain import explaining
from masklake.pipeline.storage.store import normalise_folder

MANIFEST = "masklake-export.json"
"""Written last: what was exported, from where. A folder that has it may be replaced by a later export."""

_INDEX = "images.csv"
_LEFT_OUT = "left-out.csv"


class ExportFolder:
    """A folder that is being written. What is counted in `notes` was left out of the images that were written, what is
    counted in `remarks` is there, and not as the lake has it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: Counter[str] = Counter()
        self.remarks: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()
        """Images that are not in the export, by reason; left-out.csv names them."""
        self.images = self.instances = 0
        self.manifest: dict[str, Any] | None = None
        self._tables: dict[str, tuple[IO[str], Any]] = {}

    def open(self, name: str, mode: str = "w") -> IO[Any]:
        """A new file below the folder, UTF-8 if it is text. `name` is never made from a key but by `names`."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open(mode, encoding=None if "b" in mode else "utf-8", newline=None if "b" in mode else "")

    def make(self, name: str) -> None:
        """A folder below it, for readers that want one where nothing is in it."""
        (self.path / name).mkdir(parents=True, exist_ok=True)

    def spool(self) -> IO[str]:
        """A file for what has to wait; it is gone when it is closed."""
        return tempfile.TemporaryFile("w+", encoding="utf-8", dir=self.path, newline="")

    def list_image(self, file: str, uri: str, split: str) -> None:
        """Say in images.csv which image the files named `file` are of."""
        self.images += 1
        self._row(_INDEX, ("file", "uri", "split"), (file, uri, split))

    def leave_out(self, uri: str, reason: str, kind: str) -> None:
        """Count an image that is not in the export; `kind` is the reason without names and numbers."""
        self.left_out[kind] += 1
        self._row(_LEFT_OUT, ("uri", "reason"), (uri, reason))

    def save_photo(self, folder: str, uri: str, data: bytes) -> None:
        """Write the bytes of an image as they are."""
        with self.open(f"{folder}/{file_of(uri)}", "wb") as file:
            file.write(data)

    def _row(self, name: str, columns: tuple[str, ...], row: tuple[str, ...]) -> None:
        if name not in self._tables:
            file = self.open(name)
            self._tables[name] = file, csv.writer(file, lineterminator="\n")
            self._tables[name][1].writerow(columns)
        self._tables[name][1].writerow(row)

    def close(self) -> None:
        for file, _ in self._tables.values():
            file.close()


@contextlib.contextmanager
def writing(out: str, *, overwrite: bool) -> Iterator[ExportFolder]:
    """A folder of this machine that takes the place `out` when the block ends; after an error nothing has changed.

    Raises UserError where `out` holds something: an earlier export is replaced if `overwrite`, what else lies there never.
    """
    final = Path(normalise_folder(out))
    _refuse(final, out, overwrite=overwrite)
    temporary = final.with_name(f".{final.name}.{secrets.token_hex(4)}.tmp")
    with explaining(out, "write the export"):
        temporary.mkdir(parents=True)
    folder = ExportFolder(temporary)
    try:
        try:
            yield folder
        finally:
            folder.close()
        with explaining(out, "write the export"):
            with folder.open(MANIFEST) as file:
                write_last(folder, file)
            _take_place(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_last(folder: ExportFolder, file: IO[str]) -> None:
    """Write the manifest, the last file of the folder."""
    json.dump(folder.manifest or {}, file, ensure_ascii=False, indent=1)
    file.write("\n")


def _refuse(final: Path, out: str, *, overwrite: bool) -> None:
    with explaining(out, "look into it"):
        if not final.exists() and not final.is_symlink():
            return
        if not final.is_dir():
            raise UserError(f"{out}: is a file; name a folder")
        if not any(final.iterdir()):
            return
        if not (final / MANIFEST).is_file():
            raise UserError(f"{out}: holds files that no export wrote; name a new folder")
        if not overwrite:
            raise UserError(f"{out}: holds an export already; --overwrite replaces it, or name a new folder")


def _take_place(temporary: Path, final: Path) -> None:
    if not final.exists():
        temporary.rename(final)
        return
    old = temporary.with_suffix(".old")
    final.rename(old)
    try:
        temporary.rename(final)
    except OSError:
        old.rename(final)
        raise
    shutil.rmtree(old, ignore_errors=True)
