"""A dataset folder of FiftyOne: metadata.json, samples.json and data/, as its own FiftyOneDatasetExporter writes them.

`fo.Dataset.from_dir(dataset_type=fo.types.FiftyOneDataset)` opens it. Results are in the field `predictions`, labels in
`ground_truth`, their keypoints in `predictions_keypoints` or `ground_truth_keypoints` with the same `index`: so both can
be merged into one dataset by the field `uri`. Ids are made of the URI, and are the same in every export.

FiftyOne has a mask as the pixels of its box: what lies outside is cut off, and counted.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
import zlib
from typing import Any

import numpy as np
from masklake.pipeline.export import fiftyone_schema
from masklake.pipeline.export.folder import ExportFolder
from masklake.pipeline.export.image import Contents, ExportImage
from masklake.pipeline.export.json_file import JsonArrays, dumped
from masklake.pipeline.export.names import file_of, is_plain
from masklake.pipeline.labels.masks import to_pixels
from masklake.pipeline.labels.sets import Instance
from numpy.typing import NDArray

DATA = "data"
CUT = "masks reaching out of their box: FiftyOne has the part in it"
_NOWHERE = {"$numberDouble": "NaN"}
"""A coordinate of a keypoint that is not there, in MongoDB's extended JSON."""


class FiftyOne:
    """metadata.json, samples.json, and data/ with --images. Without it a local photo is read where it lies, and another is
    named by its key below the folder of all: `rel_dir` of `from_dir` says where copies are."""

    def __init__(self, folder: ExportFolder, contents: Contents, *, with_photos: bool = False) -> None:
        self._folder, self._contents, self._with_photos = folder, contents, with_photos
        self._field = "predictions" if contents.detected else "ground_truth"
        self._keypoints = tuple(
            dict.fromkeys(name for names in contents.keypoints.values() for name in names)
        )
        self._samples = JsonArrays(folder, "samples.json", {}, ("samples",))

    def photos(self, split: str) -> str:
        return DATA

    def add(self, image: ExportImage) -> None:
        if image.size is None:
            self._folder.leave_out(image.uri, "its size is not known", "of unknown size")
            return
        width, height = image.size
        id_ = _object_id(image.uri)
        instances = list(enumerate(image.instances))
        sample: dict[str, Any] = {
            "_id": id_,
            "_rand": int(id_["$oid"][:12], 16) / 16**12,
            "_media_type": "image",
            "filepath": self._path(image.uri),
            "tags": [image.split],
            "metadata": {"_cls": "ImageMetadata", "width": width, "height": height},
            "uri": image.uri,
            self._field: {
                "_cls": "Detections",
                "detections": [self._detection(image, i, instance) for i, instance in instances],
            },
        }
        if image.model:
            sample["model"] = image.model
        if self._keypoints:
            sample[f"{self._field}_keypoints"] = {
                "_cls": "Keypoints",
                "keypoints": [
                    self._placed(image, i, instance, placed)
                    for i, instance in instances
                    if (placed := list(image.keypoints_of(i)))
                ],
            }
        self._samples.add("samples", sample)
        self._folder.list_image(f"{DATA}/{file_of(image.uri)}", image.uri, image.split)

    def finish(self) -> None:
        self._samples.finish()
        content = fiftyone_schema.metadata(
            self._field,
            classes=self._contents.classes,
            keypoints=self._keypoints,
            detected=self._contents.detected,
        )
        with self._folder.open("metadata.json") as file:
            file.write(dumped(content))

    def _path(self, uri: str) -> str:
        if self._with_photos:
            return f"{DATA}/{file_of(uri)}"
        if "://" not in uri:
            return uri
        below = uri[len(self._contents.folder) :]
        return below if is_plain(below) else file_of(uri)

    def _detection(self, image: ExportImage, i: int, instance: Instance) -> dict[str, Any]:
        width, height = image.size or (1, 1)
        x, y, w, h = instance.box
        left, top = min(max(x, 0), width), min(max(y, 0), height)
        right, bottom = min(max(x + w, 0), width), min(max(y + h, 0), height)
        detection = self._label(image, i, instance, "Detection") | {
            "bounding_box": [left / width, top / height, (right - left) / width, (bottom - top) / height],
        }
        if instance.mask is not None:
            rows = slice(math.floor(top), math.ceil(bottom))
            columns = slice(math.floor(left), math.ceil(right))
            inside = to_pixels(instance.mask)[rows, columns].astype(bool)
            if inside.size:
                detection["mask"] = _binary(inside)
            self._folder.remarks[CUT] += int(inside.sum() < instance.mask.area)
        if image.scores is not None:
            detection["confidence"] = image.scores[i]
        return detection

    def _placed(
        self, image: ExportImage, i: int, instance: Instance, placed: list[tuple[str, float, float, float]]
    ) -> dict[str, Any]:
        """The keypoints of an instance, each at the place that it has in the skeleton."""
        width, height = image.size or (1, 1)
        points: list[list[Any]] = [[_NOWHERE, _NOWHERE] for _ in self._keypoints]
        values: list[float] = [0] * len(self._keypoints)
        for name, x, y, value in placed:
            position = self._keypoints.index(name)
            if image.scores is None:
                values[position] = value
                if not value:
                    continue
            else:
                values[position] = 1 / (1 + math.exp(-value))
            points[position] = [x / width, y / height]
        kind = "visible" if image.scores is None else "confidence"
        return self._label(image, i, instance, "Keypoint") | {"points": points, kind: values}

    def _label(self, image: ExportImage, i: int, instance: Instance, kind: str) -> dict[str, Any]:
        label: dict[str, Any] = {
            "_id": _object_id(f"{image.uri}\n{self._field} {kind} {i}"),
            "_cls": kind,
            "attributes": {},
            "tags": [],
            "label": instance.label,
            "index": i,
        }
        if image.scores is None and kind == "Detection":
            label |= {"iscrowd": instance.iscrowd, "ignore": instance.ignore}
        return label


def _object_id(text: str) -> dict[str, str]:
    """An id of MongoDB: 96 bits of the text's SHA-256."""
    return {"$oid": hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]}


def _binary(array: NDArray[np.bool_]) -> dict[str, Any]:
    """An array as FiftyOne's ArrayField keeps it: numpy's file format, zlib."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return {"$binary": {"base64": base64.b64encode(zlib.compress(file.getvalue())).decode(), "subType": "00"}}
