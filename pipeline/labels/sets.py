"""Labels as plain values: what an annotation file says of an image, and the rows of `labels` that it becomes."""

from __future__ import annotations

import datetime
import hashlib
import re
from collections import Counter, namedtuple
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from masklake.pipeline.labels.masks import LabelMask
from masklake.pipeline.schema import LABELS, with_footer

EMPTY = -1
"""The `instance` of the one row of an image that was looked at and has no instances."""

SPLITS = ("train", "val")
VAL_SHARE = 0.1

Box = tuple[float, float, float, float]
"""x, y, width, height in pixels of the image."""


class Keypoint(NamedTuple):
    """A keypoint: pixels of the image, and COCO's visibility: 0 not labelled, 1 hidden, 2 visible."""

    name: str
    x: float
    y: float
    visibility: int


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One labelled object, in the precision of the lake: numbers are single, unlabelled keypoints lie at 0, 0.

    `keypoints` is empty where none is labelled. `label_id` is None where the file numbers no classes. `given_area` and
    `num_keypoints` are what COCO's evaluation reads, where the file has other numbers than one would count. What is to be
    ignored is neither learnt, nor background, nor counted as found or missed.
    """

    label: str
    label_id: int | None
    box: Box
    mask: LabelMask | None = None
    keypoints: tuple[Keypoint, ...] = ()
    iscrowd: bool = False
    ignore: bool = False
    given_area: float | None = None
    num_keypoints: int | None = None

    def __post_init__(self) -> None:
        x, y, w, h = np.asarray(self.box, np.float32).tolist()
        object.__setattr__(self, "box", (x, y, w, h))
        labelled = any(keypoint.visibility for keypoint in self.keypoints)
        object.__setattr__(self, "keypoints", tuple(map(_single, self.keypoints)) if labelled else ())
        if self.given_area is not None and self.given_area == self.area:
            object.__setattr__(self, "given_area", None)
        if self.num_keypoints == self._counted_keypoints or not labelled:
            object.__setattr__(self, "num_keypoints", None)

    @property
    def area(self) -> int:
        """Mask pixels; box pixels, rounded, where there is no mask."""
        if self.mask is not None:
            return self.mask.area
        return min(round(self.box[2] * self.box[3]), 2**31 - 1)

    @property
    def evaluated_area(self) -> float:
        """The area by which COCO's evaluation separates small from large and scales keypoint similarity: the file's, if given."""
        return self.area if self.given_area is None else self.given_area

    @property
    def evaluated_keypoints(self) -> int:
        """The number of labelled keypoints for COCO's evaluation: the file's, if given."""
        return self._counted_keypoints if self.num_keypoints is None else self.num_keypoints

    @property
    def _counted_keypoints(self) -> int:
        return sum(keypoint.visibility > 0 for keypoint in self.keypoints)


def _single(keypoint: Keypoint) -> Keypoint:
    if not keypoint.visibility:
        return Keypoint(keypoint.name, 0.0, 0.0, 0)
    return Keypoint(
        keypoint.name, float(np.float32(keypoint.x)), float(np.float32(keypoint.y)), keypoint.visibility
    )


@dataclass(frozen=True, kw_only=True)
class LabelSet:
    """Everything that was labelled in one image at one time. Without instances: somebody looked, and it is empty."""

    uri: str
    width: int | None
    height: int | None
    instances: tuple[Instance, ...]
    source: str
    split: str
    absent: tuple[str, ...] | None = None
    """Classes that were searched for and are not there. Beside them, only the classes of the instances were searched for.
    None where every class was."""
    not_exhaustive: tuple[str, ...] = ()
    """Classes of which there may be more than the instances."""


@dataclass(kw_only=True)
class LabelledImage:
    """An image of an annotation file, before it is known which image of the lake it is."""

    name: str
    """As the file writes it."""
    aliases: tuple[str, ...] = ()
    """Other names that it may have had before the tool took it in."""
    uri: str | None = None
    """Where the image lies, if the file was exported by Masklake; `source`, `split` and `digest` likewise."""
    source: str | None = None
    split: str | None = None
    digest: str | None = None
    """The digest of the instances when they were exported (see `digest`): `source` is true of those only."""
    width: int | None
    height: int | None
    size_known: bool = True
    """False where width and height only fill a place in the file."""
    absent: tuple[str, ...] | None = None
    not_exhaustive: tuple[str, ...] = ()
    """As of a LabelSet."""
    instances: list[Instance] = field(default_factory=list)
    unread: int = 0
    """How many of its annotations could not be read: an image without instances may then not be empty."""


class Skipped(NamedTuple):
    """Something in a file that cannot be read and was left out: where it stands, and what is wrong with it."""

    where: str
    problem: str

    @property
    def kind(self) -> str:
        """`problem` without its own names, numbers and lists, so that equal problems can be counted together."""
        return re.sub(r"'[^']*'|\"[^\"]*\"|\[[^\]]*\]|-?\d[\d.,×+e-]*", "…", self.problem)


@dataclass(frozen=True, kw_only=True)
class LabelFile:
    """What annotation files hold. `notes` say what was left out or understood otherwise than written, how often.

    `source` is who labels in files of this format, as far as one can know. `unannotated`: files that hold images and no
    annotation at all, as a tool writes them that could not export what it had.
    """

    images: list[LabelledImage]
    source: str = "import"
    notes: Counter[str] = field(default_factory=Counter)
    skipped: list[Skipped] = field(default_factory=list)
    unannotated: list[str] = field(default_factory=list)


def known_images(images: Iterable[LabelledImage], notes: Counter[str]) -> list[LabelledImage]:
    """The images of which anything is known: an image whose annotations were all left out is not an empty image."""
    every = list(images)
    known = [image for image in every if image.instances or not image.unread]
    if left := len(every) - len(known):
        notes["images left out: nothing that is labelled in them could be read"] += left
    return known


# A digest is made of this text, names included, and exported files carry digests: the names must never change.
_Rle = namedtuple("_Rle", ["height", "width", "counts"])
_Rle.__name__ = "Rle"
_Joint = namedtuple("_Joint", ["name", "x", "y", "visibility"])
_Joint.__name__ = "Joint"


def digest(instances: Iterable[Instance]) -> str:
    """16 hex digits that name these instances, without the ids of their classes: equal only if nobody has changed one."""
    values = [
        (
            instance.label,
            instance.box,
            instance.mask and _Rle(*instance.mask),
            [_Joint(*keypoint) for keypoint in instance.keypoints if keypoint.visibility],
            instance.iscrowd,
            # only where there are any, so that files which were exported before these were kept come back as they are
            *(
                (instance.ignore, instance.given_area, instance.num_keypoints)
                if _has_extras(instance)
                else ()
            ),
        )
        for instance in instances
    ]
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]


def _has_extras(instance: Instance) -> bool:
    return instance.ignore or instance.given_area is not None or instance.num_keypoints is not None


def split_of(uri: str) -> str:
    """The split of an image that nobody pinned: val for the tenth of all URIs whose SHA-256 begins lowest."""
    start = int.from_bytes(hashlib.sha256(uri.encode()).digest()[:8])
    return "val" if start < VAL_SHARE * 2**64 else "train"


def number_classes(wanted: Mapping[str, int | None], known: Mapping[str, int]) -> dict[str, int]:
    """An id for every class: the one that is `known`, else the wanted one, else the next that is free.

    So one name has one id. Ids below 1 are never given: 0 is the background of every detector.
    """
    ids = {name: known[name] for name in wanted if name in known}
    taken = set(known.values())
    reserved = {0} | {id_ for id_ in wanted.values() if id_ is not None}
    for name, id_ in sorted(wanted.items(), key=lambda item: (item[1] is None, item[1] or 0, item[0])):
        if name in ids:
            continue
        free = id_ is not None and id_ >= 1 and id_ not in taken
        ids[name] = id_ if free and id_ is not None else max(taken | reserved, default=0) + 1
        taken.add(ids[name])
    return ids


def to_table(sets: Iterable[LabelSet], labelled_at: datetime.datetime) -> pa.Table:
    """Rows of `labels`, sorted by uri and instance."""
    rows = [
        _row(labels, position, instance) | {"labelled_at": labelled_at}
        for labels in sorted(sets, key=lambda labels: labels.uri)
        for position, instance in _numbered(labels)
    ]
    return pa.Table.from_pylist(rows, schema=with_footer(LABELS, None))


def _numbered(labels: LabelSet) -> Iterable[tuple[int, Instance | None]]:
    return enumerate(labels.instances) if labels.instances else [(EMPTY, None)]


def _row(labels: LabelSet, position: int, instance: Instance | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "uri": labels.uri,
        "width": labels.width,
        "height": labels.height,
        "instance": position,
        "source": labels.source,
        "split": labels.split,
        "absent": None if labels.absent is None else list(labels.absent),
        "not_exhaustive": list(labels.not_exhaustive) or None,
    }
    if instance is None:
        return row
    mask = instance.mask
    return row | {
        "label_id": instance.label_id,
        "label": instance.label,
        "area": instance.area,
        **dict(zip("xywh", instance.box, strict=True)),
        "mask": mask and {"size": [mask.height, mask.width], "counts": mask.counts},
        "keypoints": [keypoint._asdict() for keypoint in instance.keypoints] or None,
        "iscrowd": instance.iscrowd,
        "ignore": instance.ignore,
        "given_area": instance.given_area,
        "num_keypoints": instance.num_keypoints,
    }


def from_table(table: pa.Table) -> list[LabelSet]:
    """The label sets in rows of `labels`, by uri. There must be one set of each image."""
    return from_rows(table.sort_by([("uri", "ascending"), ("instance", "ascending")]).to_pylist())


def from_rows(rows: Iterable[Mapping[str, Any]]) -> list[LabelSet]:
    """The label sets in rows of `labels`, sorted by uri and instance. There must be one set of each image."""
    sets: dict[str, LabelSet] = {}
    instances: dict[str, list[Instance]] = {}
    for row in rows:
        uri = row["uri"]
        of_image = instances.setdefault(uri, [])
        if uri not in sets:
            sets[uri] = LabelSet(
                **{name: row[name] for name in ("uri", "width", "height", "source", "split")},
                instances=(),
                absent=None if row["absent"] is None else tuple(row["absent"]),
                not_exhaustive=tuple(row["not_exhaustive"] or ()),
            )
        if row["instance"] != EMPTY:
            of_image.append(_instance(row))
    return [LabelSet(**{**vars(labels), "instances": tuple(instances[uri])}) for uri, labels in sets.items()]


def _instance(row: Mapping[str, Any]) -> Instance:
    return Instance(
        label=row["label"],
        label_id=row["label_id"],
        box=(row["x"], row["y"], row["w"], row["h"]),
        mask=LabelMask.of_row(row["mask"]),
        keypoints=tuple(Keypoint(**keypoint) for keypoint in row["keypoints"] or ()),
        iscrowd=row["iscrowd"],
        ignore=bool(row["ignore"]),  # null in parts of older versions, as the numbers
        given_area=row["given_area"],
        num_keypoints=row["num_keypoints"],
    )
