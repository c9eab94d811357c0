"""An export in object storage. Objects cannot be renamed, so its files go where they belong, and it is whole once
masklake-export.json is there, which is written last.

masklake-export.begun.json is written first and removed last: it holds the place against another export, and where a killed
one left it, the next is told. An export that replaces another removes that one's masklake-export.json before anything else.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import secrets
import socket
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import IO, Any

from masklake.pipeline.errors import UserError
from masklake.pipeline.export.folder import MANIFEST, ExportFolder, write_last, writing
from masklake.pipeline.export.uploads import ObjectUploads
from masklake.pipeline.storage.explain import explaining, of_storage
from masklake.pipeline.storage.store import Storage, join, normalise_folder

BEGUN = "masklake-export.begun.json"
_DELETED_AT_ONCE = 32
_TAKEN = "another export has begun there meanwhile; name a new folder, or try again when it has ended"


class RemoteFolder(ExportFolder):
    """A folder of object storage that is being written. What waits, waits in files of this machine."""

    def __init__(self, uri: str, storage: Storage) -> None:
        super().__init__(Path(tempfile.gettempdir()))
        self.uploads = ObjectUploads(storage)
        self._uri = uri

    def open(self, name: str, mode: str = "w") -> IO[Any]:
        file = io.BufferedWriter(self.uploads.open(join(self._uri, name)), 2**16)
        return file if "b" in mode else _text(file)

    def make(self, name: str) -> None:
        """Object storage has no folders."""

    def close(self) -> None:
        super().close()
        self.uploads.finish()


def _text(file: Any) -> io.TextIOWrapper:
    return io.TextIOWrapper(file, encoding="utf-8", newline="")


def writing_at(out: str, storage: Storage, *, overwrite: bool) -> AbstractContextManager[ExportFolder]:
    """`folder.writing`, or `writing_remotely` where `out` is no path."""
    uri = normalise_folder(out)
    if "://" in uri:
        return writing_remotely(uri, storage, overwrite=overwrite)
    return writing(out, overwrite=overwrite)


@contextlib.contextmanager
def writing_remotely(uri: str, storage: Storage, *, overwrite: bool) -> Iterator[ExportFolder]:
    """A folder at `uri`, which is whole when the block ends; after an error what was written is removed again.

    Raises UserError as `folder.writing`, and where another export began there.
    """
    with explaining(uri, "write the export"):
        mark = _begin(uri, storage, overwrite=overwrite)
    folder = RemoteFolder(uri, storage)
    try:
        yield folder
        folder.close()
        with explaining(uri, "write the export"):
            if _read(join(uri, BEGUN), storage) != mark:
                raise UserError(f"{uri}: {_TAKEN}")
            last = ObjectUploads(storage)
            with _text(io.BufferedWriter(last.open(join(uri, MANIFEST)))) as file:
                write_last(folder, file)
            last.finish()
            storage.delete(join(uri, BEGUN))
    except BaseException:
        folder.uploads.cancel()
        with _as_well_as_it_goes():
            if _read(join(uri, BEGUN), storage) == mark:
                _clear(uri, storage)
        raise


def _begin(uri: str, storage: Storage, *, overwrite: bool) -> bytes:
    """Take the place, and remove what an earlier export left there; the mark."""
    began = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    facts = {"began_at": began, "host": socket.gethostname(), "token": secrets.token_hex(8)}
    mark = json.dumps(facts).encode()
    names = {MANIFEST, BEGUN}
    there = {name for name in names if storage.exists(join(uri, name))}
    anything = there or next(_objects(uri, storage), None) is not None
    if not there and anything:
        raise UserError(f"{uri}: holds files that no export wrote; name a new folder")
    if MANIFEST in there and not overwrite:
        raise UserError(f"{uri}: holds an export already; --overwrite replaces it, or name a new folder")
    if MANIFEST not in there and BEGUN in there and not overwrite:
        raise UserError(
            f"{uri}: {_unfinished(_read(join(uri, BEGUN), storage))} was killed, or is still at work; "
            "--overwrite replaces what it wrote"
        )
    earlier = storage.stat(join(uri, BEGUN)) if BEGUN in there else None
    if earlier is None or earlier.etag is None:
        taken = storage.put_new(join(uri, BEGUN), mark)
    else:
        taken = storage.replace(join(uri, BEGUN), mark, earlier.etag)
    if not taken:
        raise UserError(f"{uri}: {_TAKEN}")
    if MANIFEST in there:
        storage.delete(join(uri, MANIFEST))
    if anything:
        _clear(uri, storage, keep=join(uri, BEGUN))
    return mark


def _unfinished(mark: bytes | None) -> str:
    try:
        facts = json.loads(mark or b"")
        return f"an export that began there at {facts['began_at']} on {facts['host']}"
    except (ValueError, KeyError, TypeError):
        return "an export that began there"


def _read(uri: str, storage: Storage) -> bytes | None:
    try:
        return storage.read(uri)
    except FileNotFoundError:
        return None


def _objects(uri: str, storage: Storage) -> Iterator[str]:
    """The objects below `uri`, but for uri/ itself, which consoles make to show an empty folder."""
    return (info.uri for info in storage.walk(uri) if info.uri != f"{uri}/")


def _clear(uri: str, storage: Storage, *, keep: str | None = None) -> None:
    """Remove all objects below `uri` but `keep`; the mark goes last."""
    mark = join(uri, BEGUN)
    objects = (name for name in _objects(uri, storage) if name != mark)
    with ThreadPoolExecutor(_DELETED_AT_ONCE) as threads:
        while batch := list(islice(objects, 1_000)):
            list(threads.map(storage.delete, batch))
    if keep != mark:
        storage.delete(mark)


@contextlib.contextmanager
def _as_well_as_it_goes() -> Iterator[None]:
    """The error that is on its way is the one to tell: what cannot be removed now, the mark tells of later."""
    try:
        yield
    except Exception as error:
        if not of_storage(error):
            raise
