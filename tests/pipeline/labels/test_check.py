"""What `masklake labels check` calls wrong, and what it does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from masklake.pipeline.labels.check import problems
from masklake.pipeline.labels.masks import from_pixels
from masklake.pipeline.labels.sets import Instance, Keypoint

from tests.helpers.label_sets import HEIGHT, WIDTH, an_instance, label_set, rectangle

EMPTY = from_pixels(np.zeros((HEIGHT, WIDTH)))


def found_problems(
    *instances: Instance, classes: set[str] | None = None, **fields: object
) -> list[tuple[int, str]]:
    sets = [label_set("s3://p/a", *instances, **fields)]
    return [(problem_.instance, problem_.problem) for problem_ in problems(sets, classes)]


def test_good_labels_have_no_problems() -> None:
    edge = replace(an_instance("cat", mask=None), box=(-0.5, -0.5, WIDTH + 1, HEIGHT + 1))
    hidden = replace(
        an_instance("person", keypoints=True),
        keypoints=(Keypoint("a", WIDTH + 0.9, 0, 1), Keypoint("b", 0, 0, 0)),
    )
    assert (
        found_problems(an_instance("dog"), an_instance("dog", (0, 0, 4, 4)), an_instance("cat"), edge, hidden)
        == []
    )
    assert found_problems() == []
    assert found_problems(an_instance("dog", mask=None), classes={"dog"}) == []


@pytest.mark.parametrize(("instance", "problem"), [
    (an_instance(mask=EMPTY), "the mask is empty"),
    (an_instance(mask=rectangle(0, 0, 2, 2, width=10, height=20)), "the mask is 10×20, the image 64×48"),
    (replace(an_instance(), box=(1, 1, 0, 5)), "the box has no area"),
    (replace(an_instance(mask=None), box=(-2, 1, 5, 5)), "the box [-2, 1, 5, 5] leaves the 64×48 image"),
    (replace(an_instance(mask=None), box=(60, 40, 3, 9.5)), "the box [60, 40, 3, 9.5] leaves the 64×48 image"),
    (replace(an_instance(), box=(8, 4, 24, 16)), "the box [8, 4, 24, 16] is not around the mask, which lies in [8, 4, 16, 12]; it may be its corners, where x, y, width, height belong"),
    (replace(an_instance(), box=(16, 10, 16, 12)), "the box [16, 10, 16, 12] is not around the mask, which lies in [8, 4, 16, 12]; it may be its centre and size, where x, y, width, height belong"),
    (replace(an_instance(), box=(30, 4, 16, 12)), "the box [30, 4, 16, 12] is not around the mask, which lies in [8, 4, 16, 12]"),
    (replace(an_instance(mask=None), box=(0.125, 0.1, 0.25, 0.25)), "the box lies in the first pixel; is it in fractions of the image?"),
    (replace(an_instance(), keypoints=(Keypoint("a", 9, 9, 2), Keypoint("b", 70, 1, 1), Keypoint("c", 1, -9, 2))), "keypoints outside the image: b, c"),
])  # fmt: skip
def test_each_mistake_is_told(instance: Instance, problem: str) -> None:
    assert found_problems(an_instance("cat", (0, 0, 9, 9)), instance) == [(1, problem)]


def test_fractions_are_told_as_what_they_may_be() -> None:
    fractions = replace(an_instance(), box=(8 / WIDTH, 4 / HEIGHT, 16 / WIDTH, 12 / HEIGHT))
    first, second = (problem for _, problem in found_problems(fractions))
    assert first.endswith("it may be fractions of the image, where x, y, width, height belong")
    assert second.startswith("the box lies in the first pixel")
    centre = replace(an_instance(), box=(16 / WIDTH, 10 / HEIGHT, 16 / WIDTH, 12 / HEIGHT))
    assert "it may be fractions of the image, from its centre" in found_problems(centre)[0][1]


def test_instances_that_are_there_twice_are_told() -> None:
    box = an_instance("dog", mask=None)
    assert found_problems(an_instance("dog"), an_instance("cat"), an_instance("dog"), an_instance("dog")) == [
        (2, "is the same as instance 0"), (3, "is the same as instance 0"),
    ]  # fmt: skip
    assert found_problems(box, box) == [(1, "is the same as instance 0")]


def test_classes_that_the_model_does_not_know_are_told() -> None:
    assert found_problems(an_instance("dog"), an_instance("cat"), classes={"dog"}) == [
        (1, "the model has no such class")
    ]


def test_without_a_size_nothing_is_outside() -> None:
    assert (
        found_problems(replace(an_instance(mask=None), box=(900, 900, 5, 5)), width=None, height=None) == []
    )


def test_a_mask_may_be_a_part_of_its_box() -> None:
    """What could be seen of the object, or what a model was sure of; but not a small part."""
    assert found_problems(an_instance(mask=rectangle(16, 8, 8, 8))) == []
    assert "is not around the mask" in found_problems(an_instance(mask=rectangle(16, 8, 5, 5)))[0][1]
