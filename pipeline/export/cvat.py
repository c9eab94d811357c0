"""COCO as CVAT imports it: instances with masks for its format COCO, and keypoints in a file of their own for COCO Keypoints.

Masks are uncompressed run lengths, as CVAT's documentation shows them. File names are as of the format coco: where they
are to be the frames of a task, the task's images are those of the lake's folder.
"""

from __future__ import annotations

from typing import Any, ClassVar

from masklake.model.masks.rle_text import runs_of_text
from masklake.pipeline.export.coco import CocoDataset
from masklake.pipeline.export.folder import ExportFolder
from masklake.pipeline.export.image import Contents, ExportImage

_OF_KEYPOINTS = ("keypoints", "num_keypoints")


class _Instances(CocoDataset):
    name: ClassVar[str] = "coco/annotations/instances_default.json"

    def shaped(self, annotation: dict[str, Any]) -> dict[str, Any] | None:
        kept = {key: value for key, value in annotation.items() if key not in _OF_KEYPOINTS}
        if mask := kept["segmentation"]:
            kept["segmentation"] = {"size": mask["size"], "counts": runs_of_text(mask["counts"]).tolist()}
        return kept


class _Keypoints(_Instances):
    name: ClassVar[str] = "coco-keypoints/annotations/person_keypoints_default.json"
    only_keypoints = True

    def shaped(self, annotation: dict[str, Any]) -> dict[str, Any] | None:
        if not annotation.get("num_keypoints"):
            return None
        keypoints = {key: annotation[key] for key in _OF_KEYPOINTS}
        return (super().shaped(annotation) or {}) | keypoints


class Cvat:
    """coco/annotations/instances_default.json, and coco-keypoints/annotations/person_keypoints_default.json where a class has
    keypoints: CVAT's importer takes one file of a folder. Copies of images lie beside the first."""

    def __init__(self, folder: ExportFolder, contents: Contents, *, with_photos: bool = False) -> None:
        kinds = [_Instances, _Keypoints] if contents.keypoints else [_Instances]
        self._files = [kind(folder, contents, with_photos=with_photos) for kind in kinds]
        for file in self._files:  # datumaro, with which CVAT reads, wants the folder also where it is empty
            folder.make(f"{file.name.split('/')[0]}/images/default")

    def photos(self, split: str) -> str:
        return "coco/images/default"

    def add(self, image: ExportImage) -> None:
        for file in self._files:
            file.add(image)
        self._files[0].list(image)

    def finish(self) -> None:
        for file in self._files:
            file.finish()
