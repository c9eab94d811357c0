"""The objects of a scene: shapes and articulated figures with COCO's 17 keypoints, arranged and drawn.

All drawing is on whole pixels. Everything is drawn twice, with the same geometry: in the picture and in a part map,
which says which part of which object can be seen at a pixel.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from masklake.model.coco import KEYPOINT_NAMES
from masklake.model.scenes.texture import Colour, blend
from masklake.model.scenes.texture import colour as random_colour
from numpy.random import RandomState
from numpy.typing import NDArray
from PIL import ImageDraw

# Category id is the position in this tuple plus 1, so that a person is 1, as in COCO.
CLASSES: tuple[str, ...] = ("person", "circle", "square", "triangle", "star", "cross")

# Parts of a figure in the part map: a keypoint is visible where one of its own parts is on top.
_TORSO, _HEAD = 1, 2
_UPPER_ARM, _FOREARM, _THIGH, _SHIN = 3, 5, 7, 9  # left; the right one is the next number
PARTS_PER_SEGMENT = 16
_KEYPOINT_PARTS: tuple[tuple[int, ...], ...] = (
    *((_HEAD,),) * 5,
    *((_TORSO, _UPPER_ARM + side) for side in (0, 1)),
    *((_UPPER_ARM + side, _FOREARM + side) for side in (0, 1)),
    *((_FOREARM + side,) for side in (0, 1)),
    *((_TORSO, _THIGH + side) for side in (0, 1)),
    *((_THIGH + side, _SHIN + side) for side in (0, 1)),
    *((_SHIN + side,) for side in (0, 1)),
)

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Drawable:
    """What can be drawn: its extent in pixels around its centre (left, top, right, bottom) and how it is drawn there."""

    extent: tuple[float, float, float, float]
    figure: "Figure | None" = None
    shape: "Shape | None" = None


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One of `CLASSES` but a person. radius in pixels, rotation in radians."""

    name: str
    radius: float
    rotation: float
    colour: Colour


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A person. head, height in pixels; left_first: whether the left limbs are drawn first, behind the body."""

    keypoints: NDArray[np.float64]  # (17, 2), pixels from the middle of the figure
    head: Point
    height: float
    left_first: bool
    skin: Colour
    shirt: Colour
    trousers: Colour


def arrange(rng: RandomState, base: NDArray, height: int, width: int) -> list[tuple[Drawable, Point]]:
    """Choose objects and places, back to front, such that none covers half of the box of one behind it."""
    side = min(height, width)
    kinds = ["person"] * int(rng.choice([0, 1, 1, 1, 2, 2, 3]))
    kinds += [CLASSES[rng.randint(1, len(CLASSES))] for _ in range(rng.randint(1, 6))]
    placed: list[tuple[Drawable, Point]] = []
    boxes: list[list[float]] = []  # left, top, right, bottom, area, covered area
    for kind in rng.permutation(kinds):
        drawable = _figure(rng, base, side) if kind == "person" else _shape(rng, base, str(kind), side)
        left, top, right, bottom = drawable.extent
        for _ in range(6):
            centre = _place(rng, drawable.extent, height, width)
            box = [centre[0] + left, centre[1] + top, centre[0] + right, centre[1] + bottom]
            overlaps = [
                max(0.0, min(box[2], b[2]) - max(box[0], b[0]))
                * max(0.0, min(box[3], b[3]) - max(box[1], b[1]))
                for b in boxes
            ]
            if all(b[5] + overlap <= 0.45 * b[4] for b, overlap in zip(boxes, overlaps, strict=True)):
                for b, overlap in zip(boxes, overlaps, strict=True):
                    b[5] += overlap
                boxes.append([*box, (right - left) * (bottom - top), 0.0])
                placed.append((drawable, centre))
                break
    return placed


def _place(rng: RandomState, extent: tuple[float, float, float, float], height: int, width: int) -> Point:
    """A centre: mostly with the whole object in the frame, in one case of six over the frame's edge."""
    cut = rng.random_sample() < 1 / 6
    share_x, share_y = rng.random_sample(2)
    left, top, right, bottom = extent
    if cut:
        return round(share_x * width), round(share_y * height)
    free_x, free_y = max(0.0, width - (right - left)), max(0.0, height - (bottom - top))
    return round(share_x * free_x - left), round(share_y * free_y - top)


def _shape(rng: RandomState, base: NDArray, name: str, side: int) -> Drawable:
    radius = side * (0.05 + 0.17 * rng.random_sample() ** 1.5)
    shape = Shape(
        name=name, radius=radius, rotation=rng.random_sample() * 2 * math.pi, colour=random_colour(rng, base)
    )
    return Drawable(extent=(-radius, -radius, radius, radius), shape=shape)


