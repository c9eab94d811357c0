"""COCO's instances and person_keypoints JSON (and what CVAT exports as COCO) into labels.

Polygons are rasterised by pycocotools in the image's frame. The box is the file's own; where there is none, the box
around the mask, or around the labelled joints. Files read together describe one set of images, and what they say of one
object becomes one instance (`label_merge`). An image without annotations is an image with nothing in it.

CVAT writes COCO with an `attributes` object in each annotation, and differs (datumaro's coco exporter): iscrowd is 1 for
every brush mask, and a rotated rectangle is its unrotated box and an angle. So there iscrowd is not taken, and the box
is the upright one around the rotated rectangle.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from masklake.pipeline.errors import UserError
from masklake.pipeline.labels import masks as label_masks
from masklake.pipeline.labels.formats.node import Node, kind
from masklake.pipeline.labels.masks import Rle
from masklake.pipeline.labels.merge import Merged
from masklake.pipeline.labels.sets import SPLITS, Box, Instance, Joint, LabelFile, LabelledImage


@dataclass(frozen=True)
class _Category:
    id: int
    name: str
    joints: tuple[str, ...]


class CocoReader:
    """Takes in files one by one; `result` is what they say together."""

    def __init__(self, *, cvat: bool = False) -> None:
        self._cvat = cvat
        self._images: dict[str, LabelledImage] = {}
        self._merged: dict[str, Merged] = defaultdict(Merged)
        self._notes: Counter[str] = Counter()

    def result(self) -> LabelFile:
        for name, image in self._images.items():
            image.instances[:] = self._merged[name].instances
        return LabelFile(images=list(self._images.values()), notes=self._notes)

    def add(self, content: dict[str, Any], file: str) -> None:
        """Take in the content of `file`. Raises UserError for what cannot be understood."""
        root = Node(content, file)
        categories = _categories(root)
        images = self._take_images(root)
        seen: set[Hashable] = set()
        given: dict[str, list[tuple[Hashable, Instance]]] = defaultdict(list)
        for i, value in enumerate(root.items("annotations")):
            node = Node(value, f"{file}: annotation {i + 1} of the file")
            id_ = node.identity("id")
            node.where = f"{file}: annotation {id_!r}"
            if id_ in seen:
                raise node.fail("its id is used twice in the file; ids name annotations")
            seen.add(id_)
            image = images.get(node.identity("image_id"))
            if image is None:
                raise node.fail(f"its image_id {node.value['image_id']!r} is not among the images")
            category = categories.get(node.identity("category_id"))
            if category is None:
                raise node.fail(f"its category_id {node.value['category_id']!r} is not among the categories")
            given[image.name].append((id_, self._instance(node, image, category)))
        for name, instances in given.items():
            if by_box := self._merged[name].add(instances):
                self._notes["annotations of other ids joined by their boxes"] += by_box

    def _take_images(self, root: Node) -> dict[Hashable, LabelledImage]:
        found: dict[Hashable, LabelledImage] = {}
        names: dict[str, Hashable] = {}
        for i, value in enumerate(root.items("images")):
            node = Node(value, f"{root.where}: image {i + 1} of the file")
            id_ = node.identity("id")
            node.where = f"{root.where}: image {id_!r}"
            if id_ in found:
                raise node.fail("its id is used twice in the file")
            name = node.text("file_name")
            if name in names:
                raise node.fail(f"has the same file_name as image {names[name]!r}: {name!r}")
            names[name] = id_
            found[id_] = self._take_image(node, name)
        return found

    def _take_image(self, node: Node, name: str) -> LabelledImage:
        width, height = node.whole("width", 1), node.whole("height", 1)
        try:
            label_masks.check_frame(height, width)
        except ValueError as error:
            raise node.fail(str(error)) from None
        known = self._images.get(name)
        if known is None:
            known = self._images[name] = LabelledImage(
                name=name, width=width, height=height, **own_fields(node)
            )
        elif (known.width, known.height) != (width, height):
            raise node.fail(
                f"{name!r} is {width}×{height} here and {known.width}×{known.height} in another file; "
                "import files of the same images together"
            )
        return known

    def _instance(self, node: Node, image: LabelledImage, category: _Category) -> Instance:
        mask = _mask(node, image)
        joints = _joints(node, category)
        crowd = "iscrowd" in node and node.flag("iscrowd")
        box = _box(node, mask, joints)
        if self._cvat:
            if crowd:
                self._notes[
                    "iscrowd not taken: CVAT writes it for every brush mask (--format coco takes it)"
                ] += 1
                crowd = False
            box = self._upright(node, box, mask)
        elif node.value.get("attributes"):
            self._notes["attributes not kept: labels have no column for them"] += 1
        return Instance(
            label=category.name, label_id=category.id, box=box, mask=mask, joints=joints, iscrowd=crowd
        )

    def _upright(self, node: Node, box: Box, mask: Rle | None) -> Box:
        attributes = Node(node.value.get("attributes") or {}, node.where)
        if attributes.value.keys() - {"occluded", "rotation"}:
            self._notes["attributes not kept: labels have no column for them"] += 1
        angle = attributes.number("rotation") if "rotation" in attributes else 0.0
        if not angle or mask is not None:
            return box
        self._notes["rotated rectangles became the upright boxes around them"] += 1
        x, y, w, h = box
        return rotated_box(box, angle, (x + w / 2, y + h / 2))


def rotated_box(box: Box, degrees: float, pivot: tuple[float, float]) -> Box:
    """The upright box around `box` turned clockwise about `pivot` (y points down)."""
    x, y, w, h = box
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = [(cx - pivot[0], cy - pivot[1]) for cx in (x, x + w) for cy in (y, y + h)]
    xs = [pivot[0] + dx * cos - dy * sin for dx, dy in corners]
    ys = [pivot[1] + dx * sin + dy * cos for dx, dy in corners]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def own_fields(node: Node) -> dict[str, Any]:
    """What Masklake's own exports tell in a `masklake` object: uri, source, split, digest, size_known."""
    value = node.value.get("masklake")
    if value is None:
        return {}
    own = Node(value, f"{node.where}: masklake")
    found: dict[str, Any] = {
        name: own.text(name) for name in ("uri", "source", "split", "digest") if name in own
    }
    if found.get("split", "train") not in SPLITS:
        raise own.fail(f"split is {found['split']!r}, not one of {', '.join(SPLITS)}")
    if "size_known" in own:
        found["size_known"] = own.flag("size_known")
    return found


