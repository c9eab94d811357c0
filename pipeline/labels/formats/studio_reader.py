"""Label Studio's JSON (a list of tasks) into labels.

What counts: of each task the newest annotation that was not cancelled, one marked as ground truth before others.
Predictions are not labels. An annotation without results is an image that was looked at and holds nothing; one whose
results were all left out is not known to, and makes no label set. Versions before 1.0 call annotations `completions`.

Results of one id are one region. A region with a brush mask, a bitmask, a polygon, an ellipse or a rectangle is an
instance. Masks are decoded, polygons rasterised by pycocotools; all have the box around their pixels. A rectangle has its
own box, and a rotated one the upright box around it. `crowd` among the region's meta texts makes it a crowd, `ignore` one
that is neither learnt nor counted.

A region is on the image that its to_name and item_index tell. A keypoint is the one that its label names, of the instance
that its parentID names, or that a relation links it to, or that alone contains it; hidden is visibility 1. A class has all
keypoints that the file shows on it, in the order of their first use, unlabelled on the instances that lack them.

Masklake's own exports say in `meta.masklake` what Label Studio has no place for. Of that, box and area are believed only
while what is drawn is what was exported, and the class id while the label is.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from masklake.pipeline.labels import names
from masklake.pipeline.labels.formats.coco_annotation import rotated_box
from masklake.pipeline.labels.formats.coco_reader import own_fields
from masklake.pipeline.labels.formats.node import Node, UnreadableError
from masklake.pipeline.labels.formats.studio_regions import Place, Region, instance_regions
from masklake.pipeline.labels.masks import LabelMask
from masklake.pipeline.labels.sets import (
    Box,
    Instance,
    Keypoint,
    LabelFile,
    LabelledImage,
    Skipped,
    known_images,
)

CROWD = "crowd"
IGNORE = "ignore"
SOURCE = "human"
"""Annotations are made, or at least submitted, by people."""

_NUMBERED = re.compile(r"(image|img|photo|picture|frame)s?[\W_]*\d+", re.IGNORECASE)
_SAME_BOX = 0.01
"""Pixels."""


def mask_digest(mask: LabelMask) -> str:
    """16 hex digits that name a mask in `meta.masklake`."""
    return hashlib.sha256(f"{mask.height} {mask.width} {mask.counts}".encode()).hexdigest()[:16]


class StudioReader:
    """Reads files one by one; `result` holds the labels of all of them together."""

    def __init__(self, image_fields: Mapping[str, str] | None = None) -> None:
        """image_fields: the field of tasks that each Image tag of the project shows, by its name, where that is known."""
        self._fields = image_fields or {}
        self._images: list[LabelledImage] = []
        self._notes: Counter[str] = Counter()
        self._skipped: list[Skipped] = []
        self._keypoints: dict[str, dict[str, None]] = {}

    def result(self) -> LabelFile:
        for image in self._images:
            image.instances[:] = [self._completed(instance) for instance in image.instances]
        images = known_images(self._images, self._notes)
        return LabelFile(images=images, notes=self._notes, skipped=self._skipped, source=SOURCE)

    def add(self, content: list[Any], file: str) -> None:
        """Add the tasks of `file`. Parts that cannot be read are skipped and listed."""
        for i, value in enumerate(content):
            try:
                task = Node(value, f"{file}: task {i + 1} of the file")
                if "id" in task:
                    task.where = f"{file}: task {task.identity('id')!r}"
                self._task(task)
            except UnreadableError as error:
                self._skipped.append(error.skipped)

    def _task(self, task: Node) -> None:
        if predictions := task.items("predictions", []):
            self._notes["predictions left out: they are not labels"] += len(predictions)
        key = "annotations" if task.value.get("annotations") or "completions" not in task else "completions"
        annotations = [Node(value, f"{task.where}: annotation") for value in task.items(key, [])]
        kept = [
            candidate
            for candidate in annotations
            if not (_true(candidate, "was_cancelled") or _true(candidate, "skipped"))
        ]
        if cancelled := len(annotations) - len(kept):
            self._notes["cancelled annotations left out"] += cancelled
        if not kept:
            self._notes["tasks without annotations left out: nobody has looked at them"] += 1
            return
        if len(kept) > 1:
            self._notes["older annotations of the same task left out"] += len(kept) - 1
        order = [(_true(candidate, "ground_truth"), _time(candidate), i) for i, candidate in enumerate(kept)]
        self._images += self._labelled(task, kept[max(order)[-1]])

    def _labelled(self, task: Node, annotation: Node) -> list[LabelledImage]:
        data = Node(task.value.get("data"), f"{task.where}: data")
        sorted_regions = instance_regions(annotation, self._notes, self._skipped)
        places: dict[Place, list[Region]] = {}
        for region in sorted_regions.instances:
            places.setdefault(region.place, []).append(region)
        if not places:
            place = next(iter(sorted_regions.left_out), Place(None, 0))
            return [self._image(task, data, place, (), sorted_regions.left_out.total(), single=True)]
        return [
            self._image(task, data, place, regions, sorted_regions.left_out[place], single=len(places) == 1)
            for place, regions in places.items()
        ]

    def _image(
        self, task: Node, data: Node, place: Place, regions: Sequence[Region], unread: int, *, single: bool
    ) -> LabelledImage:
        sources = {region.source for region in regions if region.source}
        if place.to_name is not None and place.to_name in self._fields:
            sources.add(self._fields[place.to_name])
        elif place.to_name is None and len(self._fields) == 1:
            sources.update(self._fields.values())
        name = _image_name(data, place, sources, single=single)
        sizes = sorted({(region.width, region.height) for region in regions})
        if len(sizes) > 1:
            raise task.fail(f"its regions have different original sizes: {sizes}; one task is one image")
        width, height = sizes[0] if sizes else _exported_size(data)
        return LabelledImage(
            name=name,
            aliases=names.aliases(name),
            instances=[self._instance(region) for region in regions],
            width=width,
            height=height,
            unread=unread,
            **(own_fields(data) | _exported_search(data) if single else {}),
        )

    def _instance(self, region: Region) -> Instance:
        own, label, mask = region.own, region.label, region.mask
        unchanged = False
        if mask is None:
            box = self._rectangle(region)
            if "box" in own:
                before = own.numbers("box", count=4)
                unchanged = max(abs(a - b) for a, b in zip(before, box, strict=True)) <= _SAME_BOX
        elif "mask" in own and own.text("mask") == mask_digest(mask):
            x, y, w, h = own.numbers("box", count=4)
            box, unchanged = (x, y, w, h), True
        else:
            box = mask.box
        known = own.texts("joints") if "joints" in own else []
        self._keypoints.setdefault(label, {}).update(dict.fromkeys([*known, *region.keypoints]))
        same_class = "label_id" in own and "label" in own and own.text("label") == label
        return Instance(
            label=label,
            label_id=own.whole("label_id", 1) if same_class else None,
            box=box,
            mask=mask,
            keypoints=tuple(region.keypoints.values()),
            iscrowd=CROWD in region.meta_texts,
            ignore=IGNORE in region.meta_texts,
            given_area=own.area("area") if unchanged else None,
            num_keypoints=_num_keypoints(own, len(region.keypoints)),
        )

    def _rectangle(self, region: Region) -> Box:
        if not region.rotation:
            return region.box
        self._notes["rotated rectangles became the upright boxes around them"] += 1
        return rotated_box(
            region.box, region.rotation, region.box[:2]
        )  # Label Studio turns about the top left corner

    def _completed(self, instance: Instance) -> Instance:
        if not instance.keypoints:
            return instance
        own = {keypoint.name: keypoint for keypoint in instance.keypoints}
        known = self._keypoints[instance.label]
        return replace(instance, keypoints=tuple(own.get(name, Keypoint(name, 0, 0, 0)) for name in known))


def _true(annotation: Node, key: str) -> bool:
    return key in annotation and annotation.flag(key)


def _time(annotation: Node) -> str:
    time = annotation.value.get("updated_at") or annotation.value.get("created_at")
    if isinstance(time, int | float) and not isinstance(time, bool):  # seconds, in versions before 1.0
        return f"{time:020.6f}" if abs(time) < 1e12 else ""
    return time if isinstance(time, str) else ""  # ISO 8601 in UTC, which sorts as text


def _num_keypoints(own: Node, counted: int) -> int | None:
    """The exported instance's num_keypoints, if it still has as many labelled keypoints as then; else None."""
    counts = own.value.get("num_keypoints")
    if isinstance(counts, list) and len(counts) == 2 and counts[0] == counted and type(counts[1]) is int:
        return min(max(counts[1], 0), 2**31 - 1)
    return None


