"""Exactly once: the rows that a run has committed, the files that a killed attempt left, and the proof at the end.

The written `images` rows are the checkpoint. An `instances` part without its `images` twin was never
committed. A worker that outlives its killed attempt may commit after the next attempt has looked: then an image
has two rows, which `verify` finds and mends.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from masklake.pipeline.lake.forgotten import RowlessImages
from masklake.pipeline.lake.run_record import RunFolder
from masklake.pipeline.schema import IMAGES, INSTANCES, with_footer
from masklake.pipeline.segment.write import part_attempt, part_name, take_back
from masklake.pipeline.storage.ahead import ahead
from masklake.pipeline.storage.parquet import encode, read_table, write_table
from masklake.pipeline.storage.store import join

_SCHEMAS = {"images": IMAGES, "instances": INSTANCES}


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
    """Delete `instances` parts that were never committed, and files that were never finished. Returns how many parts there were."""
    orphans = _orphans(folder)
    for name in orphans:
        folder.storage.delete(join(folder.table_uri("instances"), name))
    return len(orphans)


def bar_uncommitted(folder: RunFolder, attempt: int, model: str) -> None:
    """`sweep` at the beginning of `attempt`, and take the names of what is swept: a writer of an earlier attempt that stands
    still before it commits such a part cannot do so later (`write`). In their place are parts without rows (of `model`, as all parts of a run).

    A writer that has not yet written its `instances` part looks whether it was overtaken once it has.
    """
    for name in _orphans(folder):
        uris = {table: join(folder.table_uri(table), name) for table in _SCHEMAS}
        folder.storage.delete(uris["instances"])
        if (part_attempt(name) or 0) < attempt:
            empty = {table: with_footer(schema, model).empty_table() for table, schema in _SCHEMAS.items()}
            if folder.storage.put_new(uris["images"], encode(empty["images"])):
                write_table(empty["instances"], uris["instances"], folder.storage)
            else:
                folder.storage.delete(
                    uris["images"]
                )  # committed just now, without its instances: it is done again


def take_back_uncommitted(folder: RunFolder, attempt: int, model: str) -> None:
    """What a superseded `attempt` does at its end with what it was interrupted in writing: nobody else may look again."""
    parts = CommittedParts.listed(folder)
    for name in parts.instances - parts.images:
        if part_attempt(name) == attempt:
            take_back(name, folder, model)


def _orphans(folder: RunFolder) -> frozenset[str]:
    """`instances` parts that are not committed. Files that were not finished are removed."""
    for place in (*map(folder.table_uri, _SCHEMAS), join(folder.lake, "runs", folder.run)):
        folder.storage.clear_unfinished(place)
    parts = CommittedParts.listed(folder)
    return parts.instances - parts.images


def done_ids(folder: RunFolder, before_attempt: int) -> np.ndarray:
    """Sorted image_ids, int64, with a row from an attempt before `before_attempt`.

    Later attempts are left out, so that a source that is restarted gives out the same images again.
    """
    names = [n for n in CommittedParts.listed(folder).images if (part_attempt(n) or 0) < before_attempt]
    done = np.zeros(0, bool)
    for ids in ahead(partial(_ids, folder, "images"), sorted(names)):
        if len(ids) and ids.max() >= len(done):
            done = np.pad(done, (0, max(len(done), ids.max() + 1 - len(done))))
        done[ids] = True
    return np.flatnonzero(done)


@dataclass
class Tally:
    """Committed rows by status, and their instances."""

    counts: Counter[str] = field(default_factory=Counter)
    instances: int = 0

    def add(self, rows: pa.Table) -> None:
        """Count `rows` of images: their columns status and n_instances."""
        statuses = rows["status"].cast(pa.string()).value_counts().to_pylist()
        self.counts.update({status["values"]: status["counts"] for status in statuses})
        self.instances += pc.sum(rows["n_instances"]).as_py() or 0


def tally(folder: RunFolder) -> Tally:
    """Count what the run has in the lake."""
    result = Tally()
    columns = ["status", "n_instances"]
    for rows in ahead(
        partial(_read, folder, "images", columns), sorted(CommittedParts.listed(folder).images)
    ):
        result.add(rows)
    return result


def _read(folder: RunFolder, table: str, columns: list[str], name: str) -> pa.Table:
    return read_table(join(folder.table_uri(table), name), folder.storage, columns)


def _ids(folder: RunFolder, table: str, name: str) -> np.ndarray:
    return _read(folder, table, ["image_id"], name)["image_id"].to_numpy()


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
    forgotten: int = 0
    """Images without a row because they were forgotten (masklake forget)."""

    @property
    def whole(self) -> bool:
        return self.missing == 0


def verify(folder: RunFolder, n_images: int, attempt: int) -> Verification:
    """Check that every image 0 … n_images - 1 that is not forgotten has one row, with as many instances as it says.

    Where an image has two rows, the newest part's row is kept. Parts whose instances do not add up are deleted, so
    that a resume writes them again. Memory: a byte an image.
    """
    result = Verification(images=n_images)
    proven = np.zeros(n_images, bool)
    forgotten = np.array(sorted(RowlessImages.load(folder).image_ids), np.int64)
    proven[forgotten] = True  # if there is a row, it goes like the second of a doubled one
    result.forgotten = len(forgotten)
    names = sorted(CommittedParts.listed(folder).images, reverse=True)
    for name, part in zip(names, ahead(partial(_counted, folder), names), strict=True):
        ids = part.image_ids
        if part.mismatched:
            result.mismatched += part.mismatched
            _remove(folder, name)
            continue
        doubled = proven[ids]
        if doubled.any():
            result.doubled += int(doubled.sum())
            _keep_only(folder, name, ids[~doubled], attempt)
        proven[ids] = True
    sweep(folder)
    result.missing = int((~proven).sum())
    return result


@dataclass(frozen=True)
class _CountedPart:
    image_ids: np.ndarray
    mismatched: int
    """Images whose n_instances does not add up; all of them, where the part has no instances part."""


def _counted(folder: RunFolder, name: str) -> _CountedPart:
    images = _read(folder, "images", ["image_id", "n_instances"], name)
    ids = images["image_id"].to_numpy()
    instances = _instance_counts(folder, name, ids)
    wrong = len(ids) if instances is None else int((instances != images["n_instances"].to_numpy()).sum())
    return _CountedPart(ids, wrong)


def _instance_counts(folder: RunFolder, name: str, ids: np.ndarray) -> np.ndarray | None:
    """Instances per image of `ids` in the part, or None when the part is gone."""
    try:
        owners = _ids(folder, "instances", name)
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
