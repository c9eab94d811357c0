"""Label sets as one COCO JSON that holds instances and keypoints together, and that `CocoReader` reads back equal.

Masks are compressed RLE, byte for byte as in the lake. Every image carries a `masklake` object with its uri, split and
source, so that file names need not be guessed when the file comes back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from masklake.model.coco import KEYPOINT_NAMES, SKELETON
from masklake.pipeline.labels.sets import Instance, LabelSet, digest, number_classes


def to_coco(sets: Sequence[LabelSet]) -> dict[str, Any]:
    """The content of a COCO file. Ids count from 1; file names are the URIs below the folder common to all."""
    folder = common_folder([labels.uri for labels in sets])
    keypoints = keypoints_by_class(sets)
    ids = class_ids(sets)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, labels in enumerate(sets, 1):
        images.append(image_entry(labels, image_id, labels.uri[len(folder) :], ids))
        for instance in labels.instances:
            annotations.append(annotation(instance, len(annotations) + 1, image_id, ids, keypoints))
    return {
        "info": {"description": "labels of a Masklake lake"},
        "images": images,
        "annotations": annotations,
        "categories": categories(ids, keypoints),
    }


def image_entry(labels: LabelSet, id_: int, file_name: str, ids: Mapping[str, int]) -> dict[str, Any]:
    """An entry of `images`; `ids` are those of the classes."""
    width, height = frame(labels)
    return {
        "id": id_,
        "file_name": file_name,
        "width": width,
        "height": height,
        "masklake": own_fields(labels),
        **_searched(labels, ids),
    }


def own_fields(labels: LabelSet) -> dict[str, Any]:
    """The fields that the file needs to come back as the same label set; `coco_reader.own_fields` reads them."""
    fields = {
        "uri": labels.uri,
        "split": labels.split,
        "source": labels.source,
        "digest": digest(labels.instances),
    }
    return (
        fields if labels.width is not None and labels.height is not None else fields | {"size_known": False}
    )


def common_folder(uris: Sequence[str]) -> str:
    """The longest text up to a slash that all URIs begin with and that leaves a name of each."""
    low, high = (
        min(uris, default=""),
        max(uris, default=""),
    )  # all URIs between these two share their common beginning
    same = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low) - 1)
    return low[: low.rfind("/", 0, max(same, 0)) + 1]


def frame(labels: LabelSet) -> tuple[int, int]:
    """Width and height; for an image of unknown size, a frame that holds its labels."""
    if labels.width is not None and labels.height is not None:
        return labels.width, labels.height
    boxes = [instance.box for instance in labels.instances]
    right = max([x + w for x, _, w, _ in boxes], default=0)
    bottom = max([y + h for _, y, _, h in boxes], default=0)
    return max(1, int(np.ceil(right))), max(1, int(np.ceil(bottom)))


def class_ids(sets: Sequence[LabelSet]) -> dict[str, int]:
    """The id of every class: the lake's, unless two classes share one there."""
    named: dict[str, int | None] = {
        name: None for labels in sets for name in (*(labels.absent or ()), *labels.not_exhaustive)
    }
    return number_classes(
        named | {instance.label: instance.label_id for labels in sets for instance in labels.instances}, {}
    )


def _searched(labels: LabelSet, ids: Mapping[str, int]) -> dict[str, list[int]]:
    """LVIS' fields: for which classes the image was searched, where not for all."""
    fields = {
        "neg_category_ids": labels.absent,
        "not_exhaustive_category_ids": labels.not_exhaustive or (None if labels.absent is None else ()),
    }
    return {key: [ids[name] for name in names] for key, names in fields.items() if names is not None}


def keypoints_by_class(sets: Sequence[LabelSet]) -> dict[str, tuple[str, ...]]:
    """The keypoints of every class that has any: all that its instances have, in the order in which they appear."""
    names_by_class: dict[str, dict[str, None]] = {}
    for labels in sets:
        for instance in labels.instances:
            if instance.keypoints:
                names_by_class.setdefault(instance.label, {}).update(
                    (keypoint.name, None) for keypoint in instance.keypoints
                )
    return {label: tuple(names) for label, names in names_by_class.items()}


def plain(value: float) -> float:
    """A single-precision number as the shortest double that means it: 177.24, not 177.24000549316406."""
    short = float(str(np.float32(value)))
    return short if np.float32(short) == np.float32(value) else value


def annotation(
    instance: Instance,
    id_: int,
    image_id: int,
    ids: Mapping[str, int],
    keypoints: Mapping[str, tuple[str, ...]],
) -> dict[str, Any]:
    """An entry of `annotations`; `ids` and `keypoints` are those of the classes."""
    mask = instance.mask
    fields: dict[str, Any] = {
        "id": id_,
        "image_id": image_id,
        "category_id": ids[instance.label],
        "segmentation": {"size": [mask.height, mask.width], "counts": mask.counts} if mask else [],
        "area": instance.evaluated_area,
        "bbox": [plain(v) for v in instance.box],
        "iscrowd": int(instance.iscrowd),
        **({"ignore": 1} if instance.ignore else {}),
    }
    if names := keypoints.get(instance.label):
        labelled = {keypoint.name: keypoint for keypoint in instance.keypoints if keypoint.visibility}
        fields["keypoints"] = [
            value
            for name in names
            for value in (
                (plain(labelled[name].x), plain(labelled[name].y), labelled[name].visibility)
                if name in labelled
                else (0, 0, 0)
            )
        ]
        fields["num_keypoints"] = instance.evaluated_keypoints
    return fields


def categories(ids: Mapping[str, int], keypoints: Mapping[str, tuple[str, ...]]) -> list[dict[str, Any]]:
    """The content of `categories`."""
    entries: list[dict[str, Any]] = [
        {"id": ids[name], "name": name} for name in sorted(ids, key=lambda name: ids[name])
    ]
    for category in entries:
        if names := keypoints.get(category["name"]):
            category["keypoints"] = list(names)
            # COCO's limbs count from 1. For other keypoints no skeleton is known.
            category["skeleton"] = [[a + 1, b + 1] for a, b in SKELETON] if names == KEYPOINT_NAMES else []
    return entries
