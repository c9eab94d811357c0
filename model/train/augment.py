"""From a photo and its labels to an example: mirrored, scaled, its colours changed; the labels are moved with it.

torchvision.transforms.v2 moves pixels, boxes and keypoints together. Masks are moved by the same rule, but only inside
their boxes: an instance's mask is a crop, and no mask of the whole frame is ever made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from masklake.model.spec import Preprocessing
from masklake.model.train.colour import ColourChange
from masklake.model.train.examples import Example
from masklake.model.train.recipe import Recipe
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2


@dataclass(frozen=True, kw_only=True)
class ImageLabels:
    """The labels of an image, pixels of its original frame of `width` × `height`.

    boxes: float32 (G, 4) xyxy. outputs: (G,) as in Example. masks: COCO RLE of the whole frame, or None.
    keypoints: float32 (G, K, 3) x, y, visibility. crowds: float32 (B, 4) xyxy. unsearched: as in Example.
    """

    width: int
    height: int
    boxes: NDArray[np.float32]
    outputs: Sequence[int]
    masks: Sequence[dict[str, Any] | None]
    keypoints: NDArray[np.float32]
    crowds: NDArray[np.float32]
    unsearched: Sequence[int] = ()


class Augment:
    """Makes examples as `recipe` and `preprocessing` say.

    mirror: for each keypoint the position of its counterpart in a mirrored image (`ModelSpec.mirror`); with None
    nothing is mirrored.
    """

    def __init__(self, recipe: Recipe, preprocessing: Preprocessing, mirror: Sequence[int] | None) -> None:
        self._recipe, self._input = recipe, preprocessing
        self._mirror = mirror
        self._colour = ColourChange(recipe.colour) if recipe.colour else None

    def __call__(self, pixels: NDArray[np.uint8], truth: ImageLabels, seed: int) -> Example:
        """The example of `pixels`, uint8 (h, w, 3) RGB: the frame, or the frame decoded at a fraction of its size.

        The same seed gives the same example.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            flip = bool(torch.rand(()) < self._recipe.flip) and self._mirror is not None
            low, high = self._recipe.jitter
            factor = low + (high - low) * float(torch.rand(()))
            image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
            height, width = self._size(image.shape[-2:], factor)
            image = v2.functional.resize(image, [height, width], antialias=True)
            if self._colour is not None:
                image = self._colour(image)
        if flip:
            image = v2.functional.horizontal_flip(image)
        return self._moved(image, truth, flip)

    def _size(self, size: Sequence[int], factor: float) -> tuple[int, int]:
        """The network's input for an image: as torchvision's resize, with its sizes times `factor`."""
        short, long = min(size), max(size)
        scale = factor * min(self._input.min_size / short, self._input.max_size / long)
        return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))

    def _moved(self, image: Tensor, truth: ImageLabels, flip: bool) -> Example:
        height, width = image.shape[-2:]
        frame = (truth.height, truth.width)
        boxes_G4 = self._boxes(truth.boxes, frame, (height, width), flip)
        sides_G2 = boxes_G4[:, 2:] - boxes_G4[:, :2]
        kept = torch.where((sides_G2 >= self._recipe.min_box).all(1))[0].tolist()
        moved = [_moved_mask(truth.masks[g], (height, width), flip) for g in kept]
        return Example(
            image=image.contiguous(),
            boxes=boxes_G4[kept],
            outputs=torch.tensor([truth.outputs[g] for g in kept], dtype=torch.int64),
            crops=[crop for crop, _ in moved],
            corners=torch.tensor([corner for _, corner in moved], dtype=torch.int64).reshape(-1, 2),
            keypoints=self._keypoints(truth.keypoints[kept], frame, (height, width), flip),
            crowds=self._boxes(truth.crowds, frame, (height, width), flip),
            unsearched=torch.tensor(truth.unsearched, dtype=torch.int64),
        )

    def _boxes(
        self, boxes: NDArray[np.float32], frame: tuple[int, int], size: tuple[int, int], flip: bool
    ) -> Tensor:
        moved: Tensor = tv_tensors.BoundingBoxes(
            torch.from_numpy(boxes.copy()), format="XYXY", canvas_size=frame
        )
        moved = v2.functional.resize(moved, list(size))
        if flip:
            moved = v2.functional.horizontal_flip(moved)
        return v2.functional.clamp_bounding_boxes(moved).as_subclass(Tensor)

    def _keypoints(
        self, keypoints: NDArray[np.float32], frame: tuple[int, int], size: tuple[int, int], flip: bool
    ) -> Tensor:
        keypoints_GK3 = torch.from_numpy(keypoints.copy())
        xy_GK2 = tv_tensors.KeyPoints(keypoints_GK3[..., :2], canvas_size=frame)
        xy_GK2 = v2.functional.resize(xy_GK2, list(size)).as_subclass(Tensor)
        if flip:
            # as boxes are: v2's own flip takes keypoints for indices of pixels, and is a pixel off
            xy_GK2 = torch.stack([size[1] - xy_GK2[..., 0], xy_GK2[..., 1]], -1)
        moved_GK3 = torch.cat([xy_GK2, keypoints_GK3[..., 2:]], -1)
        if flip:
            moved_GK3 = moved_GK3[:, self._mirror]
        return moved_GK3 * (moved_GK3[..., 2:] > 0)


def _moved_mask(mask: dict[str, Any] | None, size: tuple[int, int], flip: bool) -> tuple[Tensor, list[int]]:
    """The crop of a mask in a frame of `size` (height, width), and its corner (x, y).

    Pixel j of the new frame is pixel floor((j + 1/2) old / new) of the old one: nearest-exact of torch's interpolate.
    """
    if mask is None:
        return torch.zeros(0, 0, dtype=torch.uint8), [0, 0]
    x, y, w, h = (int(v) for v in coco_mask.toBbox(mask))
    pixels = coco_mask.decode(mask)
    if flip:
        pixels = pixels[:, ::-1]
        x = pixels.shape[1] - x - w
    (first_y, rows), (first_x, columns) = (
        _sampled(low, length, old, new)
        for low, length, old, new in zip((y, x), (h, w), pixels.shape, size, strict=True)
    )
    crop = pixels[np.ix_(rows, columns)]
    return torch.from_numpy(np.ascontiguousarray(crop)), [first_x, first_y]


def _sampled(low: int, length: int, old: int, new: int) -> tuple[int, NDArray[np.int64]]:
    """The first position of the new axis whose pixel lies in [low, low + length), and the old pixels of all."""
    source = np.floor((np.arange(new) + 0.5) * old / new).astype(np.int64)
    inside = np.flatnonzero((source >= low) & (source < low + length))
    return (int(inside[0]) if len(inside) else 0), source[inside]
