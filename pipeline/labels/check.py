"""Mistakes in labels that a file may contain and that training would learn from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from masklake.model.boxes import iou_xywh
from masklake.pipeline.labels.masks import LabelMask
from masklake.pipeline.labels.sets import Box, Instance, LabelSet

_AROUND = 0.5
"""A box and the box around the mask overlap by more than this IoU, unless one of them means something else."""

_AS_MEANT = 0.9
"""From this IoU on, another reading of the box may be the intended one, unless the box itself overlaps by _WELL."""

_WELL = 0.75
_A_PART = 0.25
"""The IoU that is enough when the mask lies within its box."""
_LOW = (True, True, False, False)
"""For each edge of a box: whether it is a lower one."""
_ROUNDED = 2.0
"""Pixels by which the edges of a box and of a mask of few pixels may lie apart: polygons become whole pixels."""

_OUTSIDE = 1.0
"""Pixels by which boxes and keypoints may leave the frame: tools round outwards, and COCO's own boxes do."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something wrong with instance number `instance` of an image's newest label set."""

    uri: str
    instance: int
    label: str
    problem: str


def problems(sets: Iterable[LabelSet], classes: Collection[str] | None = None) -> Iterator[Problem]:
    """Everything that is wrong. `classes` are those that a model knows; None leaves names unchecked."""
    for labels in sets:
        first: dict[object, int] = {}
        for position, instance in enumerate(labels.instances):
            wrong = list(_wrong(labels, instance, classes))
            twin = first.setdefault(
                (instance.label, instance.mask or instance.box, instance.keypoints), position
            )
            if twin != position:
                wrong.append(f"is the same as instance {twin}")
            for problem in wrong:
                yield Problem(uri=labels.uri, instance=position, label=instance.label, problem=problem)


def _wrong(labels: LabelSet, instance: Instance, classes: Collection[str] | None) -> Iterator[str]:
    if classes is not None and instance.label not in classes:
        yield "the model has no such class"
    if instance.mask is not None:
        if not instance.mask.area:
            yield "the mask is empty"
        if labels.width is not None and (instance.mask.height, instance.mask.width) != (
            labels.height,
            labels.width,
        ):
            yield f"the mask is {instance.mask.width}×{instance.mask.height}, the image {labels.width}×{labels.height}"
    x, y, w, h = instance.box
    if not w or not h:
        yield "the box has no area"
    elif instance.mask is not None and (
        labels.width is None or (instance.mask.height, instance.mask.width) == (labels.height, labels.width)
    ):
        yield from _not_around(labels, instance.box, instance.mask)
    if 0 <= x <= 1 and 0 <= y <= 1 and 0 < w <= 1 and 0 < h <= 1:
        yield "the box lies in the first pixel; is it in fractions of the image?"
    if labels.width is None or labels.height is None:
        return
    if x < -_OUTSIDE or y < -_OUTSIDE or x + w > labels.width + _OUTSIDE or y + h > labels.height + _OUTSIDE:
        yield f"the box [{x:g}, {y:g}, {w:g}, {h:g}] leaves the {labels.width}×{labels.height} image"
    outside = [
        keypoint.name
        for keypoint in instance.keypoints
        if keypoint.visibility
        and not (
            -_OUTSIDE <= keypoint.x <= labels.width + _OUTSIDE
            and -_OUTSIDE <= keypoint.y <= labels.height + _OUTSIDE
        )
    ]
    if outside:
        yield f"keypoints outside the image: {', '.join(outside)}"


def _not_around(labels: LabelSet, box: Box, mask: LabelMask) -> Iterator[str]:
    """The problem that the box is not the one around the mask, with what the box may be instead."""
    around = mask.box
    apart = max(abs(a - b) for a, b in zip(_edges(box), _edges(around), strict=True))
    if not around[2] or apart <= _ROUNDED:
        return
    overlap = _overlap(box, around)
    if overlap >= _WELL:
        return
    x, y, w, h = box
    readings: dict[str, Box] = {
        "its corners": (x, y, w - x, h - y),
        "its centre and size": (x - w / 2, y - h / 2, w, h),
    }
    if labels.width and labels.height:
        width, height = labels.width, labels.height
        fractions = (x * width, y * height, w * width, h * height)
        readings["fractions of the image"] = fractions
        fx, fy, fw, fh = fractions
        readings["fractions of the image, from its centre"] = (fx - fw / 2, fy - fh / 2, fw, fh)
    meant = [name for name, reading in readings.items() if _overlap(reading, around) >= _AS_MEANT]
    # A mask that lies within its box may be the visible part of the object, or the part that a model was sure of.
    within = [
        abs(a - b) <= _ROUNDED or (a > b) == low
        for a, b, low in zip(_edges(around), _edges(box), _LOW, strict=True)
    ]
    enough = _A_PART if all(within) else _AROUND
    if not meant and overlap >= enough:
        return
    hint = f"; it may be {meant[0]}, where x, y, width, height belong" if meant else ""
    shown, expected = (", ".join(f"{v:g}" for v in some) for some in (box, around))
    yield f"the box [{shown}] is not around the mask, which lies in [{expected}]{hint}"


def _edges(box: Box) -> Box:
    x, y, w, h = box
    return x, y, x + w, y + h


def _overlap(first: Box, second: Box) -> float:
    if min(first[2:]) <= 0:
        return 0.0
    return float(iou_xywh(np.array(first), np.array(second)))
