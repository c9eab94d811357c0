"""The regions of one Label Studio annotation: results of one id put together, and joints given to their instances."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from masklake.pipeline.labels import masks as label_masks
from masklake.pipeline.labels.formats import brush_rle
from masklake.pipeline.labels.formats.node import Node, kind
from masklake.pipeline.labels.masks import Rle
from masklake.pipeline.labels.sets import Box, Joint

_TYPES = {name + end for name in ("brush", "polygon", "rectangle", "keypoint") for end in ("", "labels")} | {
    "labels"
}
_ROUNDING = 1e-6
"""Pixels by which a point may lie outside a box that percentages have blurred."""


@dataclass
class Region:
    """What the results of one id say together."""

    id: str
    node: Node
    """The `value` of all of them."""
    width: int
    height: int
    """Of the image, pixels: positions are percentages of it."""
    parent: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    joints: dict[str, Joint] = field(default_factory=dict)

    @property
    def shape(self) -> str | None:
        """brush, polygon, rectangle, keypoint, or None where nothing is drawn."""
        keys = self.node.value.keys()
        if "rle" in keys:
            return "brush"
        if "points" in keys:
            return "polygon"
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
        """The one name. Raises UserError when there are more, or it is no text."""
        if len(self.labels) > 1:
            raise self.node.fail(f"has {len(self.labels)} labels; an instance has one class")
        [name] = self.labels
        if not isinstance(name, str) or not name:
            raise self.node.fail(f"its label is {kind(name)}, not a text")
        return self.node.check_text(name, "label")

    @property
    def meta_texts(self) -> list[str]:
        """What the annotator wrote about the region, in lower case."""
        found = self.meta.get("text") or []
        texts = found if isinstance(found, list) else [found]
        return [text.strip().lower() for text in texts if isinstance(text, str)]

    def mask(self) -> Rle | None:
        """The mask of a brush or polygon region."""
        try:
            if self.shape == "brush":
                return label_masks.from_pixels(
                    brush_rle.decode(self.node.items("rle"), self.height, self.width)
                )
            if self.shape == "polygon":
                corners = [
                    self.node.numbers("points", corner, count=2) for corner in self.node.items("points")
                ]
                flat = [v for x, y in corners for v in self._pixels(x, y)]
                return label_masks.from_polygons([flat], self.height, self.width)
        except ValueError as error:
            raise self.node.fail(str(error)) from None
        return None

    def box(self) -> Box:
        """The box of a rectangle, not turned."""
        x, y = self.point()
        w, h = self._pixels(self.node.number("width"), self.node.number("height"))
        if w < 0 or h < 0:
            raise self.node.fail("a rectangle has a negative width or height")
        return x, y, w, h

    def point(self) -> tuple[float, float]:
        """Where a key point is, or a rectangle begins, in pixels."""
        return self._pixels(self.node.number("x"), self.node.number("y"))

    def _pixels(self, x: float, y: float) -> tuple[float, float]:
        return x * self.width / 100, y * self.height / 100

    def contains(self, x: float, y: float) -> bool:
        """Whether the point lies in the box of this region."""
        mask = self.mask()
        left, top, w, h = mask.box if mask is not None else self.box()
        near = _ROUNDING
        return left - near <= x <= left + w + near and top - near <= y <= top + h + near


def instance_regions(annotation: Node, notes: Counter[str]) -> list[Region]:
    """The regions that are instances, with their joints. `notes` counts what has no place among labels.

    Raises UserError for what cannot be understood, and for a key point that belongs to no instance.
    """
    regions: dict[str, Region] = {}
    links: dict[str, set[str]] = {}
    for i, value in enumerate(annotation.items("result")):
        node = Node(value, f"{annotation.where}: result {i + 1}")
        type_ = node.text("type")
        if type_ == "relation":
            one, other = str(node.identity("from_id")), str(node.identity("to_id"))
            links.setdefault(one, set()).add(other)
            links.setdefault(other, set()).add(one)
        elif type_ not in _TYPES:
            notes[f"results of type {type_!r} left out: they have no place among labels"] += 1
        else:
            _collect(
                node, str(node.identity("id")) if "id" in node else f"#{i + 1}", annotation.where, regions
            )
    usable = [region for region in regions.values() if _usable(region, notes)]
    instances = {region.id: region for region in usable if region.shape != "keypoint"}
    for region in usable:
        if region.shape == "keypoint":
            _give_joint(region, _owner(region, instances, links.get(region.id, set())))
    return list(instances.values())


def _collect(node: Node, id_: str, where: str, regions: dict[str, Region]) -> None:
    if node.value.get("image_rotation"):
        raise node.fail(
            "its image was rotated in Label Studio (image_rotation); turn it back there and export again"
        )
    width, height = node.whole("original_width", 1), node.whole("original_height", 1)
    try:
        label_masks.check_frame(height, width)
    except ValueError as error:
        raise node.fail(str(error)) from None
    if id_ not in regions:
        regions[id_] = Region(id_, Node({}, f"{where}: region {id_!r}"), width, height)
    region = regions[id_]
    if (region.width, region.height) != (width, height):
        raise node.fail(
            f"its original size is {width}×{height}, and {region.width}×{region.height} before in the same region"
        )
    region.node.value |= Node(node.value.get("value"), f"{node.where}: value").value
    region.meta |= node.value["meta"] if isinstance(node.value.get("meta"), dict) else {}
    if "parentID" in node:
        region.parent = str(node.identity("parentID"))


def _usable(region: Region, notes: Counter[str]) -> bool:
    if region.shape is None:
        notes["regions without a shape left out"] += 1
    elif not region.labels:
        notes["regions without a label left out"] += 1
    return region.shape is not None and bool(region.labels)


def _owner(point: Region, instances: dict[str, Region], linked: set[str]) -> Region:
    if point.parent in instances:
        return instances[point.parent]
    found = [instances[id_] for id_ in sorted(linked) if id_ in instances]
    if not found:
        found = [one for one in instances.values() if one.contains(*point.point())]
    if len(found) != 1:
        raise point.node.fail(
            f"the key point {point.label!r} belongs to {len(found)} regions; make one region its parent, or relate the "
            "two in Label Studio"
        )
    return found[0]


def _give_joint(point: Region, owner: Region) -> None:
    if point.label in owner.joints:
        raise point.node.fail(f"is a second {point.label!r} of region {owner.id!r}")
    hidden = "hidden" in point.node and point.node.flag("hidden")
    owner.joints[point.label] = Joint(point.label, *point.point(), 1 if hidden else 2)
