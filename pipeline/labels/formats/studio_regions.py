"""The regions of one Label Studio annotation: results of one id put together, and keypoints given to their instances."""

from __future__ import annotations

import functools
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from masklake.pipeline.labels import masks as label_masks
from masklake.pipeline.labels.formats import bitmask, brush_rle
from masklake.pipeline.labels.formats.node import Node, UnreadableError, kind
from masklake.pipeline.labels.masks import LabelMask
from masklake.pipeline.labels.sets import Box, Keypoint, Skipped

_SHAPES = ("brush", "bitmask", "polygon", "vector", "ellipse", "rectangle", "keypoint")
_TYPES = {name + end for name in _SHAPES for end in ("", "labels")} | {"labels"}
_ROUNDING = 1e-6
"""Pixels by which a point may lie outside a box that percentages have blurred."""

_HIDDEN = ("hidden", "occluded")
"""Meta texts that mark a keypoint as labelled but hidden."""


class Place(NamedTuple):
    """Which image of its task a region is on: the name of the Image tag, and its number where that shows several."""

    to_name: str | None
    page: int


@dataclass
class Region:
    """A region: all results of one id, put together."""

    id: str
    node: Node
    """The `value` of all of them."""
    place: Place
    source: str | None
    """The field of the task's data that old versions wrote into results."""
    width: int
    height: int
    """Of the image, pixels: positions are percentages of it."""
    parent: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    keypoints: dict[str, Keypoint] = field(default_factory=dict)

    @property
    def shape(self) -> str | None:
        """One of _SHAPES, or None where nothing is drawn."""
        keys = self.node.value.keys()
        for key, shape in (
            ("rle", "brush"), ("imageDataURL", "bitmask"), ("points", "polygon"), ("vertices", "vector"), ("radiusX", "ellipse"),
        ):  # fmt: skip
            if key in keys:
                return shape
        if {"x", "y", "width", "height"} <= keys:
            return "rectangle"
        return "keypoint" if {"x", "y"} <= keys else None

    @property
    def labels(self) -> list[Any]:
        """The names given to the region by labels of any kind."""
        named = [v for key, v in self.node.value.items() if key.endswith("labels") and isinstance(v, list)]
        return [name for names in named for name in names]

    @property
    def label(self) -> str:
        """The one name. Raises UnreadableError when there are more, or it is no text."""
        if len(self.labels) > 1:
            raise self.node.fail(f"has {len(self.labels)} labels; an instance has one class")
        [name] = self.labels
        if not isinstance(name, str) or not name:
            raise self.node.fail(f"its label is {kind(name)}, not a text")
        return self.node.check_text(name, "label")

    @property
    def meta_texts(self) -> list[str]:
        """What the annotator wrote about the region, in lower case."""
        text_or_texts = self.meta.get("text") or []
        texts = text_or_texts if isinstance(text_or_texts, list) else [text_or_texts]
        return [text.strip().lower() for text in texts if isinstance(text, str)]

    @property
    def own(self) -> Node:
        """The fields that Masklake's own export wrote for the region."""
        return Node(self.meta.get("masklake") or {}, f"{self.node.where}: meta.masklake")

    @functools.cached_property
    def mask(self) -> LabelMask | None:
        """The mask of a region that has one: all but rectangles and keypoints."""
        node, height, width = self.node, self.height, self.width
        try:
            match self.shape:
                case "brush":
                    return label_masks.from_pixels(brush_rle.decode(node.items("rle"), height, width))
                case "bitmask":
                    return label_masks.from_pixels(bitmask.decode(node.text("imageDataURL"), height, width))
                case "polygon":
                    corners = [node.numbers("points", corner, count=2) for corner in node.items("points")]
                    return self._polygon(corners)
                case "vector":
                    return self._polygon(self._vertices())
                case "ellipse":
                    radii = self._pixels(node.number("radiusX"), node.number("radiusY"))
                    return label_masks.from_ellipse(self.point(), radii, self.rotation, height, width)
        except ValueError as error:
            raise node.fail(str(error)) from None
        return None

    def _polygon(self, corners: list[list[float]]) -> LabelMask:
        flat = [v for x, y in corners for v in self._pixels(x, y)]
        return label_masks.from_polygons([flat], self.height, self.width)

    def _vertices(self) -> list[list[float]]:
        vertices = [Node(vertex, f"{self.node.where}: vertex") for vertex in self.node.items("vertices")]
        if not self.node.value.get("closed") or any(vertex.value.get("isBezier") for vertex in vertices):
            raise self.node.fail(
                "is an open or a curved line of the tag Vector, which has no mask; draw a polygon"
            )
        return [[vertex.number("x"), vertex.number("y")] for vertex in vertices]

    @property
    def rotation(self) -> float:
        """Degrees clockwise."""
        return self.node.number("rotation") if "rotation" in self.node else 0.0

    @functools.cached_property
    def box(self) -> Box:
        """The box of a rectangle, not turned."""
        x, y = self.point()
        w, h = self._pixels(self.node.number("width"), self.node.number("height"))
        if w < 0 or h < 0:
            raise self.node.fail("a rectangle has a negative width or height")
        return x, y, w, h

    def point(self) -> tuple[float, float]:
        """Where a keypoint or an ellipse's centre is, or a rectangle begins, in pixels."""
        return self._pixels(self.node.number("x"), self.node.number("y"))

    def _pixels(self, x: float, y: float) -> tuple[float, float]:
        return x * self.width / 100, y * self.height / 100

    def contains(self, x: float, y: float) -> bool:
        """Whether the point lies in this rectangle, as it is turned, or in the box around the mask."""
        left, top, w, h = self.box if self.mask is None else self.mask.box
        if self.mask is None and self.rotation:  # turned about its top left corner
            cos, sin = math.cos(math.radians(self.rotation)), math.sin(math.radians(self.rotation))
            dx, dy = x - left, y - top
            x, y = left + cos * dx + sin * dy, top + cos * dy - sin * dx
        near = _ROUNDING
        return left - near <= x <= left + w + near and top - near <= y <= top + h + near

    def covers(self, x: float, y: float) -> bool:
        """Whether the point, which it contains, is a pixel of its mask, if it has one."""
        if self.mask is None:
            return True
        row, column = min(int(y), self.height - 1), min(int(x), self.width - 1)
        return bool(label_masks.to_pixels(self.mask)[row, column])


