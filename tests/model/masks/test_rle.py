"""RLE against torchvision's paste and pycocotools' encode, byte for byte."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from masklake.model.errors import ModelError
from masklake.model.masks import rle
from masklake.model.masks.rle_text import Rle
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torchvision.models.detection.roi_heads import paste_masks_in_image

FUSED = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
needs_fused = pytest.mark.skipif(not FUSED, reason="torch rounds otherwise on processors without AVX2")


def reference(probs: NDArray[np.float32], boxes: NDArray[np.float32], size: tuple[int, int]) -> list[Rle]:
    rles = []
    for prob, box in zip(probs, boxes, strict=True):
        try:
            pasted = paste_masks_in_image(
                torch.from_numpy(prob)[None, None], torch.from_numpy(box)[None], size
            )
        except RuntimeError:  # what torchvision does with some boxes outside the frame
            pasted = torch.zeros(1, 1, *size)
        mask = (pasted[0, 0] > 0.5).numpy().astype(np.uint8)
        rles.append(coco_mask.encode(np.asfortranarray(mask)))
    return rles


def same(probs: NDArray[np.float32], boxes: NDArray[np.float32], size: tuple[int, int]) -> None:
    ours, theirs = rle.encode_masks(probs, boxes, size), reference(probs, boxes, size)
    assert len(ours) == len(theirs) == len(probs)
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert a["size"] == list(b["size"])
        assert a["counts"] == b["counts"], f"instance {i}, box {boxes[i].tolist()}, frame {size}"


def grids(rng: np.random.Generator, kind: str, n: int, side: int = 28) -> NDArray[np.float32]:
    """(n, side, side) mask probabilities: as a head gives them, and the worst that can come."""
    y, x = np.mgrid[:side, :side] / side
    masks = []
    for _ in range(n):
        if kind == "blob":
            middle, radius = rng.uniform(0.3, 0.7, 2), rng.uniform(0.2, 0.6, 2)
            logit = 6 * (1 - ((x - middle[0]) / radius[0]) ** 2 - ((y - middle[1]) / radius[1]) ** 2)
            masks.append(1 / (1 + np.exp(-logit - rng.normal(0, 0.5, (side, side)))))
        elif kind == "noise":
            masks.append(rng.random((side, side)))
        elif kind == "flat":
            masks.append(np.full((side, side), rng.choice([0, 0.5, 1, 0.50000006, 0.49999997])))
        elif kind == "steps":
            masks.append(rng.choice([0, 0.5, 1], (side, side)))
        elif kind == "half":
            masks.append(rng.random((side, side)).astype(np.float16))
        else:  # all within rounding of the threshold
            masks.append(0.5 + rng.normal(0, 1, (side, side)) * 10.0 ** rng.uniform(-8, -2))
    return np.asarray(masks, np.float32)


@needs_fused
@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["blob", "noise", "flat", "steps", "half", "near"]),
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    scale=st.floats(0.003, 3),
    rounding=st.sampled_from(["none", "whole", "clipped"]),
    side=st.sampled_from([28, 28, 28, 1, 7, 56]),
)
def test_equals_paste_and_encode(
    seed: int, kind: str, height: int, width: int, scale: float, rounding: str, side: int
) -> None:
    rng = np.random.default_rng(seed)
    frame = np.array([width, height])
    middle = rng.uniform(-0.2, 1.2, (4, 2)) * frame
    reach = rng.uniform(0.3, 1, (4, 2)) * frame * scale / 2
    boxes = np.concatenate([middle - reach, middle + reach], 1)
    if rounding != "none":
        boxes = np.round(boxes)
    if rounding == "clipped":
        boxes = np.clip(boxes, 0, np.tile(frame, 2))
    same(grids(rng, kind, 4, side), boxes.astype(np.float32), (height, width))


@needs_fused
@pytest.mark.parametrize(
    ("box", "size"),
    [
        ([0, 0, 640, 480], (480, 640)),  # the full frame
        ([0, 0, 1, 1], (1, 1)),  # a frame of one pixel
        ([10, 10, 10, 10], (50, 50)),  # no area
        ([10, 10, 10, 40], (50, 50)),
        ([20, 20, 10, 10], (50, 50)),  # the wrong way round
        ([40, 40, 50, 50], (50, 50)),  # in the last corner
        ([-30, -30, 90, 90], (50, 50)),  # larger than the frame
        ([-30, 10, 10, 20], (50, 50)),
        ([60, 60, 61, 61], (50, 50)),  # outside
        ([-500, 0, -400, 20], (50, 50)),
        ([600, 0, 900, 20], (50, 50)),
        ([0, 0, 5, 4000], (4000, 7)),  # cells of 133 rows
        ([0, 0, 4000, 3], (4, 4000)),
        ([3, 3, 66, 66], (70, 70)),  # 64 + 64 pixels and 65 + 64: torch's two routes
        ([3, 3, 67, 66], (70, 70)),
    ],
)
@pytest.mark.parametrize("kind", ["blob", "noise", "flat", "steps", "near"])
def test_edges(box: list[float], size: tuple[int, int], kind: str) -> None:
    probs = grids(np.random.default_rng(3), kind, 6)
    same(probs, np.asarray([box] * 6, np.float32), size)


@needs_fused
def test_many_instances_of_a_large_frame() -> None:
    rng = np.random.default_rng(5)
    size = (1080, 1920)
    side = np.exp(rng.uniform(np.log(0.02), np.log(0.6), (60, 2))) * size[::-1]
    corner = rng.uniform(0, 1, (60, 2)) * (np.asarray(size[::-1]) - side)
    boxes = np.concatenate([corner, corner + side], 1).astype(np.float32)
    same(grids(rng, "blob", 60), boxes, size)


def test_frames_too_large_for_32_bits() -> None:
    """Places of the last instances are beyond 2**31; the masks are those of a small frame."""
    rng = np.random.default_rng(6)
    low, high = np.sort(rng.uniform(-30, 1500, (2, 8, 2)), axis=0)
    probs, boxes = grids(rng, "blob", 8), np.concatenate([low, high], 1).astype(np.float32)
    large, small = (rle.encode_masks(probs, boxes, size) for size in ((20000, 30000), (1600, 1600)))
    assert rle.area(large).tolist() == rle.area(small).tolist()
    assert rle.to_bbox(large).tolist() == rle.to_bbox(small).tolist()


@pytest.mark.slow
@needs_fused
@pytest.mark.parametrize("kind", ["blob", "noise", "near", "half"])
def test_a_hundred_million_pixels(kind: str) -> None:
    rng = np.random.default_rng(11)
    pixels = 0
    while pixels < 10**8:
        size = (int(rng.integers(200, 2000)), int(rng.integers(200, 2000)))
        low, high = np.sort(rng.uniform(-0.05, 1.05, (2, 8, 2)), axis=0) * size[::-1]
        boxes = np.concatenate([low, high], 1).astype(np.float32)
        same(grids(rng, kind, 8), boxes, size)
        inside = np.clip(boxes, 0, [size[1], size[0]] * 2)
        pixels += int(((inside[:, 2] - inside[:, 0]) * (inside[:, 3] - inside[:, 1])).sum())


def test_decode_area_box_and_iou() -> None:
    probs = np.ones((2, 28, 28), np.float32)
    boxes = np.asarray([[10, 20, 39, 49], [10, 20, 39, 49]], np.float32)
    rles = rle.encode_masks(probs, boxes, (60, 80))
    masks = rle.decode(rles)
    assert masks.shape == (2, 60, 80)
    assert rle.area(rles).tolist() == masks.sum((1, 2)).tolist()
    x, y, w, h = rle.to_bbox(rles)[0].tolist()
    rows, columns = np.flatnonzero(masks[0].any(1)), np.flatnonzero(masks[0].any(0))
    assert (x, y) == (columns[0], rows[0])
    assert (x + w - 1, y + h - 1) == (columns[-1], rows[-1])
    assert rle.iou(rles[:1], rles).tolist() == [[1.0, 1.0]]
    # A crowd divides by the left mask's own area.
    whole = coco_mask.encode(np.asfortranarray(np.ones((60, 80), np.uint8)))
    assert rle.iou(rles[:1], [whole], [True]).tolist() == [[1.0]]
    assert rle.iou(rles[:1], [whole])[0, 0] == pytest.approx(masks[0].sum() / 4800)


def test_rectangles() -> None:
    boxes = [
        [0, 0, 30, 20],
        [3, 4, 7, 9],
        [2.4, 3.6, 5.6, 6.4],
        [29, 19, 30, 20],
        [5, 5, 5, 9],
        [-3, -2, 4, 3],
    ]
    expected = np.zeros((len(boxes), 20, 30), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(expected, np.rint(boxes).astype(int).clip(0), strict=True):
        mask[y1:y2, x1:x2] = 1
    np.testing.assert_array_equal(rle.decode(rle.rectangles(np.asarray(boxes), (20, 30))), expected)
    assert rle.rectangles(np.empty((0, 4)), (20, 30)) == []


def test_nothing_in_nothing_out() -> None:
    assert rle.encode_masks(np.zeros((0, 28, 28)), np.zeros((0, 4)), (10, 10)) == []
    assert rle.decode([]).shape == (0, 0, 0)
    assert rle.area([]).shape == (0,)
    assert rle.to_bbox([]).shape == (0, 4)
    assert rle.iou([], []).shape == (0, 0)


@pytest.mark.parametrize(
    ("probs", "boxes", "size", "message"),
    [
        (np.zeros((2, 28, 27)), np.zeros((2, 4)), (5, 5), r"\(N, M, M\)"),
        (np.zeros((2, 28, 28)), np.zeros((3, 4)), (5, 5), r"not \(2, 4\)"),
        (np.zeros((2, 28, 28)), np.zeros((2, 4)), (0, 5), "no pixel"),
        (np.full((1, 28, 28), np.nan), np.zeros((1, 4)), (5, 5), "not finite"),
        (np.zeros((1, 28, 28)), np.full((1, 4), np.inf), (5, 5), "not finite"),
    ],
)
def test_bad_input_is_named(
    probs: NDArray[np.float64], boxes: NDArray[np.float64], size: tuple[int, int], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        rle.encode_masks(probs, boxes, size)


def test_it_needs_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, masklake.model.masks.rle; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
