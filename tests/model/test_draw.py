"""Instances drawn onto their image."""

from __future__ import annotations

import numpy as np
import pytest
from masklake.model.draw import contact_sheet, draw_instances
from PIL import Image

from tests.helpers.lakes import instance, rle

GREY = 90


def frame(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), GREY, np.uint8)


def changed(picture: Image.Image) -> np.ndarray:
    return (np.asarray(picture) != GREY).any(axis=2)


def test_a_mask_is_tinted_inside_and_only_inside_it() -> None:
    mask = rle(480, 640, (200, 100, 100, 200))
    row = instance("dog", 0.9, (200, 100, 300, 200), mask=mask)
    picture = np.asarray(draw_instances(frame(480, 640), [row]))
    inside, outside = picture[150:250, 220:280], picture[150:250, 320:480]
    assert (outside == GREY).all()
    tint = inside[0, 0]
    assert (inside == tint).all()
    assert (tint != GREY).any()
    # The contour is the full colour, that of the box's outline.
    assert (picture[200, 200] == picture[200, 499]).all()
    assert abs(picture[200, 200].astype(int) - GREY).sum() > abs(tint.astype(int) - GREY).sum()


def test_nothing_is_drawn_away_from_the_instance() -> None:
    row = instance("dog", 0.9, (300, 200, 40, 30), mask=rle(480, 640, (300, 200, 40, 30)))
    ys, xs = np.nonzero(changed(draw_instances(frame(480, 640), [row])))
    assert (xs.min(), xs.max()) >= (295, 340)
    assert xs.max() < 440  # the label's text is wider than the box
    assert ys.min() > 160
    assert ys.max() < 240


def test_instances_have_colours_of_their_own() -> None:
    boxes = [(20 + 100 * i, 100, 60, 60) for i in range(6)]
    rows = [instance("dog", 0.9, box, mask=rle(480, 640, box)) for box in boxes]
    picture = np.asarray(draw_instances(frame(480, 640), rows))
    tints = {tuple(picture[130, x + 30]) for x, *_ in boxes}
    assert len(tints) == 6


def test_a_small_instance_lies_above_a_large_one() -> None:
    large = instance("dog", 0.9, (100, 100, 400, 300), mask=rle(480, 640, (100, 100, 400, 300)))
    small = instance("cat", 0.2, (250, 200, 60, 60), mask=rle(480, 640, (250, 200, 60, 60)))
    first = np.asarray(draw_instances(frame(480, 640), [large, small]))
    alone = np.asarray(draw_instances(frame(480, 640), [large]))
    contour = first[230, 250]
    assert (contour != alone[230, 250]).any()
    assert (contour == first[230, 309]).all()


@pytest.mark.parametrize(("certainty", "drawn"), [({"score": 2.0}, True), ({"score": -2.0}, False),
                                              ({"visibility": 1}, True), ({"visibility": 0}, False)])  # fmt: skip
def test_keypoints_and_limbs_are_drawn_where_they_are_seen(certainty: dict[str, float], drawn: bool) -> None:
    keypoints = [
        {"name": "a", "x": 250.0, "y": 250.0, **certainty},
        {"name": "b", "x": 350.0, "y": 300.0, **certainty},
    ]
    row = instance("person", 0.9, (200, 200, 200, 200), mask=None, keypoints=keypoints)
    picture = draw_instances(frame(480, 640), [row], skeleton=[(0, 1)])
    pixels = np.asarray(picture)
    assert (pixels[250, 250] == 255).all() == drawn
    assert (pixels[300, 350] == 255).all() == drawn
    assert changed(picture)[275, 300] == drawn  # half way along the limb


def test_a_limb_with_an_unseen_end_is_left_out() -> None:
    keypoints = [
        {"name": "a", "x": 250.0, "y": 250.0, "score": 2.0},
        {"name": "b", "x": 350.0, "y": 300.0, "score": -1.0},
    ]
    row = instance("person", 0.9, (200, 200, 200, 200), mask=None, keypoints=keypoints)
    assert not changed(draw_instances(frame(480, 640), [row], skeleton=[(0, 1)]))[275, 300]


