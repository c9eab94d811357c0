"""A user's own files beside the lake: each is a table of a query, read-only, and that file alone."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from masklake.pipeline.errors import UserError
from masklake.pipeline.storage.explain import explaining
from masklake.pipeline.storage.store import Storage, normalise

_GIVEN = re.compile(r"([A-Za-z_]\w*)=(.+)")
READERS = {
    "csv": "read_csv", "tsv": "read_csv", "parquet": "read_parquet", "json": "read_json", "jsonl": "read_json", "ndjson": "read_json",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class AttachedFile:
    """A file that is a table."""

    name: str
    uri: str
    suffix: str
    """Of READERS; behind it, the file may have .gz (but Parquet)."""

    @property
    def kind(self) -> str:
        return self.suffix.removesuffix(".gz")

    def placed(self, storage: Storage, folder: Path) -> Path:
        """The file below a plain name in `folder`: DuckDB would take a `*` in a name for a pattern. Raises UserError where there
        is no such file."""
        place = folder / f"attached-{self.name}.{self.suffix}"
        with explaining(self.uri, "read it"):
            if "://" in self.uri:
                place.write_bytes(storage.read(self.uri))
            else:
                with Path(self.uri).open("rb"):  # it is there, and this user may read it
                    place.symlink_to(self.uri)
        return place


def parse(given: Iterable[str], taken: Collection[str]) -> list[AttachedFile]:
    """The files of `NAME=FILE`. Raises UserError for a name that is none or is `taken`, and for a file of another kind."""
    files: list[AttachedFile] = []
    for text in given:
        match = _GIVEN.fullmatch(text)
        if not match:
            raise UserError(
                f"--attach {text!r}: write --attach NAME=FILE; the query reads it as the table NAME"
            )
        name, file = match.groups()
        if name.lower() in taken or name.lower() in {other.name for other in files}:
            raise UserError(f"--attach {name}: there is a table of this name already; take another")
        bare = file.removesuffix(".gz")
        suffix = bare.rpartition(".")[2].lower()
        if suffix not in READERS or (suffix == "parquet" and bare != file):
            kinds = ", ".join(f".{kind}" for kind in READERS)
            raise UserError(
                f"--attach {name}: {file}: its name must end in {kinds} (all but .parquet also with .gz)"
            )
        files.append(
            AttachedFile(
                name=name.lower(), uri=normalise(file), suffix=file[len(bare) - len(suffix) :].lower()
            )
        )
    return files
