"""Label sets as Label Studio tasks, which `StudioReader` reads back equal.

Masks become brush regions, instances without one rectangles, keypoints become points with the region as their parent. What
Label Studio has no place for travels in each region's `meta.masklake` and in each task's `data.masklake`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from masklake.pipeline.labels.formats import brush_rle
from masklake.pipeline.labels.formats.coco_writer import frame, keypoints_by_class, own_fields, plain
from masklake.pipeline.labels.formats.studio_interface import BOX, BRUSH, OURS, POINT, Interface
from masklake.pipeline.labels.formats.studio_reader import CROWD, IGNORE, mask_digest
from masklake.pipeline.labels.masks import to_pixels
from masklake.pipeline.labels.sets import Instance, LabelSet

_POINT_PERCENT = 0.5
"""Drawn size of a key point, percent of the image's width."""
_DIGITS = 4
"""Of scores."""


def to_label_studio(sets: Sequence[LabelSet]) -> list[dict[str, Any]]:
    """One task per image, its labels as an annotation."""
    return [task(label_set, i) for i, label_set in enumerate(sets, 1)]


def task(label_set: LabelSet, id_: int) -> dict[str, Any]:
    """The task of an image, its labels as an annotation."""
    return {
        "id": id_,
        "data": {
            "image": label_set.uri,
            "masklake": own_fields(label_set) | _size(label_set) | _search(label_set),
        },
        "annotations": [
            {"id": id_, "was_cancelled": False, "ground_truth": False, "result": results(label_set)}
        ],
    }


def prediction(
    label_set: LabelSet, scores: Sequence[float], model: str, names: Interface = OURS
) -> dict[str, Any]:
    """What `model` detected, as a prediction of a task: regions with the score of their instance."""
    by_region = {f"i{i}": round(score, _DIGITS) for i, score in enumerate(scores)}
    return {
        "model_version": model,
        "score": round(sum(scores) / max(len(scores), 1), _DIGITS),
        "result": [
            result | ({"score": by_region[result["id"]]} if result["id"] in by_region else {})
            for result in results(label_set, names)
        ],
    }


def identity(label_set: LabelSet) -> dict[str, Any]:
    """`data.masklake` of a task that claims no labels: which image it is."""
    return {"uri": label_set.uri, "width": label_set.width, "height": label_set.height}


def results(label_set: LabelSet, names: Interface = OURS) -> list[dict[str, Any]]:
    """The results of an annotation, or a prediction, of the image, for an interface with these names. The region of instance n
    has the id `i<n>`."""
    return [
        result
        for position, instance in enumerate(label_set.instances)
        for result in _results(instance, f"i{position}", names, *frame(label_set))
    ]


def names_of(sets: Sequence[LabelSet], classes: Collection[str] = ()) -> tuple[list[str], list[str]]:
    """What an interface offers for these sets: `classes` and those of the sets, sorted; and their keypoints, in the order of their use."""
    labels = {instance.label for label_set in sets for instance in label_set.instances}.union(classes)
    return sorted(labels), list(
        dict.fromkeys(name for names in keypoints_by_class(sets).values() for name in names)
    )


def _size(label_set: LabelSet) -> dict[str, int]:
    """The image's size, needed for an image without regions (which would state it)."""
    return (
        {"width": label_set.width, "height": label_set.height} if label_set.width and label_set.height else {}
    )


def _search(label_set: LabelSet) -> dict[str, list[str]]:
    """The classes for which the image was searched, where not for all."""
    absent = {} if label_set.absent is None else {"absent": list(label_set.absent)}
    return absent | ({"not_exhaustive": list(label_set.not_exhaustive)} if label_set.not_exhaustive else {})


def _results(instance: Instance, id_: str, names: Interface, width: int, height: int) -> list[dict[str, Any]]:
    common = {"to_name": names.image, "original_width": width, "original_height": height, "image_rotation": 0}
    own: dict[str, Any] = {"label": instance.label, "label_id": instance.label_id}
    if instance.keypoints:
        own["joints"] = [keypoint.name for keypoint in instance.keypoints]
    if instance.num_keypoints is not None:
        own["num_keypoints"] = [
            sum(keypoint.visibility > 0 for keypoint in instance.keypoints),
            instance.num_keypoints,
        ]
    if instance.given_area is not None:
        own |= {"area": instance.given_area, "box": [plain(v) for v in instance.box]}
    if instance.mask is not None:
        own |= {"box": [plain(v) for v in instance.box], "mask": mask_digest(instance.mask)}
        value: dict[str, Any] = {"format": "rle", "rle": brush_rle.encode(to_pixels(instance.mask))}
        control, type_ = names.name_of(BRUSH), "brushlabels"
    else:
        x, y, w, h = instance.box
        value = {
            "x": x * 100 / width,
            "y": y * 100 / height,
            "width": w * 100 / width,
            "height": h * 100 / height,
        }
        value["rotation"] = 0
        control, type_ = names.name_of(BOX), "rectanglelabels"
    texts = [CROWD] * instance.iscrowd + [IGNORE] * instance.ignore
    meta: dict[str, Any] = {"masklake": own} | ({"text": texts} if texts else {})
    region = {
        "id": id_,
        "from_name": control,
        "type": type_,
        "value": value | {type_: [instance.label]},
        "meta": meta,
    }
    points = [
        {
            "id": f"{id_}-{i}",
            "parentID": id_,
            "from_name": names.name_of(POINT),
            "type": "keypointlabels",
            "value": {
                "x": keypoint.x * 100 / width,
                "y": keypoint.y * 100 / height,
                "width": _POINT_PERCENT,
                "keypointlabels": [keypoint.name],
                **({"hidden": True} if keypoint.visibility == 1 else {}),
            },
            # When a person submits, the editor drops `hidden`, but keeps meta.
            **({"meta": {"masklake": {"visibility": 1}}} if keypoint.visibility == 1 else {}),
        }
        for i, keypoint in enumerate(instance.keypoints)
        if keypoint.visibility
    ]
    return [common | result for result in (region, *points)]
