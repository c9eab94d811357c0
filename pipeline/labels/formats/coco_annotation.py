"""One annotation of a COCO file into an instance.

What cannot be read of it, a mask or keypoints, is left out and told, as long as a box is left to say where the object is.
"""

from __future__ import annotations

import ast
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from masklake.model.coco import KEYPOINT_NAMES
from masklake.pipeline.labels import masks as label_masks
from masklake.pipeline.labels.formats.node import Node, UnreadableError, kind, plain_number
from masklake.pipeline.labels.masks import LabelMask
from masklake.pipeline.labels.sets import Box, Instance, Keypoint, LabelledImage, Skipped

_T = TypeVar("_T")
_CORNERS = 3


@dataclass(frozen=True)
class Category:
    """A class of a file. `id` is None where the file's id is not a number that a class can have."""

    id: int | None
    name: str
    keypoint_names: tuple[str, ...]


@dataclass
class Annotation:
    """An annotation that is being read. `notes` counts remarks for the user, `skipped` lists the parts that are left out."""

    node: Node
    image: LabelledImage
    category: Category
    notes: Counter[str]
    skipped: list[Skipped] = field(default_factory=list, init=False)
    _first: UnreadableError | None = field(default=None, init=False)

    def instance(self, *, cvat: bool) -> Instance:
        """The instance. Raises UnreadableError where the annotation has no box, mask or keypoints."""
        node = self.node
        mask = self._try("mask", self._mask)
        keypoints = self._try("keypoints", self._keypoints) or ()
        crowd = "iscrowd" in node and node.flag("iscrowd")
        box = self._box(mask, keypoints)
        if cvat:
            if crowd:
                self.notes[
                    "iscrowd not taken: CVAT writes it for every brush mask (--format coco takes it)"
                ] += 1
                crowd = False
            box = self._upright(box, mask)
        elif node.value.get("attributes"):
            self.notes["attributes not kept: labels have no column for them"] += 1
        if ignore := node.value.get("ignore") not in (None, False, 0, "0", "false"):
            self.notes["objects to be ignored (ignore: 1), which are neither learnt nor counted"] += 1
        return Instance(
            label=self.category.name,
            label_id=self.category.id,
            box=box,
            mask=mask,
            keypoints=keypoints,
            iscrowd=crowd,
            ignore=ignore,
            given_area=self._area(),
            num_keypoints=_count(node.value.get("num_keypoints")),
        )

    def _try(self, what: str, read: Callable[[], _T]) -> _T | None:
        """The result of `read`, or None where it fails; the failure is added to `skipped`."""
        try:
            return read()
        except UnreadableError as error:
            self._first = self._first or error
            self.skipped.append(Skipped(self.node.where, f"{what} left out: {error.problem}"))
            return None

    def _mask(self) -> LabelMask | None:
        segmentation = self.node.value.get("segmentation")
        if isinstance(segmentation, str) and segmentation[:1] in ("[", "{"):
            segmentation = _parsed(self.node, "segmentation", segmentation)
        if not segmentation:
            return None
        try:
            if (
                isinstance(segmentation, list)
                and len(segmentation) == 1
                and isinstance(segmentation[0], dict)
            ):
                segmentation = segmentation[0]
            if isinstance(segmentation, dict):
                return _rle(Node(segmentation, self.node.where), self.image)
            if isinstance(segmentation, list):
                return self._drawn(segmentation)
        except ValueError as error:
            raise self.node.fail(f"{error} (image {self.image.name!r})") from None
        raise self.node.fail(f"segmentation is {kind(segmentation)}, neither polygons nor an RLE")

    def _drawn(self, segmentation: list[Any]) -> LabelMask | None:
        width, height = self.image.width, self.image.height
        if width is None or height is None:
            raise self.node.fail("a polygon needs its image's width and height, which the file does not tell")
        polygons = [self.node.numbers("segmentation", points) for points in _polygons(segmentation) if points]
        drawn = [points for points in polygons if len(points) >= 2 * _CORNERS and len(points) % 2 == 0]
        if few := next((points for points in polygons if points not in drawn), None):
            if not drawn:
                return label_masks.from_polygons([few], height, width)  # raises, and says why
            self.notes["polygons of fewer than 3 points, or of half a point, left out beside others"] += 1
        return label_masks.from_polygons(drawn, height, width) if drawn else None

    def _keypoints(self) -> tuple[Keypoint, ...]:
        node = self.node
        if node.value.get("keypoints") in (None, []):
            return ()
        values = node.numbers("keypoints")
        names = self.category.keypoint_names
        if not names:
            if not any(values):
                return ()
            names = self._proposed(len(values))
        values = node.numbers("keypoints", count=3 * len(names))
        if not set(values[2::3]) <= {0, 1, 2}:
            raise node.fail("keypoints has a visibility that is not 0, 1 or 2")
        triples = zip(names, values[::3], values[1::3], values[2::3], strict=True)
        return tuple(Keypoint(name, x, y, int(v)) for name, x, y, v in triples)

    def _proposed(self, values: int) -> tuple[str, ...]:
        """Names for the keypoints of a category that names none: those that COCO's person has, or numbers."""
        count, rest = divmod(values, 3)
        if rest:
            raise self.node.fail(
                f"keypoints is a list of {values}, not three numbers (x, y, visibility) for each"
            )
        if count == len(KEYPOINT_NAMES) and self.category.name.casefold() == "person":
            names, called = KEYPOINT_NAMES, "the 17 of COCO's persons"
        else:
            names = tuple(f"keypoint_{number}" for number in range(1, count + 1))
            called = f"keypoint_1 to keypoint_{count}" if count > 1 else "keypoint_1"
        self.notes[
            f"keypoints that their category, {self.category.name!r}, does not name: named {called} (other names: as "
            "`keypoints` of the category, in the file)"
        ] += 1
        return names

    def _box(self, mask: LabelMask | None, keypoints: Sequence[Keypoint]) -> Box:
        bbox = self.node.value.get("bbox")
        around = mask.box if mask is not None else box_around(keypoints)
        if bbox not in (None, []):
            box = self._try("bbox", lambda: _own_box(self.node))
            if box is not None and (all(box[2:]) or around is None or self.image.uri is not None):
                return box
            if box is not None:  # Masklake's own exports keep such boxes: they are the lake's
                self.notes["boxes without area: those around mask or keypoints taken"] += 1
        if around is not None:
            return around
        if self._first is not None:
            raise self._first
        raise self.node.fail("has neither a bbox nor a segmentation nor keypoints")

    def _area(self) -> float | None:
        """The file's area; None where it has none that an object could have."""
        try:
            return self.node.area("area")
        except UnreadableError:
            self.notes["areas that no object can have: counted anew"] += 1
            return None

    def _upright(self, box: Box, mask: LabelMask | None) -> Box:
        own_attributes = self.node.value.get("attributes")
        if not isinstance(own_attributes, dict):
            return box
        attributes = Node(own_attributes, self.node.where)
        if own_attributes.keys() - {"occluded", "rotation"}:
            self.notes["attributes not kept: labels have no column for them"] += 1
        angle = (
            self._try("rotation", lambda: attributes.number("rotation")) if "rotation" in attributes else 0.0
        )
        if not angle or mask is not None:
            return box
        self.notes["rotated rectangles became the upright boxes around them"] += 1
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


