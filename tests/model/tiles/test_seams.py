"""Merging what tiles saw: a thing inside another of its class stays, wherever a tile has shown the two apart."""

import numpy as np
import pytest
from masklake.model.masks.rle import encode_masks
from masklake.model.tiles.seams import Sightings, merge
from masklake.model.tiles.tiling import Tiling

TILING = Tiling(size=128, overlap=63, above=0)
SIZE = (128, 193)
"""Two tiles: columns 0 to 127, and 65 to 192."""
LARGE, SMALL = (70, 20, 120, 110), (80, 40, 100, 60)
"""x1 y1 x2 y2, both whole in both tiles; masks fill their boxes, so that the small one lies in the large one."""


def seen(*sightings: tuple[tuple[int, ...], float, int, int]) -> Sightings:
    """Box, score, view and class of each."""
    boxes = np.asarray([box for box, *_ in sightings], np.float32)
    return Sightings(
        boxes=boxes,
        labels=np.asarray([label for *_, label in sightings], np.int32),
        scores=np.asarray([score for _, score, *_ in sightings], np.float32),
        rles=encode_masks(np.ones((len(boxes), 1, 1)), boxes, SIZE),
        keypoints=None,
        views=np.asarray([view for *_, view, _ in sightings]),
        masked=True,
    )


def left(*sightings: tuple[tuple[int, ...], float, int, int]) -> list[tuple[int, ...]]:
    merged = merge(seen(*sightings), TILING.views(*SIZE), TILING, SIZE)
    return sorted(tuple(int(v) for v in box) for box in merged.boxes)


@pytest.mark.parametrize("scores", [(0.9, 0.8), (0.8, 0.9)])
def test_one_view_shows_a_thing_inside_another_of_its_class(scores: tuple[float, float]) -> None:
    assert left((LARGE, scores[0], 0, 1), (SMALL, scores[1], 0, 1)) == [LARGE, SMALL]


@pytest.mark.parametrize(
    "scores", [(0.9, 0.8, 0.7, 0.6), (0.6, 0.7, 0.8, 0.9), (0.7, 0.9, 0.6, 0.8), (0.6, 0.8, 0.9, 0.7)]
)
def test_two_views_show_both(scores: tuple[float, ...]) -> None:
    a, b, c, d = scores
    assert left((LARGE, a, 0, 1), (SMALL, b, 0, 1), (LARGE, c, 1, 1), (SMALL, d, 1, 1)) == [LARGE, SMALL]


def test_the_inner_one_is_shown_by_one_view_only() -> None:
    assert left((LARGE, 0.9, 0, 1), (LARGE, 0.8, 1, 1), (SMALL, 0.7, 1, 1)) == [LARGE, SMALL]


def test_a_part_that_another_view_took_for_the_whole_still_goes() -> None:
    assert left((LARGE, 0.9, 0, 1), (SMALL, 0.7, 1, 1)) == [LARGE]


def test_classes_and_doubles_are_as_before() -> None:
    assert left((LARGE, 0.9, 0, 1), (LARGE, 0.8, 1, 1)) == [LARGE]
    assert left((LARGE, 0.9, 0, 1), (SMALL, 0.8, 0, 2)) == [LARGE, SMALL]
