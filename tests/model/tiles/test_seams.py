"""Merging what tiles saw: a thing inside another of its class stays, wherever a tile has shown the two apart."""

from dataclasses import replace

import numpy as np
import pytest
from masklake.model.masks.rle import rectangles
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
        rles=rectangles(boxes, SIZE),
        keypoints=None,
        views=np.asarray([view for *_, view, _ in sightings]),
        small=np.zeros(len(boxes), bool),
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


def test_masks_agree_where_boxes_do_not() -> None:
    """One view's: its boxes, of which NMS has left both, have an IoU of 0.3; the masks in them are the same."""
    boxes = [(66, 2, 126, 120), (70, 40, 110, 100)]
    sightings = seen((boxes[0], 0.9, 0, 1), (boxes[1], 0.8, 0, 1))
    masks = rectangles(np.asarray([boxes[1]] * 2), SIZE)
    merged = merge(replace(sightings, rles=masks), TILING.views(*SIZE), TILING, SIZE)
    assert merged.boxes.tolist() == [list(boxes[0])]


def test_boxes_of_one_view_that_its_nms_has_left_stay() -> None:
    """The network's own threshold may be another than 0.5."""
    inner = (70, 20, 115, 105)
    assert left((LARGE, 0.9, 0, 1), (inner, 0.8, 0, 1)) == [inner, LARGE]
    assert left((LARGE, 0.9, 0, 1), (inner, 0.8, 1, 1)) == [LARGE]


def test_one_that_its_view_has_cut_unknown_to_the_network() -> None:
    """The first tile shows half of the thing, and the network ends it before the border, badly outlined."""
    thing, half = (60, 30, 180, 100), (70, 5, 122, 125)
    assert left((thing, 0.9, 2, 1), (half, 0.8, 0, 1)) == [thing]
    assert left((thing, 0.9, 2, 1), (half, 0.8, 0, 2)) == [thing, half]
    assert left((thing, 0.8, 2, 1), (half, 0.9, 0, 1)) == [thing, half], "never the larger one for its part"
