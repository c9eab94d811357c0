"""COCO: a dataset of results or labels, and a results file that pycocotools evaluates beside an annotation file.

Masks are compressed RLE, byte for byte as in the lake. Image ids count from 1; `like` takes images and classes from an
annotation file instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from masklake.pipeline.export.folder import ExportFolder
from masklake.pipeline.export.image import Contents, ExportImage
from masklake.pipeline.export.json_file import JsonArray, JsonArrays
from masklake.pipeline.export.names import file_of, is_plain
from masklake.pipeline.labels.formats import coco_writer

ANNOTATIONS = "annotations.json"
RESULTS = "results.json"
IMAGES = "images.json"


@dataclass(frozen=True, kw_only=True)
class Like:
    """The ids of an annotation file, which results of the same images are to have."""

    images: Mapping[str, int]
    """Ids by uri."""
    classes: Mapping[str, int]
    """Ids by name."""
    keypoints: Mapping[str, tuple[str, ...]]
    """Of each class that has any."""


class CocoDataset:
    """A file of images, instances with masks, boxes and keypoints, and categories."""

    name: ClassVar[str] = ANNOTATIONS
    only_keypoints: ClassVar[bool] = False
    """Whether classes without keypoints are no categories of the file."""

    def __init__(self, folder: ExportFolder, contents: Contents, *, with_photos: bool = False) -> None:
        self._folder, self._contents, self._with_photos = folder, contents, with_photos
        kind = "results" if contents.detected else "labels"
        head = {
            "info": {"description": f"{kind} of a Masklake lake"},
            "categories": [
                category
                for category in coco_writer.categories(contents.ids, contents.keypoints)
                if "keypoints" in category or not self.only_keypoints
            ],
        }
        self._file = JsonArrays(folder, self.name, head, ("images", "annotations"))
        self._images = self._annotations = 0

    def add(self, image: ExportImage) -> None:
        self._images += 1
        contents = self._contents
        entry = coco_writer.image_entry(image.labels, self._images, self._file_name(image.uri), contents.ids)
        if contents.detected:  # nobody labelled it: read back, it is whoever corrects it who is the source
            entry["masklake"] = {"uri": image.uri}
        self._file.add("images", entry)
        for i, instance in enumerate(image.instances):
            self._annotations += 1
            annotation = coco_writer.annotation(
                instance, self._annotations, self._images, contents.ids, contents.keypoints
            )
            if image.scores is not None:
                annotation["score"] = coco_writer.plain(image.scores[i])
            if (shaped := self.shaped(annotation)) is not None:
                self._file.add("annotations", shaped)

    def shaped(self, annotation: dict[str, Any]) -> dict[str, Any] | None:
        """The annotation as this dialect of COCO has it; None where it has none."""
        return annotation

    def list(self, image: ExportImage) -> None:
        """Say in images.csv how the file names the image."""
        self._folder.list_image(self._file_name(image.uri), image.uri, image.split)

    def finish(self) -> None:
        self._file.finish()

    def _file_name(self, uri: str) -> str:
        """The copy's name; without copies the key below the folder of all images, where that is one on every system."""
        below = uri[len(self._contents.folder) :]
        return below if not self._with_photos and is_plain(below) else file_of(uri)


class Coco(CocoDataset):
    """annotations.json, and images/ with --images."""

    def photos(self, split: str) -> str:
        return "images"

    def add(self, image: ExportImage) -> None:
        super().add(image)
        self.list(image)


class CocoResults:
    """results.json, the list that `COCO.loadRes` takes, and images.json, which says whose ids it uses."""

    def photos(self, split: str) -> str:
        return "images"

    def __init__(
        self,
        folder: ExportFolder,
        contents: Contents,
        *,
        with_photos: bool = False,
        like: Like | None = None,
    ) -> None:
        self._folder, self._with_photos = folder, with_photos
        self._like = like
        self._ids: Mapping[str, int] = contents.ids if like is None else like.classes
        self._keypoints = contents.keypoints if like is None else like.keypoints
        self._results = JsonArray(folder, RESULTS)
        head = {
            "info": {"description": "images of a Masklake lake"},
            "categories": coco_writer.categories(contents.ids, contents.keypoints),
        }
        self._images = JsonArrays(folder, IMAGES, head, ("images",)) if like is None else None
        self._count = 0

    def add(self, image: ExportImage) -> None:
        self._count += 1
        id_ = self._count if self._like is None else self._like.images.get(image.uri)
        if id_ is None:
            self._folder.leave_out(
                image.uri, "the file of --like does not name it", "not in the file of --like"
            )
            return
        if self._images is not None:
            self._images.add("images", coco_writer.image_entry(image.labels, id_, file_of(image.uri), {}))
        for i, instance in enumerate(image.instances):
            if instance.label not in self._ids:
                self._folder.notes[
                    f"instances of {instance.label!r}, which the file of --like does not have"
                ] += 1
                continue
            result: dict[str, Any] = {
                "image_id": id_,
                "category_id": self._ids[instance.label],
                "bbox": [coco_writer.plain(side) for side in instance.box],
                "score": coco_writer.plain(image.scores[i]) if image.scores else 0.0,
            }
            if instance.mask is not None:
                result["segmentation"] = {
                    "size": [instance.mask.height, instance.mask.width],
                    "counts": instance.mask.counts,
                }
            if (names := self._keypoints.get(instance.label)) and image.detected_keypoints[i]:
                result["keypoints"] = placed(image.detected_keypoints[i], names)
            self._results.add(result)
        self._folder.list_image(file_of(image.uri), image.uri, image.split)

    def finish(self) -> None:
        self._results.finish()
        if self._images is not None:
            self._images.finish()


def placed(keypoints: Any, names: tuple[str, ...]) -> list[float]:
    """COCO's x, y, 1 of each of `names`: COCOeval compares every place. A keypoint that the model does not place is taken to
    lie where the instance's first one does."""
    places = {keypoint["name"]: (keypoint["x"], keypoint["y"]) for keypoint in keypoints}
    first = next((places[name] for name in names if name in places), (keypoints[0]["x"], keypoints[0]["y"]))
    return [
        value
        for name in names
        for x, y in [places.get(name, first)]
        for value in (coco_writer.plain(x), coco_writer.plain(y), 1)
    ]