def _figure(rng: RandomState, base: NDArray, side: int) -> Drawable:
    """A figure that faces the viewer, its left side on the right of the picture, in a random pose."""
    height = side * (0.35 + 0.55 * rng.random_sample())

    def swing(low: float, high: float) -> float:
        return math.radians(low + (high - low) * rng.random_sample())

    def onward(start: Point, length: float, angle: float, sign: int) -> Point:
        length *= 0.8 + 0.2 * rng.random_sample()
        return start[0] + sign * length * math.sin(angle), start[1] + length * math.cos(angle)

    nod, look = swing(-25, 25), 0.02 * (2 * rng.random_sample() - 1)

    def on_head(x: float, y: float) -> Point:
        y -= 0.135
        return x * math.cos(nod) - y * math.sin(nod), x * math.sin(nod) + y * math.cos(nod)

    points: dict[str, Point] = {"nose": on_head(look, 0.015)}
    for sign, name in ((1, "left"), (-1, "right")):
        points[f"{name}_eye"] = on_head(sign * 0.038 + look, -0.02)
        points[f"{name}_ear"] = on_head(sign * 0.09, 0.0)
        arm, leg = swing(-10, 150), swing(-6, 48)
        points[f"{name}_shoulder"] = (sign * 0.115, 0.025)
        points[f"{name}_elbow"] = onward(points[f"{name}_shoulder"], 0.185, arm, sign)
        points[f"{name}_wrist"] = onward(points[f"{name}_elbow"], 0.175, arm + swing(-60, 60), sign)
        points[f"{name}_hip"] = (sign * 0.075, 0.32)
        points[f"{name}_knee"] = onward(points[f"{name}_hip"], 0.23, leg, sign)
        points[f"{name}_ankle"] = onward(points[f"{name}_knee"], 0.225, leg - swing(-10, 55), sign)
    lean = swing(-30, 30)
    turn = np.array([[math.cos(lean), math.sin(lean)], [-math.sin(lean), math.cos(lean)]]) * height
    body = np.array([*(points[name] for name in KEYPOINT_NAMES), on_head(0.0, 0.0)]) @ turn
    low, high = body.min(0), body.max(0)
    body -= (low + high) / 2
    margin = 0.07 * height
    half_width, half_height = (high - low) / 2 + margin
    skins = ((240, 205, 175), (205, 155, 115), (140, 95, 65), (95, 62, 45))
    figure = Figure(
        keypoints=body[:-1],
        head=(float(body[-1, 0]), float(body[-1, 1])),
        height=height,
        left_first=bool(rng.random_sample() < 0.5),
        skin=skins[rng.randint(len(skins))],
        shirt=random_colour(rng, base),
        trousers=random_colour(rng, base),
    )
    return Drawable(
        extent=(float(-half_width), float(-half_height), float(half_width), float(half_height)), figure=figure
    )


class _Pen:
    """Draws in the picture and, with the same geometry, in the part map."""

    def __init__(self, canvas: ImageDraw.ImageDraw, parts: ImageDraw.ImageDraw, segment: int) -> None:
        self._canvas, self._parts, self._first = canvas, parts, segment * PARTS_PER_SEGMENT

    def polygon(self, points: Sequence[Point], colour: Colour, part: int) -> None:
        corners = [(round(x), round(y)) for x, y in points]
        self._canvas.polygon(corners, fill=colour)
        self._parts.polygon(corners, fill=self._first + part)

    def disc(self, centre: Point, radius: float, colour: Colour, part: int) -> None:
        x, y, r = round(centre[0]), round(centre[1]), max(1, round(radius))
        self._canvas.ellipse((x - r, y - r, x + r, y + r), fill=colour)
        self._parts.ellipse((x - r, y - r, x + r, y + r), fill=self._first + part)

    def limb(self, start: Point, end: Point, radius: float, colour: Colour, part: int) -> None:
        self.disc(start, radius, colour, part)
        self.disc(end, radius, colour, part)
        length = math.dist(start, end) or 1.0
        across_x, across_y = (end[1] - start[1]) * radius / length, (start[0] - end[0]) * radius / length
        corners = [
            (start[0] + across_x, start[1] + across_y),
            (end[0] + across_x, end[1] + across_y),
            (end[0] - across_x, end[1] - across_y),
            (start[0] - across_x, start[1] - across_y),
        ]
        self.polygon(corners, colour, part)


