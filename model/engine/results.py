"""The results of a batch on their way to the host, and the detections that are made of them there."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from masklake.model.detections import Detections
from masklake.model.engine.rois import Arrival
from masklake.model.masks import rle


@dataclass(frozen=True)
class NotFinite:
    """The result of an image whose values are not finite. values: in words, which were the first such values."""

    values: str


@dataclass(frozen=True, kw_only=True)
class Results:
    """The results of a batch on their way to the host.

    arrival: (N, S) bool, which of the `checked` values are finite; boxes (R, 4), labels (R,), scores (R,), masks (R, M, M) and
    keypoints (R, K, 3), pixels of images resized to `sizes`. counts: how many of the R each image has.
    """

    arrival: Arrival
    checked: list[str]
    counts: list[int]
    sizes: list[tuple[int, int]]
    has_masks: bool
    has_keypoints: bool

    def detections(self, frames: Sequence[tuple[int, int]], as_rle: bool) -> list[Detections | NotFinite]:
        """Of each image, in pixels of its frame (height, width); as_rle: masks as COCO RLE of the frame."""
        finite_NS, boxes_R4, labels_R, scores_R, *more = self.arrival.wait()
        masks_RMM = more.pop(0) if self.has_masks else None
        keypoints_RK3 = more.pop(0) if self.has_keypoints else None
        results: list[Detections | NotFinite] = []
        end = 0
        for finite_S, count, size, frame in zip(finite_NS, self.counts, self.sizes, frames, strict=True):
            rows, end = slice(end, end + count), end + count
            if not finite_S.all():
                results.append(NotFinite(self.checked[finite_S.argmin()]))
                continue
            # torchvision's resize_boxes and resize_keypoints
            down, right = (np.float32(a) / np.float32(b) for a, b in zip(frame, size, strict=True))
            boxes = boxes_R4[rows] * np.asarray([right, down, right, down])
            # Copies: arrays from a GPU lie in pinned memory, of which there is little and which is used again.
            masks = None if masks_RMM is None else masks_RMM[rows].copy()
            rles = None
            if as_rle and masks is not None:
                rles, masks = rle.encode_masks(masks, boxes, frame), None
            results.append(
                Detections(
                    boxes=boxes,
                    labels=labels_R[rows].copy(),
                    scores=scores_R[rows].copy(),
                    masks=masks,
                    keypoints=None
                    if keypoints_RK3 is None
                    else keypoints_RK3[rows] * np.asarray([right, down, 1], np.float32),
                    rles=rles,
                )
            )
        return results
