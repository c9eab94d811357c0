"""Packets of manifest rows, while the manifest is still being written; and as a source of Ray Data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from masklake.pipeline.lake.forgotten import RowlessImages
from masklake.pipeline.lake.run_record import RunFolder
from masklake.pipeline.segment.manifest import Manifest
from masklake.pipeline.segment.proof import done_ids
from masklake.pipeline.segment.resources import ORDINARY_BYTES, PACKET_BYTES

if TYPE_CHECKING:
    from ray.data import Datasource


def load(rows: pa.Table, most: float = math.inf) -> int:
    """The load of these rows, counted in ordinary images: an object counts as at most `most`, one of unknown size as one."""
    return sum(
        int(min(most, max(1, (size or 0) // ORDINARY_BYTES))) for size in rows["size_bytes"].to_pylist()
    )


def packets(
    manifest: Manifest,
    folder: RunFolder,
    attempt: int,
    packet_images: int,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[pa.Table]:
    """Packets (see `cut`) of manifest rows that no earlier attempt has committed, and that are not forgotten.

    Parts never change once written, so a restarted reader makes the same packets again. Ray's
    reconstruction of lost outputs depends on that.
    """
    for _, rows in to_do(manifest, folder, attempt, stopped):
        yield from cut(rows, packet_images)


def to_do(
    manifest: Manifest, folder: RunFolder, attempt: int, stopped: Callable[[], bool]
) -> Iterator[tuple[int, pa.Table]]:
    """Of each part of the manifest: its number of rows, and those that no earlier attempt has committed, and that are not
    forgotten."""
    done = _done(folder, attempt) if attempt > 1 else np.empty(0, np.int64)
    for part in manifest.follow(stopped=stopped):
        ids = part["image_id"].to_numpy()
        if not len(ids):  # all of its images are forgotten
            continue
        here = done[np.searchsorted(done, ids[0]) : np.searchsorted(done, ids[-1], side="right")]
        yield len(part), part.filter(pa.array(~np.isin(ids, here)))


def cut(rows: pa.Table, most: int) -> Iterator[pa.Table]:
    """`rows` of a manifest by up to `most` rows, and up to 256 MiB of objects (or one larger object)."""
    for start, stop in _cuts(rows["size_bytes"].to_pylist(), most):
        yield rows.slice(start, stop - start).combine_chunks()


def _done(folder: RunFolder, attempt: int) -> np.ndarray:
    forgotten = sorted(RowlessImages.load(folder).image_ids)
    done = done_ids(folder, attempt)
    return np.union1d(done, np.array(forgotten, np.int64)) if forgotten else done


def _cuts(sizes: list[int | None], most: int) -> Iterator[tuple[int, int]]:
    start = held = 0
    for i, size in enumerate(sizes):
        if i - start == most or (i > start and held + (size or 0) > PACKET_BYTES):
            yield start, i
            start, held = i, 0
        held += size or 0
    if start < len(sizes):
        yield start, len(sizes)


def datasource(read: Callable[[], Iterator[pa.Table]]) -> Datasource:
    """A source of one task that yields what `read` yields, as it comes."""
    from ray.data import Datasource, ReadTask
    from ray.data.block import BlockMetadata

    class Packets(Datasource):
        def get_name(self) -> str:
            return "Manifest"

        def estimate_inmemory_data_size(self) -> int | None:
            return None  # the listing may still be running

        def get_read_tasks(self, *_: object, **__: object) -> list[ReadTask]:
            unknown = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None)
            return [ReadTask(read, unknown)]

    return Packets()
