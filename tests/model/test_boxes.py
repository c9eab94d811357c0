"""IoU of boxes, against pycocotools."""

import numpy as np
from masklake.model.boxes import iou_xywh
from pycocotools import mask as coco_mask


def test_iou_is_pycocotools() -> None:
    rng = np.random.default_rng(0)
    left = np.concatenate([rng.uniform(0, 50, (20, 2)), rng.uniform(0, 40, (20, 2))], axis=1)
    right = np.concatenate([rng.uniform(0, 50, (30, 2)), rng.uniform(0, 40, (30, 2))], axis=1)
    expected = coco_mask.iou(left, right, [0] * len(right))
    np.testing.assert_allclose(iou_xywh(left[:, None], right), expected, atol=1e-12)
    np.testing.assert_allclose(iou_xywh(left, left), 1.0, atol=1e-12)


def test_of_two_empty_boxes_it_is_0() -> None:
    assert iou_xywh(np.zeros((1, 4)), np.zeros((1, 4))) == 0