def box_around(keypoints: Sequence[Keypoint]) -> Box | None:
    """The box around the labelled keypoints."""
    labelled = [keypoint for keypoint in keypoints if keypoint.visibility]
    if not labelled:
        return None
    xs, ys = [keypoint.x for keypoint in labelled], [keypoint.y for keypoint in labelled]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def _parsed(node: Node, key: str, text: str) -> Any:
    """JSON inside a JSON text, as tools that keep annotations in tables write it."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise node.fail(f"{key} is a text that is no JSON") from None


def _own_box(node: Node) -> Box:
    bbox = node.value["bbox"]
    if isinstance(bbox, str) and bbox[:1] == "[":
        bbox = _parsed(node, "bbox", bbox)
    x, y, w, h = node.numbers("bbox", bbox, count=4)
    if w < 0 or h < 0:
        shown = ", ".join(f"{v:g}" for v in (x, y, w, h))
        raise node.fail(f"bbox has a negative width or height: [{shown}]; it is x, y, width, height")
    return x, y, w, h


def _polygons(segmentation: list[Any]) -> Iterator[Any]:
    """The polygons, each a flat list of coordinates, of a list of them, of one polygon's coordinates, or of points."""
    if not any(isinstance(polygon, list | dict) for polygon in segmentation):
        yield segmentation
    elif _are_points(segmentation):
        yield [value for point in segmentation for value in point]
    else:
        for polygon in segmentation:
            if isinstance(polygon, list) and _are_points(polygon):
                yield [value for point in polygon for value in point]
            elif isinstance(polygon, list) and polygon and all(isinstance(part, list) for part in polygon):
                yield from polygon  # in one pair of brackets too many
            else:
                yield polygon


def _are_points(points: list[Any]) -> bool:
    return len(points) >= _CORNERS and all(
        isinstance(point, list) and len(point) == 2 and not any(isinstance(v, list | dict) for v in point)
        for point in points
    )


def _rle(node: Node, image: LabelledImage) -> LabelMask:
    text = node.value.get("counts")
    counts: Any = _as_pycocotools_wrote(text) if isinstance(text, str) else node.items("counts")
    if not isinstance(counts, str):
        counts = [plain_number(value) for value in counts]
        if any(type(v) is not int for v in counts):
            raise node.fail("counts holds something else than whole numbers")
    size: Any = (
        [plain_number(v) for v in node.items("size")] if "size" in node else [image.height, image.width]
    )
    if len(size) != 2 or any(type(v) is not int for v in size):
        raise node.fail("size is not two whole numbers, height and width")
    height, width = (image.height, image.width) if image.height and image.width else size
    return label_masks.from_counts(counts, size, height, width)


def _as_pycocotools_wrote(counts: str) -> str | list[str]:
    """Counts, cleaned of what a careless export put around them: str() of bytes, or run lengths joined into a text.

    None of the characters that tell these apart is one of COCO's.
    """
    if counts[:2] in ("b'", 'b"'):
        try:
            return str(ast.literal_eval(counts).decode("ascii"))
        except (ValueError, SyntaxError, AttributeError, MemoryError, RecursionError):
            return counts
    if any(c in counts for c in " ,"):
        return counts.strip("[] ").replace(",", " ").split()
    return counts


def _count(text: Any) -> int | None:
    value = plain_number(text)
    return value if type(value) is int and 0 <= value < 2**31 else None