class Regions(NamedTuple):
    """The instances of an annotation, and how much was left out on each image."""

    instances: list[Region]
    left_out: Counter[Place]


def instance_regions(annotation: Node, notes: Counter[str], skipped: list[Skipped]) -> Regions:
    """The regions that are instances, with their keypoints. `notes` counts what has no place among labels, `skipped` takes
    what cannot be read, and keypoints that belong to no instance."""
    regions: dict[tuple[Place, str], Region] = {}
    links: dict[str, set[str]] = {}
    left_out: Counter[Place] = Counter()
    for i, value in enumerate(annotation.items("result")):
        place = Place(None, 0)
        try:
            node = Node(value, f"{annotation.where}: result {i + 1}")
            place = _place(node)
            type_ = node.text("type")
            if type_ == "relation":
                from_id, to_id = str(node.identity("from_id")), str(node.identity("to_id"))
                links.setdefault(from_id, set()).add(to_id)
                links.setdefault(to_id, set()).add(from_id)
            elif type_ not in _TYPES:
                notes[f"results of type {type_!r} left out: they have no place among labels"] += 1
                left_out[place] += 1
            else:
                id_ = str(node.identity("id")) if "id" in node else f"#{i + 1}"
                _collect(node, id_, place, annotation.where, regions)
        except UnreadableError as error:
            skipped.append(error.skipped)
            left_out[place] += 1
    usable = []
    for region in regions.values():
        try:
            if _usable(region, notes):
                usable.append(region)
            else:
                left_out[region.place] += 1
        except UnreadableError as error:
            skipped.append(error.skipped)
            left_out[region.place] += 1
    instances = [region for region in usable if region.shape != "keypoint"]
    for region in usable:
        if region.shape == "keypoint":
            try:
                _give_keypoint(region, _owner(region, instances, links.get(region.id, set())))
            except UnreadableError as error:
                skipped.append(error.skipped)
                left_out[region.place] += 1
    return Regions(instances, left_out)


def _place(node: Node) -> Place:
    to_name, index = node.value.get("to_name"), node.value.get("item_index")
    return Place(
        to_name if isinstance(to_name, str) else None, index if type(index) is int and index >= 0 else 0
    )


def _collect(
    node: Node, id_: str, place: Place, where: str, regions: dict[tuple[Place, str], Region]
) -> None:
    if node.value.get("image_rotation"):
        raise node.fail(
            "its image was rotated in Label Studio (image_rotation); turn it back there and export again"
        )
    width, height = node.whole("original_width", 1), node.whole("original_height", 1)
    try:
        label_masks.check_frame(height, width)
    except ValueError as error:
        raise node.fail(str(error)) from None
    value = Node(node.value.get("value"), f"{node.where}: value").value
    if (place, id_) not in regions:
        source = node.value.get("source")
        field_ = source.removeprefix("$") if isinstance(source, str) else None
        regions[place, id_] = Region(id_, Node({}, f"{where}: region {id_!r}"), place, field_, width, height)
    region = regions[place, id_]
    if (region.width, region.height) != (width, height):
        raise node.fail(
            f"its original size is {width}×{height}, and {region.width}×{region.height} before in the same region"
        )
    region.node.value |= value
    region.meta |= node.value["meta"] if isinstance(node.value.get("meta"), dict) else {}
    if "parentID" in node:
        region.parent = str(node.identity("parentID"))


def _usable(region: Region, notes: Counter[str]) -> bool:
    """Whether the region is an instance or a keypoint. Raises UnreadableError where it would be, and is broken."""
    if region.shape is None:
        notes["regions without a shape left out"] += 1
        return False
    if not region.labels:
        notes["regions without a label left out"] += 1
        return False
    _ = region.label, region.own
    if region.shape == "keypoint":
        region.point()
    elif region.mask is None:
        _ = region.box, region.rotation
    return True


def _owner(point: Region, instances: list[Region], linked: set[str]) -> Region:
    here = [region for region in instances if region.place == point.place]
    owners = [region for region in here if region.id == point.parent]
    owners = owners or [region for region in here if region.id in linked]
    if not owners:
        x, y = point.point()
        owners = [region for region in here if region.contains(x, y)]
        if len(owners) > 1:
            owners = [region for region in owners if region.covers(x, y)] or owners
    if len(owners) != 1:
        raise point.node.fail(
            f"the key point {point.label!r} belongs to {len(owners)} regions; make one region its parent, or relate the "
            "two in Label Studio"
        )
    return owners[0]


def _give_keypoint(point: Region, owner: Region) -> None:
    if point.label in owner.keypoints:
        raise point.node.fail(f"is a second {point.label!r} of region {owner.id!r}")
    # The editor writes only x, y and width, and keeps meta: so Masklake's export says it in meta.
    hidden = (
        ("hidden" in point.node and point.node.flag("hidden"))
        or point.own.value.get("visibility") == 1
        or any(text in _HIDDEN for text in point.meta_texts)
    )
    owner.keypoints[point.label] = Keypoint(point.label, *point.point(), 1 if hidden else 2)
