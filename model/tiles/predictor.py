"""Large images by tiles: a predictor that cuts them, asks another for each tile, and merges what it finds.

Small things stay visible, which they are not once a large image is made as small as the network's input. No
full-frame mask is made, and of the image only a few tiles are copied at a time.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from masklake.model.detections import Detections, PredictFailure
from masklake.model.errors import ModelError
from masklake.model.masks.rle import encode_masks, rectangles
from masklake.model.tiles.seams import Sightings, joined, merge
from masklake.model.tiles.tiling import Tiling, View
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

_VIEWS_AT_ONCE = 16
"""Tiles that the predictor gets in a call: enough for its batches, few enough to copy."""
_STRIP_PIXELS = 2**20
"""Image pixels that are averaged at once when a tile is made smaller, in 4 to 12 MB."""

Picture = NDArray[np.uint8] | Tensor


class TilePredictor(Protocol):
    """`model.predictor.Predictor`, or what stands in for it."""

    def predict(
        self,
        images: Sequence[Any],
        frames: Sequence[tuple[int, int]] | None = None,
        *,
        as_rle: bool = False,
    ) -> list[Detections | PredictFailure]: ...


class TiledPredictor:
    """Predicts as `predictor` does, but images that `tiling` cuts by their tiles.

    The predictor's max_detections then hold for a tile, and not for the image.
    """

    def __init__(self, predictor: TilePredictor, tiling: Tiling) -> None:
        self.tiling = tiling
        self._predictor = predictor
        self.precision: str | None = getattr(predictor, "precision", None)

    @property
    def redone(self) -> int:
        """Images, and tiles, that were done again in float32."""
        return getattr(self._predictor, "redone", 0)

    def predict(
        self,
        images: Sequence[Any],
        frames: Sequence[tuple[int, int]] | None = None,
        *,
        as_rle: bool = False,
    ) -> list[Detections | PredictFailure]:
        """Detections of each image, in the order of the images, in pixels of its frame; those of cut images have `rles`, not `masks`.

        images, frames, as_rle: as for `model.predictor.Predictor.predict`; encoded images are not cut. The predictor's
        failure over a tile is that of its image. Raises ModelError as the predictor does, and for a cut image whose
        frame is not its own.
        """
        sizes = [_size(image) for image in images]
        cut = [index for index, size in enumerate(sizes) if size is not None and self.tiling.cuts(*size)]
        if not cut:
            return self._predictor.predict(images, frames, as_rle=as_rle)
        results: dict[int, Detections | PredictFailure] = {}
        whole = [index for index in range(len(images)) if index not in cut]
        if frames is not None and len(frames) != len(images):
            raise ModelError(f"{len(frames)} frames for {len(images)} images")
        for index in cut:
            if frames is not None and tuple(frames[index]) != sizes[index]:
                raise ModelError(
                    f"image {index} is {sizes[index]} pixels high and wide, and its frame {tuple(frames[index])}: "
                    "an image that is cut into tiles has to be decoded in full"
                )
        if whole:
            theirs = frames and [frames[index] for index in whole]
            detections = self._predictor.predict([images[index] for index in whole], theirs, as_rle=as_rle)
            results.update(zip(whole, detections, strict=True))
        for index in cut:
            results[index] = self._by_tiles(images[index])
        return [results[index] for index in range(len(images))]

    def _by_tiles(self, image: Picture) -> Detections | PredictFailure:
        height, width = _size(image) or (0, 0)
        views = self.tiling.views(height, width)
        sightings: list[Sightings] = []
        for start in range(0, len(views), _VIEWS_AT_ONCE):
            part = views[start : start + _VIEWS_AT_ONCE]
            frames = [
                (-(-(v.y2 - v.y1) // v.step) * v.step, -(-(v.x2 - v.x1) // v.step) * v.step) for v in part
            ]
            detections = self._predictor.predict([_tile(image, view) for view in part], frames)
            for number, (view, tile_detections) in enumerate(zip(part, detections, strict=True), start):
                if isinstance(tile_detections, PredictFailure):
                    return PredictFailure(
                        f"tile {view.x1},{view.y1} to {view.x2},{view.y2}: {tile_detections.reason}"
                    )
                try:
                    sightings.append(self._sightings(tile_detections, number, view, (height, width)))
                except ModelError as error:
                    return PredictFailure(f"the model's detections are unusable: {error}")
        merged = merge(joined(sightings), views, self.tiling, (height, width))
        return dataclasses.replace(merged, frame=(height, width), spec=getattr(self._predictor, "spec", None))

    def _sightings(self, detections: Detections, number: int, view: View, size: tuple[int, int]) -> Sightings:
        """Detections of view `number`, moved to pixels of the image."""
        if not np.isfinite(detections.boxes).all() or not np.isfinite(detections.scores).all():
            raise ModelError("boxes or scores have values that are not finite")
        sides = (detections.boxes[:, 2:] - detections.boxes[:, :2]).max(axis=1, initial=0)
        shift = np.asarray([view.x1, view.y1] * 2, np.float32)
        boxes = np.minimum(detections.boxes + shift, np.asarray([size[1], size[0]] * 2, np.float32))
        keypoints = None
        if detections.keypoints is not None:
            keypoints = detections.keypoints + np.asarray([view.x1, view.y1, 0], np.float32)
        return Sightings(
            boxes=boxes,
            labels=detections.labels,
            scores=detections.scores,
            # Without masks the boxes are what is merged.
            rles=rectangles(boxes, size)
            if detections.masks is None
            else encode_masks(detections.masks, boxes, size),
            keypoints=keypoints,
            views=np.full(len(boxes), number),
            small=sides <= self.tiling.whole(view.level - 1),
            masked=detections.masks is not None,
        )


def _size(image: object) -> tuple[int, int] | None:
    """Height and width; None for encoded images, and for objects that are no image (the predictor's error says more)."""
    if isinstance(image, np.ndarray) and image.ndim == 3:
        return image.shape[0], image.shape[1]
    if isinstance(image, Tensor) and image.ndim == 3:
        return int(image.shape[1]), int(image.shape[2])
    return None


def _tile(image: Picture, view: View) -> Picture:
    """A view of the image's own memory; on the upper levels averaged over squares of `view.step` pixels."""
    rows = max(1, _STRIP_PIXELS // (view.x2 - view.x1) // view.step) * view.step
    tops = range(0, view.y2 - view.y1, rows)
    if isinstance(image, Tensor):
        tile_CHW = image[:, view.y1 : view.y2, view.x1 : view.x2]
        if not view.level:
            return tile_CHW
        smaller = (
            F.avg_pool2d(tile_CHW[:, top : top + rows].float(), view.step, ceil_mode=True) for top in tops
        )
        return torch.cat([strip_CHW.round_().to(torch.uint8) for strip_CHW in smaller], dim=1)
    tile = image[view.y1 : view.y2, view.x1 : view.x2]
    if not view.level:
        return tile
    # Pillow's averaging is some twenty times faster than torch's or NumPy's on whole numbers.
    strips = (Image.fromarray(tile[top : top + rows]).reduce(view.step) for top in tops)
    return np.concatenate([np.asarray(strip) for strip in strips])
