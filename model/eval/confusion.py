"""Which class is taken for which: detections and labels of an image, paired one to one. Free of torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from masklake.model.eval.federated import searched
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

IOU = 0.5


def confusion(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    classes: Sequence[int],
    *,
    score: float = 0.5,
) -> NDArray[np.int64]:
    """(C + 1, C + 1) counts for the C category ids in `classes`: rows are labels, columns are detections.

    A detection of at least `score` and a label may pair when their boxes overlap with an IoU of at least 0.5. Pairs of
    one class come first, and then the larger IoU, so that a right detection is never counted as a wrong one. The
    last row is what was detected where nothing is labelled (or labelled once and detected twice), the last
    column what was labelled and not detected. Crowds and labels with `ignore` are in no row; a detection of their class
    that lies by half in one of them, and pairs with nothing else, is in no column.

    truth, results: as for `model.eval.coco_ap.evaluate`, with boxes. Other classes are left out.
    """
    truth, results = searched(truth, results)
    place = {class_: i for i, class_ in enumerate(classes)}
    labels, detections = defaultdict(list), defaultdict(list)
    for annotation in truth["annotations"]:
        if annotation["category_id"] in place:
            labels[annotation["image_id"]].append(annotation)
    for result in results:
        if result["category_id"] in place and result["score"] >= score:
            detections[result["image_id"]].append(result)
    counts = np.zeros((len(place) + 1, len(place) + 1), np.int64)
    for image in labels.keys() | detections.keys():
        _count(labels[image], detections[image], place, counts)
    return counts


def _count(
    labels: list[Mapping[str, Any]],
    detections: list[Mapping[str, Any]],
    place: Mapping[int, int],
    counts: NDArray[np.int64],
) -> None:
    single = [entry for entry in labels if not (entry.get("iscrowd") or entry.get("ignore"))]
    crowds = [entry for entry in labels if entry.get("iscrowd") or entry.get("ignore")]
    label_classes = np.array([place[entry["category_id"]] for entry in single], np.int64)
    detection_classes = np.array([place[entry["category_id"]] for entry in detections], np.int64)
    iou = _overlaps(detections, single, crowd=False)
    d, g = np.nonzero(iou >= IOU)
    order = np.lexsort((-iou[d, g], detection_classes[d] != label_classes[g]))
    free_d, free_g = np.ones(len(detections), bool), np.ones(len(single), bool)
    for i, j in zip(d[order], g[order], strict=True):
        if free_d[i] and free_g[j]:
            free_d[i] = free_g[j] = False
            counts[label_classes[j], detection_classes[i]] += 1
    crowd_classes = np.array([place[entry["category_id"]] for entry in crowds], np.int64)
    in_crowd = (
        (_overlaps(detections, crowds, crowd=True) >= IOU)
        & (detection_classes[:, None] == crowd_classes[None, :])
    ).any(1)
    nothing = len(place)
    counts[:nothing, nothing] += np.bincount(label_classes[free_g], minlength=nothing)
    counts[nothing, :nothing] += np.bincount(detection_classes[free_d & ~in_crowd], minlength=nothing)


def _overlaps(
    detections: Sequence[Mapping[str, Any]], labels: Sequence[Mapping[str, Any]], *, crowd: bool
) -> NDArray[np.float64]:
    """(D, G) IoU of boxes; for crowds, the share of the detection that lies in the crowd."""
    if not detections or not labels:
        return np.zeros((len(detections), len(labels)))
    boxes = [np.array([entry["bbox"] for entry in some], np.float64) for some in (detections, labels)]
    overlaps: NDArray[np.float64] = coco_mask.iou(*boxes, [int(crowd)] * len(labels))
    return overlaps
