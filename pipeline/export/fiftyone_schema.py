"""metadata.json of a FiftyOne dataset: which fields its samples have, which classes and which skeleton."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from masklake.model.coco import KEYPOINT_NAMES, SKELETON

VERSION = "1.0.0"
"""Of FiftyOne, whose form this is: a newer one migrates what it reads."""

_FIELDS = "fiftyone.core.fields."
_LABELS = "fiftyone.core.labels."
_DOCUMENT = f"{_FIELDS}EmbeddedDocumentField"
_FLOAT, _INT, _STRING = f"{_FIELDS}FloatField", f"{_FIELDS}IntField", f"{_FIELDS}StringField"
_BOOLEAN, _LIST, _ID = f"{_FIELDS}BooleanField", f"{_FIELDS}ListField", f"{_FIELDS}ObjectIdField"
_TIME = f"{_FIELDS}DateTimeField"


def metadata(
    field: str, *, classes: Sequence[str], keypoints: Sequence[str], detected: bool
) -> dict[str, Any]:
    """The dataset document whose instances are in `field`, and keypoints, if there are any, in `<field>_keypoints`."""
    fields = [
        _field("id", _ID, "_id"),
        _field("filepath", _STRING),
        _list("tags", _STRING),
        _embedded("metadata", "fiftyone.core.metadata.ImageMetadata", _image_metadata()),
        _field("_media_type", _STRING),
        _field("_rand", _FLOAT),
        _field("_dataset_id", _ID),
        _field("created_at", _TIME) | {"read_only": True},
        _field("last_modified_at", _TIME) | {"read_only": True},
        _field("uri", _STRING),
        *([_field("model", _STRING)] if detected else []),
        _labels(field, "Detections", "detections", "Detection", _of_detection(detected)),
    ]
    skeletons = {}
    if keypoints:
        name = f"{field}_keypoints"
        fields.append(_labels(name, "Keypoints", "keypoints", "Keypoint", _of_keypoint(detected)))
        edges = [list(edge) for edge in SKELETON] if tuple(keypoints) == KEYPOINT_NAMES else []
        skeletons[name] = {"labels": list(keypoints), "edges": edges}
    return {
        "version": VERSION,
        "name": "masklake",
        "media_type": "image",
        "info": {},
        "classes": {field: list(classes)},
        "default_classes": list(classes),
        "skeletons": skeletons,
        "sample_fields": fields,
        "frame_fields": [],
        "group_media_types": {},
        "app_config": {},
        "mask_targets": {},
        "default_mask_targets": {},
        "tags": [],
    }


def _image_metadata() -> list[dict[str, Any]]:
    types = {"size_bytes": _INT, "mime_type": _STRING, "width": _INT, "height": _INT, "num_channels": _INT}
    return [_field(name, type_) for name, type_ in types.items()]


def _of_detection(detected: bool) -> list[dict[str, Any]]:
    return [
        *_common(),
        _list("bounding_box", _FLOAT),
        _field("mask", f"{_FIELDS}ArrayField"),
        _field("mask_path", _STRING),
        _field("confidence", _FLOAT),
        *([] if detected else [_field("iscrowd", _BOOLEAN), _field("ignore", _BOOLEAN)]),
    ]


def _of_keypoint(detected: bool) -> list[dict[str, Any]]:
    return [
        *_common(),
        _field("points", f"{_FIELDS}KeypointsField"),
        _list("confidence", _FLOAT),
        *([] if detected else [_list("visible", _INT)]),
    ]


def _common() -> list[dict[str, Any]]:
    attributes = _field("attributes", f"{_FIELDS}DictField")
    attributes |= {"subfield": _DOCUMENT, "embedded_doc_type": f"{_LABELS}Attribute"}
    return [
        _field("id", _ID, "_id"), _list("tags", _STRING), attributes, _field("label", _STRING), _field("index", _INT),
    ]  # fmt: skip


def _labels(
    name: str, kind: str, list_name: str, element: str, fields: list[dict[str, Any]]
) -> dict[str, Any]:
    elements = _list(list_name, _DOCUMENT)
    elements |= {"embedded_doc_type": _LABELS + element, "fields": fields}
    return _embedded(name, _LABELS + kind, [elements])


def _embedded(name: str, document: str, fields: list[dict[str, Any]]) -> dict[str, Any]:
    return _field(name, _DOCUMENT) | {"embedded_doc_type": document, "fields": fields}


def _list(name: str, element: str) -> dict[str, Any]:
    return _field(name, _LIST) | {"subfield": element}


def _field(name: str, type_: str, stored_as: str | None = None) -> dict[str, Any]:
    return {
        "name": name, "ftype": type_, "embedded_doc_type": None, "subfield": None, "fields": [],
        "db_field": stored_as or name, "description": None, "info": None, "read_only": False, "created_at": None,
    }  # fmt: skip
