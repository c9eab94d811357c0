"""Which images are to be forgotten: by their URIs, or by what their URIs begin with."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Images: those of `uris`, and all whose URI begins with one of `folders`, which end in "/"."""

    uris: frozenset[str]
    folders: tuple[str, ...] = ()
    run: str | None = None
    """A run that is forgotten as a whole, in place of images."""

    def filter(self) -> pc.Expression:
        """The condition on the column uri, for scans."""
        field = pc.field("uri")
        condition = field.isin(pa.array(sorted(self.uris), pa.string()))
        for folder in self.folders:
            condition |= pc.starts_with(field, folder)
        return condition

    def among(self, column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
        """Which of these URIs are chosen: bool."""
        mask = pc.is_in(column, value_set=pa.array(sorted(self.uris), column.type))
        for folder in self.folders:
            mask = pc.or_(mask, pc.starts_with(column, folder))
        return pc.fill_null(mask, False)

    def has(self, uri: str) -> bool:
        """Whether this image is chosen."""
        return uri in self.uris or uri.startswith(self.folders)

    def with_uris(self, uris: Iterable[str]) -> Chosen:
        """These, and `uris`."""
        return replace(self, uris=self.uris | frozenset(uris))

    def to_json(self) -> bytes:
        return json.dumps({"uris": sorted(self.uris), "folders": self.folders, "run": self.run}).encode()

    @classmethod
    def parse(cls, data: bytes) -> Chosen:
        """What `to_json` made."""
        content = json.loads(data)
        return cls(uris=frozenset(content["uris"]), folders=tuple(content["folders"]), run=content["run"])