def _categories(root: Node) -> dict[Hashable, _Category]:
    found: dict[Hashable, _Category] = {}
    names: dict[str, Hashable] = {}
    for i, value in enumerate(root.items("categories")):
        node = Node(value, f"{root.where}: category {i + 1} of the file")
        id_ = node.whole("id", 0)
        name = node.text("name")
        if id_ in found or name in names:
            raise node.fail(f"its id {id_} or its name {name!r} is used twice; each names one class")
        names[name] = id_
        joints = node.texts("keypoints") if "keypoints" in node else []
        found[id_] = _Category(id_, name, tuple(joints))
    return found


def _mask(node: Node, image: LabelledImage) -> Rle | None:
    found = node.value.get("segmentation")
    if not found:
        return None
    assert image.width is not None and image.height is not None  # noqa: S101  # COCO images have a size
    height, width = image.height, image.width
    try:
        if isinstance(found, list):
            polygons = [node.numbers("segmentation", polygon) for polygon in found]
            return label_masks.from_polygons(polygons, height, width)
        if isinstance(found, dict):
            return _rle(Node(found, f"{node.where}: segmentation"), height, width)
    except ValueError as error:
        raise node.fail(f"{error} (image {image.name!r})") from None
    raise node.fail(f"segmentation is {kind(found)}, neither polygons nor an RLE")


def _rle(node: Node, height: int, width: int) -> Rle:
    size = node.items("size")
    counts = node.value.get("counts")
    if not isinstance(counts, str):
        counts = node.items("counts")
        if any(type(v) is not int for v in counts):
            raise node.fail("counts holds something else than whole numbers")
    if any(type(v) is not int for v in size):
        raise node.fail("size holds something else than whole numbers")
    return label_masks.from_counts(counts, size, height, width)


def _joints(node: Node, category: _Category) -> tuple[Joint, ...]:
    if "keypoints" not in node:
        return ()
    if not category.joints:
        if any(node.numbers("keypoints")):
            raise node.fail(f"has keypoints, and its category {category.name!r} names none")
        return ()
    values = node.numbers("keypoints", count=3 * len(category.joints))
    if not set(values[2::3]) <= {0, 1, 2}:
        raise node.fail("keypoints has a visibility that is not 0, 1 or 2")
    triples = zip(category.joints, values[::3], values[1::3], values[2::3], strict=True)
    return tuple(Joint(name, x, y, int(v)) for name, x, y, v in triples)


def _box(node: Node, mask: Rle | None, joints: Sequence[Joint]) -> Box:
    if "bbox" in node:
        x, y, w, h = node.numbers("bbox", count=4)
        if w < 0 or h < 0:
            raise node.fail(
                f"bbox has a negative width or height: {_shown((x, y, w, h))}; it is x, y, width, height"
            )
        return x, y, w, h
    if mask is not None:
        return mask.box
    return box_around(joints) or _no_box(node)


def box_around(joints: Sequence[Joint]) -> Box | None:
    """The box around the labelled joints."""
    labelled = [joint for joint in joints if joint.visibility]
    if not labelled:
        return None
    xs, ys = [joint.x for joint in labelled], [joint.y for joint in labelled]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def _no_box(node: Node) -> Box:
    raise UserError(f"{node.where}: has neither a bbox nor a segmentation nor keypoints")


def _shown(box: Sequence[float]) -> str:
    return "[{}]".format(", ".join(f"{v:g}" for v in box))