@pytest.mark.parametrize(
    ("original", "size"),
    [((48, 64), (640, 480)), ((64, 48), (480, 640)), ((480, 640), (640, 480)), ((900, 1600), (1600, 900)), ((1, 1), (640, 640))],
)  # fmt: skip
def test_small_images_are_enlarged_so_that_labels_read(
    original: tuple[int, int], size: tuple[int, int]
) -> None:
    row = instance("dog", 0.9, (0, 0, 1, 1), mask=rle(*original, (0, 0, 1, 1)))
    assert draw_instances(frame(*original), [row]).size == size


def test_masks_are_drawn_at_the_scale_of_the_picture() -> None:
    """A diagonal edge of a small mask has no steps of the mask's own pixels: along it the tint begins evenly."""
    from pycocotools import mask

    half = np.asfortranarray(np.tri(40, 40, dtype=np.uint8))
    encoded = mask.encode(half)
    row = {"label": "dog", "x": 0.0, "y": 0.0, "w": 0.0, "h": 0.0,
           "mask": {"size": [40, 40], "counts": encoded["counts"].decode()}}  # fmt: skip
    picture = draw_instances(frame(40, 40), [row], side=1600)
    assert picture.size == (1600, 1600)
    tinted = changed(picture)
    width = tinted[400:1200].sum(1)  # of the triangle, line by line
    steps = np.diff(width)
    assert steps.min() >= 0
    assert steps.max() <= 4, "at 40 times its size a step of the mask would be 40 pixels"


def test_lines_and_labels_grow_with_the_image() -> None:
    def share(side: int) -> float:
        box = (side // 4, side // 4, side // 2, side // 2)
        row = instance("dog", 0.9, box, mask=None)
        return float(changed(draw_instances(frame(side, side), [row])).mean())

    assert share(3000) == pytest.approx(share(750), rel=0.35)


def test_labels_stay_in_the_picture_and_off_each_other() -> None:
    boxes = [(-20, -10, 80, 60), (0, 0, 70, 50), (600, 0, 90, 40), (0, 470, 50, 40)]
    rows = [instance("potted plant", 0.5 + i / 10, box, mask=None) for i, box in enumerate(boxes)]
    picture = draw_instances(frame(480, 640), rows)
    assert picture.size == (640, 480)
    colours, pixels = np.unique(np.asarray(picture)[changed(picture)], axis=0, return_counts=True)
    backgrounds = colours[pixels > 500]
    assert len(backgrounds) == 4


@pytest.mark.parametrize("label", ["\x1b[31mred\n\u202e", "ü" * 500, ""])
def test_any_label_can_be_drawn(label: str) -> None:
    row = instance("dog", 0.9, mask=None) | {"label": label}
    assert changed(draw_instances(frame(48, 64), [row])).any()


def test_rows_need_no_score_mask_or_keypoints() -> None:
    row = {"label": "dog", "x": 10.0, "y": 10.0, "w": 20.0, "h": 10.0}
    assert changed(draw_instances(frame(48, 64), [row])).any()
    assert not changed(draw_instances(frame(48, 64), [])).any()


def test_an_empty_mask_draws_only_the_box() -> None:
    row = instance("dog", 0.9, (100, 100, 200, 200), mask=rle(480, 640, (0, 0, 0, 0)))
    assert (np.asarray(draw_instances(frame(480, 640), [row]))[150:250, 150:250] == GREY).all()


def test_a_mask_of_another_size_is_refused() -> None:
    row = instance("dog", 0.9, mask=rle(48, 64, (0, 0, 5, 5)))
    with pytest.raises(ValueError, match=r"mask is for \[48, 64\].* image has \[64, 48\]"):
        draw_instances(frame(64, 48), [row])


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)]
)
def test_other_images_are_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8"):
        draw_instances(image, [])


def test_a_contact_sheet_holds_every_picture_whole() -> None:
    colours = ["red", "lime", "blue"]
    pictures = [
        Image.new("RGB", size, c) for size, c in zip([(100, 50), (50, 100), (10, 10)], colours, strict=True)
    ]
    sheet = contact_sheet(pictures, columns=2, cell=(200, 200))
    pixels = np.asarray(sheet)
    for picture, colour in zip(pictures, [(255, 0, 0), (0, 255, 0), (0, 0, 255)], strict=True):
        ys, xs = np.nonzero((pixels == colour).all(axis=2))
        assert (xs.max() - xs.min() + 1) * picture.height == (ys.max() - ys.min() + 1) * picture.width
        assert max(xs.max() - xs.min(), ys.max() - ys.min()) + 1 == 200
    with pytest.raises(ValueError, match="no pictures"):
        contact_sheet([])