def draw(
    canvas: ImageDraw.ImageDraw, parts: ImageDraw.ImageDraw, drawable: Drawable, centre: Point, segment: int
) -> NDArray[np.int32] | None:
    """Draw an object; for a figure, return its keypoints in the picture: (17, 2) whole pixels."""
    pen = _Pen(canvas, parts, segment)
    if drawable.figure is not None:
        keypoints = np.rint(drawable.figure.keypoints + np.array(centre)).astype(np.int32)
        head = (drawable.figure.head[0] + centre[0], drawable.figure.head[1] + centre[1])
        _draw_figure(pen, drawable.figure, [(int(x), int(y)) for x, y in keypoints], head)
        return keypoints
    if drawable.shape is not None:
        _draw_shape(pen, drawable.shape, centre)
    return None


def _draw_shape(pen: _Pen, shape: Shape, centre: Point) -> None:
    if shape.name == "circle":
        pen.disc(centre, shape.radius, shape.colour, 0)
        return
    outlines: dict[str, list[tuple[float, float]]] = {  # (radius share, turn in parts of a circle)
        "square": [(1.0, i / 4) for i in range(4)],
        "triangle": [(1.0, i / 3) for i in range(3)],
        "star": [(1.0 if i % 2 == 0 else 0.42, i / 10) for i in range(10)],
        # A plus sign: arms 0.35 radius wide to each side; the inner corners lie on the diagonals.
        "cross": [
            corner
            for i in range(4)
            for corner in ((1.0, i / 4 - 0.0526), (1.0, i / 4 + 0.0526), (0.46, i / 4 + 0.125))
        ],
    }
    corners = []
    for share, turn in outlines[shape.name]:
        angle = shape.rotation + 2 * math.pi * turn
        reach = share * shape.radius
        corners.append((centre[0] + reach * math.cos(angle), centre[1] + reach * math.sin(angle)))
    pen.polygon(corners, shape.colour, 0)


def _draw_figure(pen: _Pen, figure: Figure, keypoints: Sequence[Point], head: Point) -> None:
    points = dict(zip(KEYPOINT_NAMES, keypoints, strict=True))
    h = figure.height

    def shade(colour: Colour, side: int) -> Colour:
        return blend(colour, 255, 0.4) if side == 0 else blend(colour, 0, 0.4)

    sides = ((0, "left"), (1, "right")) if figure.left_first else ((1, "right"), (0, "left"))
    for side, name in sides:
        colour = shade(figure.trousers, side)
        pen.limb(points[f"{name}_knee"], points[f"{name}_ankle"], 0.028 * h, colour, _SHIN + side)
        pen.limb(
            points[f"{name}_hip"], points[f"{name}_knee"], 0.038 * h, blend(colour, 128, 0.25), _THIGH + side
        )
    torso = [points["left_shoulder"], points["right_shoulder"], points["right_hip"], points["left_hip"]]
    neck = ((torso[0][0] + torso[1][0]) / 2, (torso[0][1] + torso[1][1]) / 2)
    pen.limb(neck, head, 0.03 * h, figure.skin, _TORSO)
    pen.polygon(torso, figure.shirt, _TORSO)
    for side, name in sides:
        colour = shade(figure.shirt, side)
        pen.limb(points[f"{name}_shoulder"], points[f"{name}_elbow"], 0.03 * h, colour, _UPPER_ARM + side)
        pen.limb(
            points[f"{name}_elbow"],
            points[f"{name}_wrist"],
            0.024 * h,
            blend(colour, 128, 0.3),
            _FOREARM + side,
        )
        pen.disc(points[f"{name}_wrist"], 0.03 * h, figure.skin, _FOREARM + side)
    for side, name in sides:
        pen.disc(points[f"{name}_ear"], 0.022 * h, shade(figure.skin, side), _HEAD)
    pen.disc(head, 0.08 * h, figure.skin, _HEAD)
    for side, name in sides:
        pen.disc(points[f"{name}_eye"], 0.016 * h, (250, 250, 250) if side == 0 else (20, 20, 20), _HEAD)
    pen.disc(points["nose"], 0.014 * h, (215, 60, 50), _HEAD)


def visibility(points: NDArray[np.int32], part_map: NDArray[np.int32], segment: int) -> NDArray[np.int32]:
    """COCO keypoints (17, 3), x, y, visibility, of points (17, 2) in pixels of the picture: outside the frame all zero, hidden 1, visible 2."""
    keypoints = np.zeros((len(points), 3), np.int32)
    height, width = part_map.shape
    for row, (x, y), own_parts in zip(keypoints, points, _KEYPOINT_PARTS, strict=True):
        if 0 <= x < width and 0 <= y < height:
            owner, part = divmod(int(part_map[y, x]), PARTS_PER_SEGMENT)
            row[:] = x, y, 2 if owner == segment and part in own_parts else 1
    return keypoints
