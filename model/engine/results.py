"""What a batch gave, on its way to the host, and the detections made of it there."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from masklake.model.detections import Detections
from masklake.model.engine.rois import Arrival
from masklake.model.masks import rle


@dataclass(frozen=True)
class NotFinite:
    """What an image has in place of detections whose values are not finite; in words, the first such values."""

    values: str


@dataclass(frozen=True, kw_only=True)
class Results:
    """What a batch gave, on its way to the host.

    arrival: (N, S) bool, which of the `checked` values are finite; boxes (R, 4), labels (R,), scores (R,), masks (R, M, M) and
    joints (R, K, 3), pixels of images resized to `sizes`. counts: how many of the R each image has.
    """

    arrival: Arrival
    checked: list[str]
    counts: list[int]
    sizes: list[tuple[int, int]]
    has_masks: bool
    has_joints: bool

    def detections(self, frames: Sequence[tuple[int, int]], as_rle: bool) -> list[Detections | NotFinite]:
        finite_NS, boxes_R4, labels_R, scores_R, *more = self.arrival.wait()
        masks_RMM = more.pop(0) if self.has_masks else None
        joints_RK3 = more.pop(0) if self.has_joints else None
        results: list[Detections | NotFinite] = []
        end = 0
        for finite_S, count, size, frame in zip(finite_NS, self.counts, self.sizes, frames, strict=True):
            of, end = slice(end, end + count), end + count
            if not finite_S.all():
                results.append(NotFinite(self.checked[finite_S.argmin()]))
                continue
            # torchvision's resize_boxes and resize_keypoints
            down, right = (np.float32(a) / np.float32(b) for a, b in zip(frame, size, strict=True))
            boxes = boxes_R4[of] * np.asarray([right, down, right, down])
            # Copies: what came from a GPU lies in memory that it writes to, and there is little of it.
            masks = None if masks_RMM is None else masks_RMM[of].copy()
            rles = None
            if as_rle and masks is not None:
                rles, masks = rle.encode_masks(masks, boxes, frame), None
            results.append(
                Detections(
                    boxes=boxes,
                    labels=labels_R[of].copy(),
                    scores=scores_R[of].copy(),
                    masks=masks,
                    keypoints=None
                    if joints_RK3 is None
                    else joints_RK3[of] * np.asarray([right, down, 1], np.float32),
                    rles=rles,
                )
            )
        return results
