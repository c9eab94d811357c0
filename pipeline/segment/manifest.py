"""The inputs of a run, fixed when it was planned: numbered Parquet parts that grow while the source is listed.

Parts are written in order, and `complete.json` last. A reader that finds part n may therefore work on it
while part n + 1 is still being listed.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
from masklake.pipeline.errors import UserError
from masklake.pipeline.schema import MANIFEST
from masklake.pipeline.storage.ahead import ahead
from masklake.pipeline.storage.objects import ObjectInfo
from masklake.pipeline.storage.parquet import encode, read_table
from masklake.pipeline.storage.store import Storage, join

_FIRST_PART = 256
_LARGEST_PART = 32_768
_LONGEST_WAIT_S = 2.0
_LINE_KEY = b"masklake.line"
"""In a part's footer: the line of the list that names its last image."""


@dataclass
class ManifestTotals:
    """The counts of what a manifest holds, and of what was left out of it."""

    parts: int = 0
    images: int = 0
    bytes: int = 0
    ignored: int = 0
    """Objects that do not look like images."""
    covered: int = 0
    """Images that a finished run with the same model and options has covered."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Lines of a list that give no image, by reason."""
    complete: bool = False


@dataclass(frozen=True)
class Manifest:
    """The manifest of one run, at `folder`."""

    folder: str
    storage: Storage

    def part_uri(self, number: int) -> str:
        return join(self.folder, f"part-{number:06d}.parquet")

    @property
    def _complete_uri(self) -> str:
        return join(self.folder, "complete.json")

    def totals(self) -> ManifestTotals:
        """Totals of what is written so far; `complete` once the whole source was listed."""
        if self.storage.exists(self._complete_uri):
            return ManifestTotals(**json.loads(self.storage.read(self._complete_uri)))
        totals = ManifestTotals()
        for rows in ahead(self._sizes, itertools.count()):
            if rows is None:
                break
            totals.parts += 1
            # Not the number of rows: those of forgotten images are gone, and no later image gets their numbers.
            totals.images = rows["image_id"][-1].as_py() + 1 if len(rows) else totals.images
            totals.bytes += pc.sum(rows["size_bytes"]).as_py() or 0
        return totals

    def parts(self) -> Iterator[pa.Table]:
        """The parts that exist, in order."""
        number = 0
        while self.storage.exists(self.part_uri(number)):
            yield read_table(self.part_uri(number), self.storage)
            number += 1

    def _sizes(self, number: int) -> pa.Table | None:
        """The objects' numbers and sizes in a part, or None where there is no such part."""
        try:
            return read_table(self.part_uri(number), self.storage, ["image_id", "size_bytes"])
        except FileNotFoundError:
            return None

    def last(self, totals: ManifestTotals) -> tuple[str, int | None]:
        """The last URI of a manifest that was not finished, "" when it has none, and the line of the list that names it.

        Without a list, and where an older Masklake wrote the part, there is no line. Images behind it that are forgotten will be
        listed again, and left out again.
        """
        for number in reversed(range(totals.parts)):
            table = read_table(self.part_uri(number), self.storage, ["uri"])
            if len(table):
                line = (table.schema.metadata or {}).get(_LINE_KEY)
                return table["uri"][-1].as_py(), None if line is None else int(line)
        return "", None

    def follow(self, poll_s: float = 0.25, stopped: Callable[[], bool] = lambda: False) -> Iterator[pa.Table]:
        """The parts in order, waiting for those still to be written, until the manifest is complete, or `stopped()`."""
        number = 0
        while True:
            while self.storage.exists(self.part_uri(number)):
                yield read_table(self.part_uri(number), self.storage)
                number += 1
            if not self.storage.exists(self._complete_uri):
                if stopped():
                    return
                time.sleep(poll_s)
            elif number >= self.totals().parts:
                return
            elif not self.storage.exists(self.part_uri(number)):
                raise UserError(f"{self.part_uri(number)}: is gone from the manifest; start a new run")

    def extend(self, objects: Iterable[ObjectInfo], totals: ManifestTotals) -> Iterator[ManifestTotals]:
        """Write parts from `objects`, numbering images on from `totals`, and yield the totals after each part.

        The first parts are small and go out at once, so that work starts before the listing ends.
        """
        rows: list[ObjectInfo] = []
        started = time.monotonic()
        for info in objects:
            rows.append(info)
            full = min(_FIRST_PART << totals.parts, _LARGEST_PART)
            if len(rows) >= full or time.monotonic() - started > _LONGEST_WAIT_S:
                yield self._write(rows, totals)
                rows, started = [], time.monotonic()
        if rows:
            yield self._write(rows, totals)

    def _write(self, rows: list[ObjectInfo], totals: ManifestTotals) -> ManifestTotals:
        uris, etags, sizes, modified, lines = zip(*rows, strict=True)
        ids = pa.array(range(totals.images, totals.images + len(rows)), pa.int64())
        columns = [ids, pa.array(uris), pa.array(etags), pa.array(sizes), pa.array(modified)]
        table = pa.table([c.cast(f.type) for c, f in zip(columns, MANIFEST, strict=True)], schema=MANIFEST)
        if lines[-1] is not None:
            table = table.replace_schema_metadata({_LINE_KEY: str(lines[-1])})
        # Never replace another process's part: rows in the lake would then name other images by the same image_id.
        if not self.storage.put_new(self.part_uri(totals.parts), encode(table)):
            raise UserError(
                f"{self.part_uri(totals.parts)}: another process is listing the same run; let one of them finish"
            )
        totals.parts += 1
        totals.images += len(rows)
        totals.bytes += sum(size or 0 for size in sizes)
        return totals

    def close(self, totals: ManifestTotals) -> None:
        """Record that the source is listed to its end."""
        totals.complete = True
        self.storage.write(self._complete_uri, json.dumps(asdict(totals)).encode())
