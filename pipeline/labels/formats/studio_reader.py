"""Label Studio's JSON (a list of tasks) into labels.

What counts: of each task the newest annotation that was not cancelled, one marked as ground truth before others.
Predictions are not labels. An annotation without results is an image that was looked at and holds nothing.

Results of one id are one region. A region with a brush mask, a polygon or a rectangle is an instance. A brush mask is
decoded, a polygon rasterised by pycocotools; both have the box around their pixels, a rectangle has its own, and a
rotated one the upright box around it. `crowd` among the region's meta texts makes it a crowd.

A key point is the joint that its label names, of the instance that its parentID names, or that a relation links it to,
or whose box alone contains it; hidden is visibility 1. A class has all joints that the file shows on it, in the order
of their first use, unlabelled on the instances that lack them.

Masklake's own exports say in `meta.masklake` what Label Studio has no place for. Of that, the box is believed only while
the mask is the one that was exported, and the class id while the label is.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

from masklake.pipeline.labels.formats.coco_reader import own_fields, rotated_box
from masklake.pipeline.labels.formats.node import Node
from masklake.pipeline.labels.formats.studio_regions import Region, instance_regions
from masklake.pipeline.labels.masks import Rle
from masklake.pipeline.labels.sets import Box, Instance, Joint, LabelFile, LabelledImage

CROWD = "crowd"
SOURCE = "human"
"""Annotations are made, or at least submitted, by people."""

_UPLOAD_DIGITS = 8


def mask_digest(mask: Rle) -> str:
    """What names a mask in `meta.masklake`."""
    return hashlib.sha256(f"{mask.height} {mask.width} {mask.counts}".encode()).hexdigest()[:16]


class StudioReader:
    """Takes in files one by one; `result` is what they say together."""

    def __init__(self) -> None:
        self._images: list[LabelledImage] = []
        self._notes: Counter[str] = Counter()
        self._joints: dict[str, dict[str, None]] = {}

    def result(self) -> LabelFile:
        for image in self._images:
            image.instances[:] = [self._completed(instance) for instance in image.instances]
        return LabelFile(images=self._images, notes=self._notes, source=SOURCE)

    def add(self, content: list[Any], file: str) -> None:
        """Take in the tasks of `file`. Raises UserError for what cannot be understood."""
        for i, value in enumerate(content):
            task = Node(value, f"{file}: task {i + 1} of the file")
            if "id" in task:
                task.where = f"{file}: task {task.identity('id')!r}"
            self._task(task)

    def _task(self, task: Node) -> None:
        if predictions := task.items("predictions", []):
            self._notes["predictions left out: they are not labels"] += len(predictions)
        annotations = [Node(value, f"{task.where}: annotation") for value in task.items("annotations", [])]
        kept = [one for one in annotations if not _true(one, "was_cancelled")]
        if cancelled := len(annotations) - len(kept):
            self._notes["cancelled annotations left out"] += cancelled
        if not kept:
            self._notes["tasks without annotations left out: nobody has looked at them"] += 1
            return
        if len(kept) > 1:
            self._notes["older annotations of the same task left out"] += len(kept) - 1
        order = [(_true(one, "ground_truth"), _time(one), i) for i, one in enumerate(kept)]
        self._images.append(self._image(task, kept[max(order)[-1]]))

    def _image(self, task: Node, annotation: Node) -> LabelledImage:
        data = Node(task.value.get("data"), f"{task.where}: data")
        name = _image_name(data)
        regions = instance_regions(annotation, self._notes)
        sizes = sorted({(region.width, region.height) for region in regions})
        if len(sizes) > 1:
            raise task.fail(f"its regions have different original sizes: {sizes}; one task is one image")
        width, height = sizes[0] if sizes else _exported_size(data)
        return LabelledImage(
            name=name,
            aliases=_aliases(name),
            instances=[self._instance(region) for region in regions],
            width=width,
            height=height,
            **own_fields(data),
        )

    def _instance(self, region: Region) -> Instance:
        own = Node(region.meta.get("masklake") or {}, f"{region.node.where}: meta.masklake")
        label, mask = region.label, region.mask()
        if mask is None:
            box = self._rectangle(region)
        elif "mask" in own and own.text("mask") == mask_digest(mask):
            x, y, w, h = own.numbers("box", count=4)
            box = (x, y, w, h)
        else:
            box = mask.box
        known = own.texts("joints") if "joints" in own else []
        self._joints.setdefault(label, {}).update(dict.fromkeys([*known, *region.joints]))
        same_class = "label_id" in own and "label" in own and own.text("label") == label
        return Instance(
            label=label,
            label_id=own.whole("label_id", 1) if same_class else None,
            box=box,
            mask=mask,
            joints=tuple(region.joints.values()),
            iscrowd=CROWD in region.meta_texts,
        )

    def _rectangle(self, region: Region) -> Box:
        box = region.box()
        angle = region.node.number("rotation") if "rotation" in region.node else 0.0
        if not angle:
            return box
        self._notes["rotated rectangles became the upright boxes around them"] += 1
        return rotated_box(box, angle, box[:2])  # Label Studio turns about the top left corner

    def _completed(self, instance: Instance) -> Instance:
        if not instance.joints:
            return instance
        own = {joint.name: joint for joint in instance.joints}
        names = self._joints[instance.label]
        return replace(instance, joints=tuple(own.get(name, Joint(name, 0, 0, 0)) for name in names))


def _true(annotation: Node, key: str) -> bool:
    return key in annotation and annotation.flag(key)


def _time(annotation: Node) -> str:
    found = annotation.value.get("updated_at") or annotation.value.get("created_at")
    return found if isinstance(found, str) else ""  # ISO 8601 in UTC, which sorts as text


def _exported_size(data: Node) -> tuple[int | None, int | None]:
    """The size of an image without regions, which would tell it, as far as Masklake's own export said it."""
    own = Node(data.value.get("masklake") or {}, f"{data.where}: masklake")
    return own.whole("width", 1) if "width" in own else None, own.whole(
        "height", 1
    ) if "height" in own else None


def _image_name(data: Node) -> str:
    if "image" in data:
        return data.text("image")
    texts = [key for key, value in data.value.items() if isinstance(value, str) and value]
    if len(texts) != 1:
        raise data.fail(f"does not tell which of its {len(texts)} texts is the image; name it `image`")
    return data.text(texts[0])


def _aliases(name: str) -> tuple[str, ...]:
    """Names that an image had before it was a URL, a local file of Label Studio, or uploaded, which puts 8 digits before."""
    if "/data/local-files/?d=" in name:
        return (unquote(name.partition("?d=")[2]),)
    path = unquote(re.sub(r"^https?://[^/]*|[?#].*$", "", name)).lstrip("/")
    if "/data/upload/" in name:
        file = path.rpartition("/")[2]
        head, dash, tail = file.partition("-")
        return (file, tail) if dash and tail and len(head) == _UPLOAD_DIGITS else (file,)
    return (path,) if path and re.match("https?://", name) else ()
