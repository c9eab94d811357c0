"""Instances of one image out of several files: joined by id, by boxes, or not at all."""

from __future__ import annotations

from dataclasses import replace

from masklake.pipeline.labels.merge import Merged
from masklake.pipeline.labels.sets import Instance, Keypoint

from tests.helpers.label_sets import an_instance

KEYPOINTS = (Keypoint("nose", 3, 3, 2),)


def person(
    x: float, y: float = 0, *, keypoints: bool = False, mask: bool = True, label: str = "person"
) -> Instance:
    """A person of 10×20 pixels at x, y."""
    base = an_instance("person")
    return replace(
        base,
        label=label,
        box=(x, y, 10, 20),
        mask=base.mask if mask else None,
        keypoints=KEYPOINTS if keypoints else (),
    )


def merged(*files: list[tuple[int, Instance]]) -> tuple[list[Instance], int]:
    instances = Merged()
    joined = sum(instances.add(file) for file in files)
    return instances.instances, joined


def test_the_same_id_and_box_is_the_same_instance() -> None:
    instances, by_box = merged([(1, person(0))], [(1, person(0.5, keypoints=True, mask=False))])
    assert (instances, by_box) == ([person(0, keypoints=True)], 0)


def test_the_same_id_elsewhere_is_another_instance() -> None:
    instances, by_box = merged([(1, person(0))], [(1, person(30, keypoints=True))])
    assert (instances, by_box) == ([person(0), person(30, keypoints=True)], 0)


def test_people_who_stand_close_each_get_their_own_keypoints() -> None:
    """All four boxes overlap each other by more than half; the closest belong together."""
    masks = [(1, person(0)), (2, person(3))]
    keypoints = [(8, person(3.5, keypoints=True, mask=False)), (9, person(0.25, mask=False))]
    instances, by_box = merged(masks, keypoints)
    assert (instances, by_box) == ([person(0), person(3, keypoints=True)], 2)


def test_what_overlaps_too_little_or_is_another_class_stays_apart() -> None:
    others = [
        (5, person(4, keypoints=True)),
        (6, person(0, label="dog")),
        (7, replace(person(0), iscrowd=True)),
    ]
    instances, by_box = merged([(1, person(0))], others)
    assert (instances, by_box) == ([person(0), *(instance for _, instance in others)], 0)


def test_other_keypoints_are_another_person() -> None:
    other = replace(person(0), keypoints=(Keypoint("nose", 9, 9, 2),))
    assert merged([(1, person(0, keypoints=True))], [(1, other)]) == ([person(0, keypoints=True), other], 0)


def test_three_files_and_boxes_without_area() -> None:
    nothing = replace(person(0), box=(5, 5, 0, 0))
    instances, by_box = merged(
        [(1, person(0)), (2, nothing)], [(3, person(0, keypoints=True)), (4, nothing)], [(3, person(0))]
    )
    assert instances == [person(0, keypoints=True), nothing, nothing]
    assert by_box == 1
    assert merged([], [(1, person(0))]) == ([person(0)], 0)
