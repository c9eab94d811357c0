"""The labels that a model is trained on, as one table that workers read slices of."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from masklake.pipeline.errors import UserError
from masklake.pipeline.labels import sets as labels
from masklake.pipeline.labels import store as label_store
from masklake.pipeline.labels.sets import LabelSet
from masklake.pipeline.lake.forgotten import ForgottenSince, forgets_done
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.storage.store import Storage
from numpy.typing import NDArray

_COLUMNS = (
    "uri", "width", "height", "instance", "label_id", "label", "x", "y", "w", "h", "mask", "keypoints", "iscrowd",
    "source", "split", "ignore", "given_area", "num_keypoints", "absent", "not_exhaustive",
)  # fmt: skip


class UnknownClassesError(UserError):
    """Classes are asked for (`unknown`) that are not among those of the labels (`known`)."""

    def __init__(self, message: str, unknown: list[str], known: list[str]) -> None:
        super().__init__(message)
        self.unknown, self.known = unknown, known


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """Label sets of one split. `rows` are rows of labels, with those of an image together; `starts` (images + 1,) is where the
    rows of each image begin. `wide` (images,) says which images are wider than high."""

    rows: pa.Table
    starts: NDArray[np.int64]
    wide: NDArray[np.bool_]
    counts: Mapping[str, int]
    """Instances by class, without crowds and ignored instances."""
    ids: Mapping[str, int]
    """The id of each class in the labels."""
    keypoint_names: tuple[str, ...]
    """The names of all keypoints, in the order of the instance that has the most of them."""
    with_keypoints: frozenset[str]
    """Classes with an instance that has keypoints."""
    masks: int
    """Instances with a mask."""
    as_of: datetime.datetime
    """When the newest of the labels were given."""
    lake: str
    forgets: int
    """How many calls of `masklake forget` were done before the labels were read."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    def uris(self, positions: Sequence[int] | NDArray[np.int64]) -> list[str]:
        """The images at these positions."""
        return self.rows["uri"].take(pa.array(self.starts[np.asarray(positions)])).to_pylist()

    def require_current(self, storage: Storage) -> None:
        """Raises UserError where one of the images was forgotten since the labels were read.

        It is asked once the lake has the record of the training, so that either this or `masklake forget` sees the other.
        """
        forgotten, _ = ForgottenSince.load(self.lake, storage, self.forgets)
        if forgotten and any(map(forgotten.has, pc.unique(self.rows["uri"]).to_pylist())):
            raise UserError(
                f"{self.lake}: images were forgotten (masklake forget) after the training had read their labels; start a new one"
            )

    def sets(self, positions: Sequence[int] | NDArray[np.int64]) -> list[LabelSet]:
        """The label sets at these positions."""
        return [
            labels.from_table(
                self.rows.slice(self.starts[position], self.starts[position + 1] - self.starts[position])
            )[0]
            for position in map(int, positions)
        ]


def gather(
    lake: Lake,
    split: str = "train",
    *,
    classes: Sequence[str] | None = None,
    as_of: datetime.datetime | None = None,
    shuffled: int | None = None,
) -> TrainingSet:
    """The newest labels of `split`, or the newest at the time `as_of`; of `classes` only, the others being background. `shuffled`, a seed, gives each instance the class of another: a training on it
    must fail its evaluation. Raises UserError when there is nothing to learn from."""
    lake.require()
    forgets = forgets_done(lake.uri, lake.storage)
    every = label_store.newest_rows(lake, as_of=as_of)
    rows = every.filter(pc.equal(every["split"], split)).select(_COLUMNS)
    if not rows.num_rows:
        others = Counter(every["split"].to_pylist())
        has = f"; all of its labelled images are of split {min(others)}" if others else ""
        raise UserError(
            f"{lake.uri}: has no labels of split {split}{has}; `masklake labels import FILE {lake.uri}` takes some in"
        )
    rows = rows.set_column(rows.schema.get_field_index("label"), "label", rows["label"].cast(pa.string()))
    rows = rows.sort_by([("uri", "ascending"), ("instance", "ascending")]).combine_chunks()
    single = rows.filter(
        pc.and_(
            pc.greater_equal(rows["instance"], 0),
            pc.invert(pc.or_(pc.fill_null(rows["iscrowd"], False), pc.fill_null(rows["ignore"], False))),
        )
    )
    if not single.num_rows:
        images = len(pc.unique(rows["uri"]))
        raise UserError(
            f"{lake.uri}: the {images:,} labelled images of split {split} hold no instance (crowds, and what is to be ignored, aside), so there is "
            "nothing to learn; label some objects"
        )
    if classes is not None:
        known = pc.unique(single["label"]).to_pylist()
        if unknown := sorted(set(classes) - set(known)):
            raise UnknownClassesError(
                f"--classes {','.join(unknown)}: no instance of split {split} has such a class; `masklake labels stats "
                f"{lake.uri}` tells which there are",
                unknown,
                known,
            )
        single = single.filter(pc.is_in(single["label"], pa.array(list(classes), pa.string())))
    if shuffled is not None:
        rows = _shuffled(rows, shuffled)
    encoded = pc.run_end_encode(rows["uri"]).combine_chunks()
    starts = np.concatenate([[0], np.asarray(encoded.run_ends)]).astype(np.int64)
    first = rows.take(pa.array(starts[:-1])).select(["width", "height"])
    wide = np.asarray(pc.fill_null(pc.greater(first["width"], first["height"]), True))
    counts = Counter(single["label"].to_pylist())
    keypoint_names, with_keypoints = _keypoints(single)
    return TrainingSet(
        rows=rows,
        starts=starts,
        wide=wide,
        counts=dict(counts),
        ids=dict(zip(single["label"].to_pylist(), single["label_id"].to_pylist(), strict=True)),
        keypoint_names=keypoint_names,
        with_keypoints=with_keypoints,
        as_of=pc.max(every["labelled_at"]).as_py(),
        lake=lake.uri,
        forgets=forgets,
        masks=single.num_rows - single["mask"].null_count,
    )


def _keypoints(single: pa.Table) -> tuple[tuple[str, ...], frozenset[str]]:
    having = single.filter(single["keypoints"].is_valid()).select(["label", "keypoints"])
    names: dict[str, None] = {}
    longest: tuple[str, ...] = ()
    for row in having["keypoints"].to_pylist():
        own = tuple(keypoint["name"] for keypoint in row)
        names |= dict.fromkeys(own)
        longest = max(longest, own, key=len)
    return tuple(dict.fromkeys([*longest, *names])), frozenset(having["label"].to_pylist())


def _shuffled(rows: pa.Table, seed: int) -> pa.Table:
    """`rows` with the labels (class and place) of all instances dealt anew among the images."""
    moved = [
        name
        for name in rows.column_names
        if name not in ("uri", "width", "height", "instance", "source", "split", "absent", "not_exhaustive")
    ]
    held = np.flatnonzero(np.asarray(rows["instance"]) >= 0)
    order = np.arange(rows.num_rows)
    order[held] = np.random.default_rng(seed).permutation(held)
    dealt = rows.take(pa.array(order))
    for name in moved:
        rows = rows.set_column(rows.schema.get_field_index(name), name, dealt[name])
    return rows


def as_record(labelled: TrainingSet) -> dict[str, Any]:
    """What the record of a training says of its labels."""
    return {
        "as_of": labelled.as_of.isoformat(),
        "images": len(labelled),
        "instances": sum(labelled.counts.values()),
        "with_masks": labelled.masks,
        "classes": dict(sorted(labelled.counts.items())),
        "joints": list(labelled.keypoint_names),
    }
