"""YOLO as ultralytics reads it: data.yaml, images/{train,val}, and labels/{train,val} with a text file an image.

A line is a class and numbers from 0 to 1 of the image's width and height: a box (detect), a polygon (segment), a box and
keypoints (pose). An image without instances has an empty file: nothing is in it. Crowds and what is to be ignored have no
line, as in ultralytics' own converter. `--images` puts the photos beside them; without them the names are those that
images.csv gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import yaml
from masklake.model import flip_pairs
from masklake.pipeline.export.folder import ExportFolder
from masklake.pipeline.export.image import Contents, ExportImage
from masklake.pipeline.export.names import file_of, stem_of
from masklake.pipeline.export.polygons import one_polygon
from masklake.pipeline.labels.sets import Instance

SPLITS = ("train", "val")
_DIGITS = 6


class YoloDetect:
    """Boxes."""

    with_keypoints: ClassVar[bool] = False

    def __init__(self, folder: ExportFolder, contents: Contents, *, with_photos: bool = False) -> None:
        self._folder = folder
        self._classes = [
            name for name in contents.classes if not self.with_keypoints or contents.keypoints.get(name)
        ]
        self._keypoints = tuple(
            dict.fromkeys(name for label in self._classes for name in contents.keypoints.get(label, ()))
        )
        self._index = {name: i for i, name in enumerate(self._classes)}
        for split in SPLITS:  # data.yaml names both
            for kind in ("labels", "images"):
                folder.make(f"{kind}/{split}")

    def photos(self, split: str) -> str:
        return f"images/{split}"

    def add(self, image: ExportImage) -> None:
        if image.size is None:
            self._folder.leave_out(image.uri, "its size is not known", "of unknown size")
            return
        lines = []
        for instance in image.instances:
            reason = self._why_not(instance)
            numbers = None if reason else self.numbers(instance, *image.size)
            if numbers is None:
                self._folder.notes[f"instances {reason or 'with an empty mask'}"] += 1
                continue
            lines.append(" ".join([str(self._index[instance.label]), *map(_short, numbers)]))
        with self._folder.open(f"labels/{image.split}/{stem_of(image.uri)}.txt") as file:
            file.writelines(f"{line}\n" for line in lines)
        self._folder.list_image(f"{image.split}/{file_of(image.uri)}", image.uri, image.split)

    def _why_not(self, instance: Instance) -> str | None:
        if instance.iscrowd or instance.ignore:
            return "(crowds, or to be ignored) for which YOLO has no place"
        if instance.label not in self._index:
            return f"of {instance.label!r}, which has no keypoints"
        return self.why_not(instance)

    def why_not(self, instance: Instance) -> str | None:
        """Why the instance has no line in this kind of file."""
        return "whose box has no area" if min(instance.box[2:]) <= 0 else None

    def numbers(self, instance: Instance, width: int, height: int) -> list[float] | None:
        """What stands behind the class; None for nothing."""
        x, y, w, h = instance.box
        left, top = min(max(x, 0), width), min(max(y, 0), height)
        right, bottom = min(max(x + w, 0), width), min(max(y + h, 0), height)
        if right <= left or bottom <= top:
            return None
        return [
            (left + right) / 2 / width,
            (top + bottom) / 2 / height,
            (right - left) / width,
            (bottom - top) / height,
        ]

    def finish(self) -> None:
        content = {
            "train": "images/train",
            "val": "images/val",
            "names": dict(enumerate(self._classes)),
        }
        if self.with_keypoints:
            content["kpt_shape"] = [len(self._keypoints), 3]
            content["flip_idx"] = list(_flipped(self._keypoints))
            content["keypoints"] = list(self._keypoints)
        with self._folder.open("data.yaml") as file:
            yaml.safe_dump(content, file, sort_keys=False, allow_unicode=True)


class YoloSegment(YoloDetect):
    """Polygons, one an instance; `polygons` says how."""

    def why_not(self, instance: Instance) -> str | None:
        return "without a mask" if instance.mask is None else None

    def numbers(self, instance: Instance, width: int, height: int) -> list[float] | None:
        ring = None if instance.mask is None else one_polygon(instance.mask)
        if ring is None:
            return None
        values: list[float] = (np.clip(ring / (width, height), 0, 1)).ravel().tolist()
        return values


class YoloPose(YoloDetect):
    """Boxes and keypoints of the classes that have any. All classes share one list of keypoints; what one lacks is 0, 0, 0."""

    with_keypoints = True

    def numbers(self, instance: Instance, width: int, height: int) -> list[float] | None:
        box = super().numbers(instance, width, height)
        if box is None:
            return None
        placed = {
            keypoint.name: (keypoint.x / width, keypoint.y / height, keypoint.visibility)
            for keypoint in instance.keypoints
            # ultralytics refuses a file with a coordinate outside
            if keypoint.visibility and 0 <= keypoint.x <= width and 0 <= keypoint.y <= height
        }
        return box + [value for name in self._keypoints for value in placed.get(name, (0, 0, 0))]


def _short(value: float) -> str:
    return f"{value:.{_DIGITS}f}".rstrip("0").rstrip(".") or "0"


def _flipped(names: tuple[str, ...]) -> Iterator[int]:
    """For each keypoint the one that takes its place in a mirrored image."""
    partner = {a: b for pair in flip_pairs.propose(names).pairs for a, b in (pair, pair[::-1])}
    return (partner.get(i, i) for i in range(len(names)))
