"""The JSON of an annotation file, and the tool that it comes from."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

from masklake.pipeline.errors import UserError

_GZIP = b"\x1f\x8b"
_ZIP = b"PK\x03\x04"
_MOST_UNPACKED = 4 * 2**30
"""Bytes. A gzip file of a few megabytes could ask for any amount of memory."""

_TASK = ("data", "annotations", "completions", "predictions", "result")

# Keys that only the files of one tool have, what they are, and how to get labels from there.
_FOREIGN = (
    ({"_via_img_metadata"}, "a project of VIA", "export annotations as COCO there"),
    ({"shapes", "imagePath"}, "a file of labelme", "labelme's examples/instance_segmentation/labelme2coco.py makes COCO of its folder"),
    ({"items", "categories"}, "Datumaro's JSON", "datum convert -f coco makes COCO of it"),
    ({"samples"}, "FiftyOne's JSON", "dataset.export with fiftyone.types.COCODetectionDataset writes COCO"),
    ({"image_id", "category_id", "score"}, "COCO's results, which are detections", "labels are an annotation file"),
    ({"data_row", "projects"}, "Labelbox's export", "convert it into COCO"),
    ({"image", "annotations"}, "CreateML's JSON", "convert it into COCO"),
    ({"filename", "regions"}, "VIA's JSON", "export annotations as COCO there"),
)  # fmt: skip


# Keys of annotations, in files of COCO's form, that give no object a place.
_WITHOUT_OBJECTS = {
    "segments_info": "COCO's panoptic format, whose masks lie in PNG files; panopticapi's panoptic2detection_coco_format.py "
    "makes instances of it",
    "caption": "COCO's captions, which say of no object where it is; give the instances",
}


def parse(data: bytes, file: str) -> Any:
    """The JSON in `data`, which may be compressed by gzip. Raises UserError when it is none."""
    if data.startswith(_GZIP):
        data = _unpacked(data, file)
    if not data.strip():
        raise UserError(f"{file}: is empty; export the labels again")
    if data.startswith(_ZIP):
        raise UserError(f"{file}: is a ZIP archive; unpack it and give the JSON file in it")
    if data.lstrip()[:1] == b"<":
        raise UserError(
            f"{file}: is XML (CVAT for images, Pascal VOC?), not JSON; in CVAT, export the format COCO 1.0"
        )
    try:
        return json.loads(data)
    except RecursionError:
        raise UserError(f"{file}: is nested too deeply for a file of labels") from None
    except ValueError as error:  # undecodable bytes too
        raise UserError(f"{file}: is not JSON ({error}); export the labels again") from error


def _unpacked(data: bytes, file: str) -> bytes:
    import io

    try:
        with gzip.open(io.BytesIO(data)) as unpacked:
            plain = unpacked.read(_MOST_UNPACKED)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file}: is damaged gzip ({error}); copy it again") from error
    if len(plain) == _MOST_UNPACKED:
        raise UserError(f"{file}: is larger than {_MOST_UNPACKED >> 30} GiB unpacked; split it")
    return plain


def detect(content: Any, file: str) -> str:
    """`coco`, `cvat` or `label-studio`. Raises UserError for JSON of another shape."""
    if isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys():
        annotations = content["annotations"]
        first = annotations[0] if isinstance(annotations, list) and annotations else None
        for key, what in _WITHOUT_OBJECTS.items():
            if isinstance(first, dict) and key in first:
                raise UserError(f"{file}: is {what}")
        if isinstance(annotations, list) and any(map(_by_cvat, annotations)):
            return "cvat"
        return "coco"
    if content == [] or studio_tasks(content) is not None:
        return "label-studio"
    raise UserError(
        f"{file}: is {_foreign(content)}neither COCO (an object with images, annotations and categories) nor Label Studio's "
        "JSON (a list of tasks with data; JSON-MIN is not read); export the labels in one of these"
    )


def studio_tasks(content: Any) -> list[Any] | None:
    """Label Studio's tasks: as it exports them, a single one, or a single annotation, as it writes to cloud storage.

    None where they are none.
    """
    values = content if isinstance(content, list) else [content]
    tasks = [_of_annotation(value) for value in values]
    if any(isinstance(value, dict) and "data" in value and value.keys() & set(_TASK[1:]) for value in tasks):
        return tasks
    return tasks if isinstance(content, list) and tasks and all(map(_has_data, tasks)) else None


def _has_data(task: Any) -> bool:
    return isinstance(task, dict) and "data" in task


def _of_annotation(value: Any) -> Any:
    """The task of a single annotation, which holds it."""
    if isinstance(value, dict) and "result" in value and _has_data(value.get("task")):
        return {**value["task"], "annotations": [value]}
    return value


def _foreign(content: Any) -> str:
    """What the file seems to be, and how to convert it, as the beginning of a message."""
    some = content[0] if isinstance(content, list) and content else content
    if isinstance(some, dict):
        values = [value for value in some.values() if isinstance(value, dict)]
        for keys, what, way in _FOREIGN:
            if keys <= some.keys() or any(keys <= value.keys() for value in values[:1]):
                return f"{what} ({way}), "
    return ""


def _by_cvat(annotation: Any) -> bool:
    attributes = annotation.get("attributes") if isinstance(annotation, dict) else None
    return isinstance(attributes, dict) and "occluded" in attributes
