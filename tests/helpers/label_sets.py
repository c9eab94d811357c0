"""Label sets for tests: by hand, and any at all for hypothesis."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from masklake.pipeline.labels.masks import LabelMask, from_pixels
from masklake.pipeline.labels.sets import Instance, Keypoint, LabelSet

WIDTH, HEIGHT = 64, 48
KEYPOINTS = ("nose", "left_eye", "right_eye")
_IDS = {"person": 1, "dog": 18, "cat": 17}


def rectangle(x: int, y: int, w: int, h: int, *, width: int = WIDTH, height: int = HEIGHT) -> LabelMask:
    """The mask of a filled rectangle."""
    pixels = np.zeros((height, width), np.uint8)
    pixels[y : y + h, x : x + w] = 1
    return from_pixels(pixels)


def an_instance(
    label: str = "dog",
    box: tuple[int, int, int, int] = (8, 4, 16, 12),
    *,
    keypoints: bool = False,
    **fields: Any,
) -> Instance:
    """A rectangle in a 64×48 image; with `keypoints` a visible, a hidden and an unlabelled one."""
    x, y, _, _ = box
    instance = Instance(
        label=label,
        label_id=_IDS[label],
        box=box,
        mask=rectangle(*box),
        keypoints=tuple(Keypoint(name, x + 1.25, y + 2.5, 2 - i) for i, name in enumerate(KEYPOINTS))
        if keypoints
        else (),
    )
    return replace(instance, **fields)


def label_set(uri: str, *instances: Instance, iscrowd: bool = False, **fields: Any) -> LabelSet:
    """A label set of a 64×48 image; with `iscrowd` its last instance is a crowd."""
    labelled = list(instances)
    if iscrowd:
        labelled[-1] = replace(labelled[-1], iscrowd=True)
    base = LabelSet(
        uri=uri, width=WIDTH, height=HEIGHT, instances=tuple(labelled), source="import", split="train"
    )
    return replace(base, **fields)


_coordinates = st.floats(-100, 1000, width=32)
_sizes = st.floats(0, 1000, width=32)
# Everything that JSON and Parquet can hold, hostile or not.
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@st.composite
def label_sets(draw: st.DrawFn) -> list[LabelSet]:
    """Label sets as a lake holds them: one id per class, one list of keypoints per class, sorted by uri."""
    classes = draw(
        st.dictionaries(texts, st.integers(1, 2**31 - 1), min_size=1, max_size=4).filter(
            lambda d: len(set(d.values())) == len(d)
        )
    )
    keypoints = {name: tuple(draw(st.lists(texts, unique=True, max_size=4))) for name in classes}
    uris = sorted(draw(st.sets(st.builds("s3://{}/{}".format, st.sampled_from("ab"), texts), max_size=4)))
    return [
        LabelSet(
            uri=uri,
            width=(size := draw(st.tuples(st.integers(1, 40), st.integers(1, 40))))[0],
            height=size[1],
            instances=tuple(
                _instance(draw, classes, keypoints, *size) for _ in range(draw(st.integers(0, 3)))
            ),
            source=draw(texts),
            absent=draw(st.none() | st.lists(texts, unique=True, max_size=3).map(tuple)),
            not_exhaustive=tuple(draw(st.lists(texts, unique=True, max_size=2))),
            split=draw(st.sampled_from(["train", "val"])),
        )
        for uri in uris
    ]


def _instance(
    draw: st.DrawFn, classes: dict[str, int], keypoints: dict[str, tuple[str, ...]], width: int, height: int
) -> Instance:
    label = draw(st.sampled_from(sorted(classes)))
    mask = None
    if draw(st.booleans()):
        chance = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        mask = from_pixels(chance.random((height, width)) < draw(st.sampled_from([0, 0.05, 0.5, 1])))
    return Instance(
        label=label,
        label_id=classes[label],
        box=draw(st.tuples(_coordinates, _coordinates, _sizes, _sizes)),
        mask=mask,
        keypoints=tuple(
            Keypoint(name, draw(_coordinates), draw(_coordinates), draw(st.integers(0, 2)))
            for name in keypoints[label]
        ),
        iscrowd=draw(st.booleans()),
        ignore=draw(st.booleans()),
        given_area=draw(st.none() | st.floats(1e-3, 2**31 - 1)),
        num_keypoints=draw(st.none() | st.integers(0, 2**31 - 1)),
    )
