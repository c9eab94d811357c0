"""The objects that finished runs have covered already: what a new run of the same options may skip.

    LAKE/runs/<run>/covered/part-000000.parquet      the digests of a run's settled objects, written at its end

The record's summary of the parts (pipeline/lake/part_summary.py) says whether these digests still stand for the rows of the run. Where
they do not, or are not there, the rows themselves are read.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from masklake.pipeline.lake.lake import Lake, Part
from masklake.pipeline.lake.part_summary import PartSummary, signature
from masklake.pipeline.lake.run_record import RunFolder
from masklake.pipeline.schema import SCHEMA_VERSION, VERSION_KEY, Status
from masklake.pipeline.segment.digests import DigestSet, digests
from masklake.pipeline.segment.proof import Tally
from masklake.pipeline.segment.write import part_attempt
from masklake.pipeline.storage.ahead import ahead
from masklake.pipeline.storage.objects import ObjectInfo
from masklake.pipeline.storage.parquet import read_table, write_table
from masklake.pipeline.storage.store import Storage, join

_LISTED_AT_ONCE = 512
_DIGESTS_A_PART = 2**20
_SETTLED = pa.array([str(status) for status in Status if status.settled])
_KIND = b"masklake.digest"
_DIGEST = pa.schema(
    [pa.field("digest", pa.binary(16), nullable=False)], metadata={_KIND: b"blake2b-128 of URI, NUL, ETag"}
)


def _covered_uri(folder: RunFolder, number: int) -> str:
    return join(folder.lake, "runs", folder.run, "covered", f"part-{number:06d}.parquet")


def _settled(rows: pa.Table) -> np.ndarray:
    """The digests of the rows whose status is settled."""
    rows = rows.filter(pc.is_in(rows["status"].cast(pa.string()), value_set=_SETTLED))
    return digests(zip(rows["uri"].to_pylist(), rows["etag"].to_pylist(), strict=True))


def summarise(folder: RunFolder) -> tuple[Tally, PartSummary]:
    """Count what a finished run has in the lake, write the digests of what it covers, and sum up its parts.

    Memory: 16 MiB of digests, and a few parts.
    """
    listed = (
        (info.uri.rpartition("/")[2], info.size) for info in folder.storage.walk(folder.table_uri("images"))
    )
    parts = sorted((name, size) for name, size in listed if part_attempt(name) is not None)
    uris = (join(folder.table_uri("images"), name) for name, _ in parts)
    columns = ["uri", "etag", "status", "n_instances"]
    tally, version, covered_parts = Tally(), SCHEMA_VERSION, 0
    ends: list[str] = []
    held: list[np.ndarray] = []
    for rows in ahead(lambda uri: read_table(uri, folder.storage, columns), uris):
        tally.add(rows)
        version = max(version, int((rows.schema.metadata or {}).get(VERSION_KEY, 1)))
        if len(rows):
            smallest, largest = pc.min_max(rows["uri"]).as_py().values()
            ends = [min([smallest, *ends]), max([largest, *ends])]
        held.append(_settled(rows))
        if sum(map(len, held)) >= _DIGESTS_A_PART:
            _write_digests(held, _covered_uri(folder, covered_parts), folder.storage)
            held, covered_parts = [], covered_parts + 1
    if held:
        _write_digests(held, _covered_uri(folder, covered_parts), folder.storage)
        covered_parts += 1
    first, last = ends or (None, None)
    return tally, PartSummary(
        signature=signature(parts),
        schema_version=version,
        first_uri=first,
        last_uri=last,
        covered_parts=covered_parts,
    )


def _write_digests(held: list[np.ndarray], uri: str, storage: Storage) -> None:
    pairs = np.concatenate(held)
    column = pa.FixedSizeBinaryArray.from_buffers(_DIGEST[0].type, len(pairs), [None, pa.py_buffer(pairs)])
    write_table(pa.table([column], schema=_DIGEST), uri, storage)


def _read_digests(uri: str, storage: Storage) -> np.ndarray | None:
    """The digests written to `uri`, uint64 n × 2; None where there are none, or another Masklake made other ones."""
    try:
        rows = read_table(uri, storage)
    except FileNotFoundError:
        return None
    if (rows.schema.metadata or {}).get(_KIND) != _DIGEST.metadata[
        _KIND
    ] or rows.schema.names != _DIGEST.names:
        return None
    chunks = [
        np.frombuffer(chunk.buffers()[1], np.uint64, 2 * len(chunk), 16 * chunk.offset)
        for chunk in rows["digest"].chunks
    ]
    return np.concatenate([np.empty(0, np.uint64), *chunks]).reshape(-1, 2)


@dataclass(frozen=True)
class CoveringRun:
    """A finished run, its images parts, and what its record says of them where that holds."""

    folder: RunFolder
    parts: list[Part]
    summary: PartSummary | None


def covering_runs(lake: Lake, covers: object, prefix: str) -> list[CoveringRun]:
    """The complete runs of `lake` whose options are those of `covers` (`RunRecord.covers`), as far as they may hold URIs
    that begin with `prefix`."""
    summaries = lake.summaries()
    runs = []
    for run in lake.runs():
        record, summary = run.record, summaries.get(run.id)
        if record is None or record.state != "complete" or record.covers != covers:
            continue
        if summary is None or summary.may_hold(prefix):
            parts = lake.parts_by_run.get(run.id, [])
            runs.append(CoveringRun(RunFolder(lake.uri, run.id, lake.storage), parts, summary))
    return runs


class Covered:
    """Objects (URI and etag) with a settled row in `runs`: 16 bytes each, whatever the URI's length, and on disk where they
    are many."""

    def __init__(self, runs: Sequence[CoveringRun], storage: Storage) -> None:
        self._storage = storage
        self._digests = DigestSet()
        written = [
            (run, number) for run in runs if run.summary for number in range(run.summary.covered_parts)
        ]
        rows_of = [run for run in runs if run.summary is None]
        reading = ahead(lambda pair: _read_digests(_covered_uri(pair[0].folder, pair[1]), storage), written)
        for (run, _), pairs in zip(written, reading, strict=True):
            if pairs is not None:
                self._digests.add(pairs)
            elif run not in rows_of[-1:]:
                rows_of.append(run)
        parts = (join(run.folder.lake, part.path) for run in rows_of for part in run.parts)
        for pairs in ahead(self._of_part, parts):
            self._digests.add(pairs)
        self._digests.seal()

    def _of_part(self, uri: str) -> np.ndarray:
        return _settled(read_table(uri, self._storage, ["uri", "etag", "status"]))

    def __len__(self) -> int:
        return len(self._digests)

    def marked(self, listed: Iterable[ObjectInfo]) -> Iterator[tuple[ObjectInfo, bool]]:
        """`listed`, each with whether it is covered. Where a list gives only URIs, the storage is asked for etags."""
        if not len(self):
            yield from ((info, False) for info in listed)
            return
        rest = iter(listed)
        while chunk := list(itertools.islice(rest, _LISTED_AT_ONCE)):
            if any(info.etag is None for info in chunk):
                chunk = list(ahead(self._versioned, chunk))
            present = self._digests.contains(digests((info.uri, info.etag) for info in chunk))
            yield from zip(chunk, present.tolist(), strict=True)

    def _versioned(self, info: ObjectInfo) -> ObjectInfo:
        if info.etag is not None:
            return info
        try:
            stored = self._storage.stat(info.uri)
        except OSError:  # it will be fetched, and the row will say why this failed
            return info
        return info if stored is None else stored._replace(line=info.line)
