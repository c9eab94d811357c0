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
    column what was labelled and not detected. Crowds, and what is labelled `ignore`, are in no row, and what lies by half in one of its
    class and pairs with nothing else is in no column.

    truth, results: as for `model.eval.coco_ap.evaluate`, with boxes. Other classes are left out.
    """
    truth, results = searched(truth, results)
    place = {class_: i for i, class_ in enumerate(classes)}
    labels, found = defaultdict(list), defaultdict(list)
    for annotation in truth["annotations"]:
        if annotation["category_id"] in place:
            labels[annotation["image_id"]].append(annotation)
    for result in results:
        if result["category_id"] in place and result["score"] >= score:
            found[result["image_id"]].append(result)
    counts = np.zeros((len(place) + 1, len(place) + 1), np.int64)
    for image in labels.keys() | found.keys():
        _count(labels[image], found[image], place, counts)
    return counts


def _count(
    labels: list[Mapping[str, Any]],
    found: list[Mapping[str, Any]],
    place: Mapping[int, int],
    counts: NDArray[np.int64],
) -> None:
    single = [one for one in labels if not (one.get("iscrowd") or one.get("ignore"))]
    crowds = [one for one in labels if one.get("iscrowd") or one.get("ignore")]
    of_label = np.array([place[one["category_id"]] for one in single], np.int64)
    of_found = np.array([place[one["category_id"]] for one in found], np.int64)
    iou = _overlaps(found, single, crowd=False)
    d, g = np.nonzero(iou >= IOU)
    order = np.lexsort((-iou[d, g], of_found[d] != of_label[g]))
    left_d, left_g = np.ones(len(found), bool), np.ones(len(single), bool)
    for i, j in zip(d[order], g[order], strict=True):
        if left_d[i] and left_g[j]:
            left_d[i] = left_g[j] = False
            counts[of_label[j], of_found[i]] += 1
    of_crowd = np.array([place[one["category_id"]] for one in crowds], np.int64)
    in_crowd = ((_overlaps(found, crowds, crowd=True) >= IOU) & (of_found[:, None] == of_crowd[None, :])).any(
        1
    )
    nothing = len(place)
    counts[:nothing, nothing] += np.bincount(of_label[left_g], minlength=nothing)
    counts[nothing, :nothing] += np.bincount(of_found[left_d & ~in_crowd], minlength=nothing)


def _overlaps(
    found: Sequence[Mapping[str, Any]], labels: Sequence[Mapping[str, Any]], *, crowd: bool
) -> NDArray[np.float64]:
    """(D, G) IoU of boxes; for crowds, the share of the detection that lies in the crowd."""
    if not found or not labels:
        return np.zeros((len(found), len(labels)))
    boxes = [np.array([one["bbox"] for one in some], np.float64) for some in (found, labels)]
    overlaps: NDArray[np.float64] = coco_mask.iou(*boxes, [int(crowd)] * len(labels))
    return overlaps
