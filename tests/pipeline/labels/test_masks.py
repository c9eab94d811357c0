"""Masks from files: as pycocotools would make them, and refused where pycocotools would not look."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from masklake.pipeline.labels.masks import from_counts, from_pixels, from_polygons, to_pixels
from pycocotools import mask as coco_mask

sizes = st.tuples(st.integers(1, 50), st.integers(1, 50))


def pixels(size: tuple[int, int], share: float, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random(size) < share).astype(np.uint8)


@settings(max_examples=150, deadline=None)
@given(sizes, st.sampled_from([0, 0.02, 0.5, 1]), st.integers(0, 2**32 - 1))
def test_rle_stays_as_pycocotools_writes_it(size: tuple[int, int], share: float, seed: int) -> None:
    drawn = pixels(size, share, seed)
    text = coco_mask.encode(np.asfortranarray(drawn))["counts"].decode()
    mask_ = from_counts(text, size, *size)
    assert mask_.counts == text == from_pixels(drawn).counts
    assert (to_pixels(mask_) == drawn).all()
    assert mask_.area == drawn.sum()
    flat = drawn.ravel(order="F")
    runs = _runs(flat)
    assert from_counts(runs, size, *size) == mask_


def _runs(flat: np.ndarray) -> list[int]:
    """COCO's uncompressed counts, the slow way."""
    runs, value = [0], 0
    for pixel in flat.tolist():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


def test_runs_of_no_pixels_do_not_make_another_mask() -> None:
    assert from_counts([0, 0, 3, 0, 4, 9, 0], [4, 4], 4, 4) == from_counts([7, 9], [4, 4], 4, 4)
    assert from_counts([16, 0], [4, 4], 4, 4) == from_counts([16], [4, 4], 4, 4)


def test_polygons_are_rasterised_together() -> None:
    triangle, square = [1, 1, 9, 1, 1, 9], [20.5, 4, 30, 4, 30, 12.25, 20.5, 12.25]
    merged = coco_mask.merge(coco_mask.frPyObjects([triangle, square], 24, 40))
    assert from_polygons([triangle, square], 24, 40).counts == merged["counts"].decode()


@pytest.mark.parametrize(("counts", "size", "problem"), [
    ([4, 4], [4, 2], "the RLE's size is [4, 2], and the image is 4 high and 4 wide"),
    ([4, 4], [4, 4], "covers 8 pixels, and its 4×4 frame has 16"),
    ([20, -4], [4, 4], "negative"),
    ([10**12], [4, 4], "longer than any image"),
    ([], [4, 4], "covers 0 pixels"),
    ("", [4, 4], "not COCO's compressed text"),
    ("0`", [4, 4], "not COCO's compressed text"),
    ("ü", [4, 4], "not COCO's compressed text"),
    ("zzzz", [4, 4], "not COCO's compressed text"),
    ("o" * 40 + "0", [4, 4], "longer than any image"),
    ("0P1", [4, 4], "covers"),
])  # fmt: skip
def test_a_broken_rle_is_refused(counts: str | list[int], size: list[int], problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        from_counts(counts, size, 4, 4)


@pytest.mark.parametrize(("polygon", "problem"), [
    ([1, 1, 2, 2], "has 2 points; it needs at least 3"),
    ([1, 1, 2, 2, 3], "has 5 coordinates"),
    ([], "has 0 points"),
    ([0, 0, 1e9, 0, 0, 1], "far outside"),
    ([0, 0, float("nan"), 0, 0, 1], "far outside"),
])  # fmt: skip
def test_a_polygon_that_is_none_is_refused(polygon: list[float], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        from_polygons([polygon], 10, 10)


def test_impossible_frames_are_refused() -> None:
    for height, width in ((0, 5), (5, 0), (100_000, 100_000)):
        with pytest.raises(ValueError, match="is not possible"):
            from_polygons([[0, 0, 1, 0, 1, 1]], height, width)