def _exported_size(data: Node) -> tuple[int | None, int | None]:
    """The size of an image without regions (which would state it), from Masklake's own export."""
    own = _own(data)
    return own.whole("width", 1) if "width" in own else None, own.whole(
        "height", 1
    ) if "height" in own else None


def _exported_search(data: Node) -> dict[str, Any]:
    """The classes for which the image was searched, from Masklake's own export."""
    own = _own(data)
    return {key: tuple(own.texts(key)) for key in ("absent", "not_exhaustive") if key in own}


def _own(data: Node) -> Node:
    """What Masklake's own tasks say of their image."""
    return Node(data.value.get("masklake") or {}, f"{data.where}: masklake")


def _image_name(data: Node, place: Place, sources: set[str], *, single: bool) -> str:
    """The image that `place` is in the task's data: the field that it, or its regions' `source`, names.

    Where neither does: `image`, or the only text.
    """
    fields = [*sources, *([place.to_name] if place.to_name else [])]
    named = [key for key in fields if key in data.value]
    if not named and not single:
        raise data.fail(
            f"does not tell which image {place.to_name!r} (to_name) is; name the Image tags as the fields of data"
        )
    if named:
        return _entry(data, named[0], place.page)
    if "image" in data:
        others = [
            key for key, value in data.value.items() if isinstance(value, str) and _NUMBERED.fullmatch(key)
        ]
        if place.to_name and others:
            raise data.fail(
                f"does not tell whether {place.to_name!r} (to_name) is its image or {', '.join(others)}; name the Image "
                "tags as the fields of data"
            )
        return _entry(data, "image", place.page)
    texts = [key for key, value in data.value.items() if isinstance(value, str) and value]
    lists = [key for key, value in data.value.items() if _is_list_of_texts(value)]
    if len(texts) != 1 and len(lists) == 1:
        texts = lists
    if len(texts) != 1 and single and "uri" in (own := _own(data)):
        return own.text("uri")
    if len(texts) != 1:
        raise data.fail(f"does not tell which of its {len(texts)} texts is the image; name it `image`")
    return _entry(data, texts[0], place.page)


def _entry(data: Node, key: str, page: int) -> str:
    """The text of a field, or number `index` of a list of them (a tag Image with valueList)."""
    pages = data.value.get(key)
    if not isinstance(pages, list) or not _is_list_of_texts(pages):
        return data.text(key)
    if page >= len(pages):
        raise data.fail(f"{key} has {len(pages)} images, and a region is on number {page + 1}")
    return data.check_text(pages[page], key)


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) and text for text in value)
