"""Mask probabilities and boxes to COCO RLE, without ever making a full frame. Free of torch.

`encode_masks` gives, byte for byte, what torchvision's `paste_masks_in_image(...) > 0.5` (roi_heads.py) and
pycocotools' `mask.encode` give together. Those two touch every pixel of the frame for every instance. Here the
cost follows the width of the box: `model.masks.crossings` finds where the runs change, by division, down each column.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from masklake.model.boxes import as_xywh
from masklake.model.errors import ModelError
from masklake.model.masks.crossings import find_changes
from masklake.model.masks.pasted import Ints, crop
from masklake.model.masks.rle_text import Rle, compress
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

_AREAS_AT_ONCE = 255
"""pycocotools' area keeps their number in a uint8, for which NumPy 2 raises OverflowError."""


def encode_masks(probs: NDArray[Any], boxes: NDArray[Any], size: tuple[int, int]) -> list[Rle]:
    """COCO RLE of the masks where they exceed 0.5, pasted into their boxes.

    probs: (N, M, M) float32 mask probabilities over the box; M is 28 for Mask R-CNN.
    boxes: (N, 4) float32, x1 y1 x2 y2 in pixels of the frame. Parts outside the frame are cut off.
    size: height and width of the frame, pixels.

    Equal to torchvision's paste and pycocotools' encode on processors where torch has fused multiply-add
    (`torch.backends.cpu.get_cpu_capability()` AVX2 or AVX512), in the order of operations of torch 2.15; on others, and
    in torch 2.11, pixels within 1e-6 of 0.5 can differ.
    Boxes wholly outside the frame give empty masks; torchvision's paste raises for some of them.
    Raises ModelError for shapes that do not fit, a frame without pixels, and values that are not finite.
    """
    probs_RMM = np.asarray(probs, dtype=np.float32)
    boxes_R4 = np.asarray(boxes, dtype=np.float32)
    height, width = (int(v) for v in size)
    if probs_RMM.ndim != 3 or probs_RMM.shape[1] != probs_RMM.shape[2] or not probs_RMM.shape[1]:
        raise ModelError(f"masks have shape {probs_RMM.shape}, not (N, M, M)")
    if boxes_R4.shape != (len(probs_RMM), 4):
        raise ModelError(f"boxes have shape {boxes_R4.shape}, not ({len(probs_RMM)}, 4) as the masks need")
    if height < 1 or width < 1:
        raise ModelError(f"a frame of {height} x {width} pixels has no pixel")
    if not np.isfinite(boxes_R4).all() or not np.isfinite(probs_RMM).all():
        raise ModelError("masks or boxes have values that are not finite")
    if not len(probs_RMM):
        return []
    n, side = probs_RMM.shape[:2]
    grid = np.zeros((n, side + 2, side + 2), np.float32)
    grid[:, 1:-1, 1:-1] = probs_RMM.transpose(0, 2, 1)
    changes = find_changes(grid, crop(boxes_R4, side, height, width), (height, width))
    return compress(changes, n, height, width)


def rectangles(boxes: NDArray[Any], size: tuple[int, int]) -> list[Rle]:
    """COCO RLE of whole boxes: (N, 4), x1 y1 x2 y2 in pixels of a frame of `size` (height, width), rounded to pixels.

    A mask of ones that is pasted into a box (`encode_masks`) has its corners rounded.
    """
    boxes_R4 = np.asarray(boxes, np.float64).reshape(-1, 4)
    if not len(boxes_R4):
        return []
    return list(coco_mask.frPyObjects(as_xywh(boxes_R4), *size))


def decode(rles: Sequence[Rle]) -> NDArray[np.uint8]:
    """(N, H, W) uint8 masks, 0 or 1, of N RLEs of one size; (0, 0, 0) for none."""
    if not rles:
        return np.zeros((0, 0, 0), np.uint8)
    return np.ascontiguousarray(coco_mask.decode(list(rles)).transpose(2, 0, 1))


def area(rles: Sequence[Rle]) -> Ints:
    """(N,) pixels in each mask."""
    parts = [
        coco_mask.area(list(rles[start : start + _AREAS_AT_ONCE]))
        for start in range(0, len(rles), _AREAS_AT_ONCE)
    ]
    return np.concatenate([np.empty(0, np.int64), *parts]).astype(np.int64)


def to_bbox(rles: Sequence[Rle]) -> NDArray[np.float64]:
    """(N, 4) x, y, width, height in pixels of the smallest box around each mask."""
    return np.asarray(coco_mask.toBbox(list(rles)), dtype=np.float64).reshape(-1, 4)


def iou(
    left: Sequence[Rle], right: Sequence[Rle], crowd: Sequence[bool] | None = None
) -> NDArray[np.float64]:
    """(N, M) mask IoU of N RLEs against M; against a crowd, the share of the left mask that lies in it (COCO)."""
    if not left or not right:
        return np.zeros((len(left), len(right)))
    flags = [bool(c) for c in crowd] if crowd is not None else [False] * len(right)
    return np.asarray(coco_mask.iou(list(left), list(right), flags))
