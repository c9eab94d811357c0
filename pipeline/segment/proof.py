"""Exactly once: the rows that a run has committed, the files that a killed attempt left, and the proof at the end.

The written `images` rows are the checkpoint. An `instances` part without its `images` twin was never
committed. A worker that outlives its killed attempt may commit after the next attempt has looked: then an image
has two rows, which `verify` finds and mends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from masklake.pipeline.lake.run_record import RunFolder
from masklake.pipeline.segment.write import part_attempt, part_name
from masklake.pipeline.storage.parquet import read_table, write_table
from masklake.pipeline.storage.store import join


@dataclass(frozen=True)
class CommittedParts:
    """Part names of a run's two tables."""

    images: frozenset[str]
    instances: frozenset[str]

    @classmethod
    def listed(cls, folder: RunFolder) -> CommittedParts:
        def names(table: str) -> frozenset[str]:
            file_names = (uri.rpartition("/")[2] for uri in folder.storage.list(folder.table_uri(table)))
            return frozenset(name for name in file_names if part_attempt(name) is not None)

        return cls(names("images"), names("instances"))


def sweep(folder: RunFolder) -> int:
    """Delete `instances` parts that were never committed. Returns how many there were."""
    parts = CommittedParts.listed(folder)
    orphans = parts.instances - parts.images
    for name in orphans:
        folder.storage.delete(join(folder.table_uri("instances"), name))
    return len(orphans)


def done_ids(folder: RunFolder, before_attempt: int) -> np.ndarray:
    """Sorted image_ids, int64, with a row from an attempt before `before_attempt`.

    Later attempts are left out, so that a source that is restarted gives out the same images again.
    """
    names = [n for n in CommittedParts.listed(folder).images if (part_attempt(n) or 0) < before_attempt]
    return np.unique(_ids(folder, "images", names))


@dataclass
class Tally:
    """Committed rows by status, and their instances."""

    counts: Counter[str] = field(default_factory=Counter)
    instances: int = 0


def tally(folder: RunFolder) -> Tally:
    """Count what the run has in the lake."""
    result = Tally()
    for name in sorted(CommittedParts.listed(folder).images):
        uri = join(folder.table_uri("images"), name)
        table = read_table(uri, folder.storage, ["status", "n_instances"])
        result.counts.update(table["status"].to_pylist())
        result.instances += pc.sum(table["n_instances"]).as_py() or 0
    return result


def _ids(folder: RunFolder, table: str, names: Iterable[str]) -> np.ndarray:
    uris = [join(folder.table_uri(table), name) for name in sorted(names)]
    chunks = [read_table(uri, folder.storage, ["image_id"])["image_id"].to_numpy() for uri in uris]
    return np.concatenate([np.empty(0, np.int64), *chunks])


@dataclass
class Verification:
    """The proof that a run is whole, or the counts of what is wrong with it."""

    images: int = 0
    """Rows in the manifest."""
    missing: int = 0
    """Images without a row."""
    doubled: int = 0
    """Images that had two rows, because a worker outlived its attempt; mended."""
    mismatched: int = 0
    """Images whose n_instances did not add up; their parts were deleted, so they count as missing."""

    @property
    def whole(self) -> bool:
        return self.missing == 0


def verify(folder: RunFolder, n_images: int, attempt: int) -> Verification:
    """Check that every image 0 … n_images - 1 has one row, with as many instances as it says.

    Where an image has two rows, the newest part's row is kept. Parts whose instances do not add up are deleted, so
    that a resume writes them again. Memory: 12 bytes an image.
    """
    result = Verification(images=n_images)
    rows = np.zeros(n_images, np.int32)
    for name in sorted(CommittedParts.listed(folder).images, reverse=True):
        images = read_table(
            join(folder.table_uri("images"), name), folder.storage, ["image_id", "n_instances"]
        )
        ids, expected = images["image_id"].to_numpy(), images["n_instances"].to_numpy()
        instances = _instance_counts(folder, name, ids)
        wrong = int((instances != expected).sum()) if instances is not None else len(ids)
        if wrong:
            result.mismatched += wrong
            _remove(folder, name)
            continue
        doubled = rows[ids] > 0
        if doubled.any():
            result.doubled += int(doubled.sum())
            _keep_only(folder, name, ids[~doubled], attempt)
        rows[ids] = 1
    sweep(folder)
    result.missing = int((rows == 0).sum())
    return result


def _instance_counts(folder: RunFolder, name: str, ids: np.ndarray) -> np.ndarray | None:
    """Instances per image of `ids` in the part, or None when the part is gone."""
    try:
        owners = _ids(folder, "instances", [name])
    except FileNotFoundError:
        return None
    order = np.argsort(ids)
    counts = np.zeros(len(ids), np.int64)
    positions = order[np.minimum(np.searchsorted(ids, owners, sorter=order), len(ids) - 1)]
    if (ids[positions] != owners).any():  # instances of images that are not in the part
        return counts - 1
    np.add.at(counts, positions, 1)
    return counts


def _remove(folder: RunFolder, name: str) -> None:
    """Take a commit back: the `images` part first, so that no reader sees it without its instances."""
    folder.storage.delete(join(folder.table_uri("images"), name))
    folder.storage.delete(join(folder.table_uri("instances"), name))


def _keep_only(folder: RunFolder, name: str, ids: np.ndarray, attempt: int) -> None:
    """Replace a part by one that holds only the images `ids`."""
    if len(ids):
        keep = pa.array(ids)
        for table in ("instances", "images"):
            old = read_table(join(folder.table_uri(table), name), folder.storage)
            kept = old.filter(pc.is_in(old["image_id"], value_set=keep))
            write_table(kept, join(folder.table_uri(table), part_name(attempt, ids)), folder.storage)
    _remove(folder, name)
