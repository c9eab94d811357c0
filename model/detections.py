"""What a predictor gives for one image. Free of torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from masklake.model.masks.rle import Rle


@dataclass(frozen=True, kw_only=True, eq=False)
class Detections:
    """N instances of one image, highest score first. Pixels are those of the original image frame.

    boxes: (N, 4) float32, x1 y1 x2 y2 in pixels.
    labels: (N,) int32, class ids (`ClassInfo.id`).
    scores: (N,) float32, 0 to 1.
    masks: (N, 28, 28) float32, probability of the mask over its box, or None where the model has no masks.
        28 x 28 is the mask head's grid (Mask R-CNN, figure 4); `model.masks.rle` makes COCO RLE of it.
    keypoints: (N, K, 3) float32, x and y in pixels and the heat-map logit at the joint (torchvision's
        `keypoints_scores`), or None where the model has no joints. Rows of classes without joints are NaN.
    rles: COCO RLE of each instance's mask in the frame, in place of `masks`: where they were asked for, and for
        images that were predicted by tiles (`model.tiles.predictor`), where an instance can be made of several masks.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int32]
    scores: NDArray[np.float32]
    masks: NDArray[np.float32] | None = None
    keypoints: NDArray[np.float32] | None = None
    rles: "list[Rle] | None" = None

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class PredictFailure:
    """Why one image of a batch has no result; the others of the batch have theirs."""

    reason: str
