"""What may be wrong with labels that a file was allowed to say: mistakes that training would learn from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from masklake.pipeline.labels.sets import Instance, LabelSet

_OUTSIDE = 1.0
"""Pixels by which boxes and joints may leave the frame: tools round outwards, and COCO's own boxes do."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something wrong with instance number `instance` of an image's newest label set."""

    uri: str
    instance: int
    label: str
    problem: str


def problems(sets: Iterable[LabelSet], classes: Collection[str] | None = None) -> Iterator[Problem]:
    """Everything that is wrong. `classes` are those that a model knows; None leaves names unchecked."""
    for found in sets:
        first: dict[object, int] = {}
        for position, instance in enumerate(found.instances):
            told = list(_wrong(found, instance, classes))
            twin = first.setdefault(
                (instance.label, instance.mask or instance.box, instance.joints), position
            )
            if twin != position:
                told.append(f"is the same as instance {twin}")
            for problem in told:
                yield Problem(uri=found.uri, instance=position, label=instance.label, problem=problem)


def _wrong(found: LabelSet, instance: Instance, classes: Collection[str] | None) -> Iterator[str]:
    if classes is not None and instance.label not in classes:
        yield "the model has no such class"
    if instance.mask is not None:
        if not instance.mask.area:
            yield "the mask is empty"
        if found.width is not None and (instance.mask.height, instance.mask.width) != (
            found.height,
            found.width,
        ):
            yield f"the mask is {instance.mask.width}×{instance.mask.height}, the image {found.width}×{found.height}"
    x, y, w, h = instance.box
    if not w or not h:
        yield "the box has no area"
    if found.width is None or found.height is None:
        return
    if x < -_OUTSIDE or y < -_OUTSIDE or x + w > found.width + _OUTSIDE or y + h > found.height + _OUTSIDE:
        yield f"the box [{x:g}, {y:g}, {w:g}, {h:g}] leaves the {found.width}×{found.height} image"
    outside = [
        joint.name
        for joint in instance.joints
        if joint.visibility
        and not (
            -_OUTSIDE <= joint.x <= found.width + _OUTSIDE and -_OUTSIDE <= joint.y <= found.height + _OUTSIDE
        )
    ]
    if outside:
        yield f"joints outside the image: {', '.join(outside)}"
