"""Boxes as plain numbers. Free of torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def as_xywh(boxes: NDArray[Any]) -> NDArray[Any]:
    """Boxes x1, y1, x2, y2 (…, 4) as x, y, w, h, of the same dtype."""
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)


def iou_xywh(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.float64]:
    """IoU of boxes x, y, w, h: (…) of `left` (…, 4) against `right` (…, 4), which broadcast. 0 where both are empty."""
    low = np.maximum(left[..., :2], right[..., :2])
    high = np.minimum(left[..., :2] + left[..., 2:], right[..., :2] + right[..., 2:])
    both = np.clip(high - low, 0, None).prod(-1)
    either = left[..., 2:].prod(-1) + right[..., 2:].prod(-1) - both
    return np.divide(both, either, out=np.zeros(both.shape), where=either > 0)
