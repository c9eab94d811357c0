"""COCO average precision of boxes, masks and keypoints, computed by pycocotools. Free of torch."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

# The key of a kind in what `coco_ap` returns: its name in COCOeval, its field in annotations and results.
KINDS = {
    "box": ("bbox", "bbox"),
    "mask": ("segm", "segmentation"),
    "keypoints": ("keypoints", "keypoints"),
}


def coco_ap(
    truth: dict[str, Any], results: Sequence[dict[str, Any]], *, sigmas: Sequence[float] | None = None
) -> dict[str, dict[str, float] | None]:
    """COCO AP: {"box": {"AP": …, "AP50": …, "AP75": …}, "mask": …, "keypoints": …}, each from 0 to 1.

    AP is the mean over IoU (for keypoints, OKS) 0.50:0.05:0.95, AP50 and AP75 are those at 0.50 and 0.75: what
    `pycocotools.cocoeval.COCOeval` gives for area "all" with up to 100 detections an image (20 for keypoints).

    truth: a COCO dataset (images, annotations, categories); it is not changed.
    results: COCO results: image_id, category_id, score and any of bbox (x, y, w, h pixels of the original
        frame), segmentation (RLE) and keypoints (x, y and a third number for each joint).
    sigmas: the tolerance of each joint, by default those of COCO's 17.

    A kind is None where AP is undefined: the truth has no annotation of that kind outside crowds (for
    keypoints: none with a labelled joint). Where the truth has some and the results have none, AP is 0.

    Raises ValueError for results of images that the truth does not have, and where annotations have another
    number of joints than `sigmas`.
    """
    known = {image["id"] for image in truth["images"]}
    strangers = sorted({result["image_id"] for result in results} - known, key=str)
    if strangers:
        raise ValueError(
            f"results of image {strangers[0]!r}, which the truth does not have; "
            "evaluate on the images that were predicted"
        )
    # Copies: COCOeval writes into annotations.
    annotations = [{"iscrowd": 0, **annotation} for annotation in truth["annotations"]]
    tolerances = Params("keypoints").kpt_oks_sigmas if sigmas is None else np.asarray(sigmas, np.float64)
    for annotation in annotations:
        joints = annotation.get("keypoints")
        if joints and len(joints) != 3 * len(tolerances):
            raise ValueError(
                f"annotation {annotation['id']} has {len(joints) / 3:g} joints, there are {len(tolerances)} sigmas; "
                "give one for each joint"
            )
        annotation["num_keypoints"] = int(np.count_nonzero(joints[2::3])) if joints else 0
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = COCO()
        dataset.dataset = {"info": {}, **truth, "annotations": annotations}
        dataset.createIndex()
        return {kind: _ap(kind, dataset, results, tolerances) for kind in KINDS}


def _ap(
    kind: str, dataset: COCO, results: Sequence[dict[str, Any]], tolerances: np.ndarray
) -> dict[str, float] | None:
    name, field = KINDS[kind]
    categories = {
        annotation["category_id"]
        for annotation in dataset.dataset["annotations"]
        if annotation.get(field)
        and not annotation["iscrowd"]
        and (kind != "keypoints" or annotation["num_keypoints"])
    }
    if not categories:
        return None
    # COCO.loadRes takes the first field that it knows as the kind: hand it no other.
    fields = ("image_id", "category_id", "score", field)
    found = [
        {key: result[key] for key in fields}
        for result in results
        if result["category_id"] in categories and result.get(field) is not None
    ]
    if not found:
        return {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}
    evaluation = COCOeval(dataset, dataset.loadRes(found), name)
    evaluation.params.catIds = sorted(categories)
    evaluation.params.kpt_oks_sigmas = tolerances
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    ap, ap50, ap75 = evaluation.stats[:3]
    return {"AP": float(ap), "AP50": float(ap50), "AP75": float(ap75)}
