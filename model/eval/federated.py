"""Labels that are not exhaustive, as LVIS has them (Gupta et al. 2019, section 3; lvis-api's eval.py). Free of torch.

An image of such labels says for which classes it was searched: those that it has annotations of, and those of
`neg_category_ids`, of which there is none in it. A detection of any other class may be right or wrong, and does not count.
Of classes in `not_exhaustive_category_ids` not every object is annotated: a detection beside the annotated ones does not
count either. An image without `neg_category_ids` is searched for every class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_ANY_FRAME = 1e5
"""Pixels a side, for an image whose size is not known."""


def searched(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]
) -> tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]:
    """The truth, with a crowd over the whole image for each class that is not annotated exhaustively there, and the
    results that can be judged. truth, results: as for `model.eval.coco_ap.evaluate`; neither is changed."""
    images = {
        entry["id"]: entry for entry in truth.get("images", ()) if entry.get("neg_category_ids") is not None
    }
    if not images:
        return truth, results
    classes = {id_: set(entry["neg_category_ids"]) for id_, entry in images.items()}
    for annotation in truth["annotations"]:
        if annotation["image_id"] in images:
            classes[annotation["image_id"]].add(annotation["category_id"])
    class_ids = {entry["id"] for entry in truth["categories"]}
    crowds = [
        _everywhere(image, class_)
        for image in images.values()
        for class_ in sorted(class_ids.intersection(image.get("not_exhaustive_category_ids") or ()))
    ]
    judged = [
        entry
        for entry in results
        if entry["image_id"] not in images or entry["category_id"] in classes[entry["image_id"]]
    ]
    return {**truth, "annotations": [*truth["annotations"], *crowds]}, judged


def _everywhere(image: Mapping[str, Any], class_: int) -> dict[str, Any]:
    width, height = image.get("width") or _ANY_FRAME, image.get("height") or _ANY_FRAME
    return {
        "id": 0,
        "image_id": image["id"],
        "category_id": class_,
        "bbox": [0, 0, width, height],
        "area": width * height,
        "segmentation": [[0, 0, width, 0, width, height, 0, height]],
        "iscrowd": 1,
    }
