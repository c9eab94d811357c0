"""Synthetic scenes with exact ground truth, for the demo model, tests and benchmarks.

A scene is a textured background, overlapping shapes and articulated figures ("person") with COCO's 17 joints.
Everything follows from (seed, index, size) alone. Random numbers come from `numpy.random.RandomState`, whose
streams are frozen (NEP 19), and all drawing is on whole pixels, so scenes do not depend on the machine (a
release of Pillow that fills polygons differently would change them).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from masklake.model.coco import KEYPOINT_NAMES, SKELETON
from numpy.random import RandomState
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

# Category id is the position in this tuple plus 1, so that a person is 1, as in COCO.
CLASSES: tuple[str, ...] = ("person", "circle", "square", "triangle", "star", "cross")
PERSON = 1
DEFAULT_SIZES: tuple[tuple[int, int], ...] = ((240, 320), (320, 240), (256, 256))
MIN_SIDE = 64

_FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}

# Parts of a figure in the part map: a joint is visible where one of its own parts is on top.
_TORSO, _HEAD = 1, 2
_UPPER_ARM, _FOREARM, _THIGH, _SHIN = 3, 5, 7, 9  # left; the right one is the next number
_PARTS_PER_SEGMENT = 16
_JOINT_PARTS: tuple[tuple[int, ...], ...] = (
    *((_HEAD,),) * 5,
    *((_TORSO, _UPPER_ARM + side) for side in (0, 1)),
    *((_UPPER_ARM + side, _FOREARM + side) for side in (0, 1)),
    *((_FOREARM + side,) for side in (0, 1)),
    *((_TORSO, _THIGH + side) for side in (0, 1)),
    *((_THIGH + side, _SHIN + side) for side in (0, 1)),
    *((_SHIN + side,) for side in (0, 1)),
)

Colour = tuple[int, int, int]
Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One object of a scene, as far as it can be seen.

    box: x, y, w, h in pixels around the visible pixels; area: their number; segment: their value in
    `Scene.segments`; keypoints: (17, 3) int32 x, y, visibility (0 outside the frame, 1 hidden, 2 visible) in
    the order of `model.coco.KEYPOINT_NAMES`, None for shapes.
    """

    category_id: int
    segment: int
    box: tuple[int, int, int, int]
    area: int
    keypoints: NDArray[np.int32] | None


@dataclass(frozen=True, kw_only=True)
class Scene:
    """image: (H, W, 3) uint8 RGB; segments: (H, W) uint8, 0 where background; instances: back to front."""

    image: NDArray[np.uint8]
    segments: NDArray[np.uint8]
    instances: tuple[Instance, ...]

    def mask(self, instance: Instance) -> NDArray[np.bool_]:
        """The visible pixels of an instance: (H, W) bool."""
        return self.segments == instance.segment


@dataclass(frozen=True, kw_only=True)
class _Object:
    """A thing to draw: its extent around its centre (left, top, right, bottom) and how it is drawn there."""

    extent: tuple[float, float, float, float]
    figure: "_Figure | None" = None
    shape: "_Shape | None" = None


@dataclass(frozen=True, kw_only=True)
class _Shape:
    name: str
    radius: float
    rotation: float
    colour: Colour


@dataclass(frozen=True, kw_only=True)
class _Figure:
    joints: NDArray[np.float64]  # (17, 2), pixels from the middle of the figure
    head: Point
    height: float
    left_first: bool
    skin: Colour
    shirt: Colour
    trousers: Colour


def scene(seed: int, index: int, size: tuple[int, int] = DEFAULT_SIZES[0]) -> Scene:
    """The scene number `index` of the stream `seed`, `size` = (H, W) pixels.

    The size takes part in the layout: two sizes of one (seed, index) are different pictures.
    Raises ValueError when a side is under 64 pixels or a number is negative.
    """
    height, width = size
    if min(size) < MIN_SIDE:
        raise ValueError(
            f"scene size {size}: each side needs at least {MIN_SIDE} pixels; ask for a larger one"
        )
    if seed < 0 or index < 0:
        raise ValueError(f"scene (seed {seed}, index {index}): neither may be negative")
    rng = RandomState([seed, index, height, width])
    base = rng.randint(30, 226, 3)
    image = Image.fromarray(_background(rng, base, height, width))
    parts = Image.new("I", (width, height))
    canvas, part_canvas = ImageDraw.Draw(image), ImageDraw.Draw(parts)

    objects = _arrange(rng, base, height, width)
    joints = [
        _draw(canvas, part_canvas, thing, centre, segment)
        for segment, (thing, centre) in enumerate(objects, start=1)
    ]
    part_map = np.asarray(parts)
    segments = (part_map // _PARTS_PER_SEGMENT).astype(np.uint8)
    instances = []
    for segment, ((thing, _), points) in enumerate(zip(objects, joints, strict=True), start=1):
        mask = segments == segment
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            continue
        x, y = int(columns[0]), int(rows[0])
        instances.append(
            Instance(
                category_id=PERSON if thing.shape is None else CLASSES.index(thing.shape.name) + 1,
                segment=segment,
                box=(x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1),
                area=int(np.count_nonzero(mask)),
                keypoints=None if points is None else _visibility(points, part_map, segment),
            )
        )
    textured = _texture(rng, np.asarray(image), segments, len(objects))
    return Scene(image=textured, segments=segments, instances=tuple(instances))


def write(
    directory: str | Path,
    n: int,
    seed: int,
    *,
    sizes: Sequence[tuple[int, int]] = DEFAULT_SIZES,
    formats: Sequence[str] = ("jpg",),
) -> Path:
    """Write scenes 0 … n - 1 of a stream as image files with one COCO file of their truth.

    Sizes (H, W) and formats ("jpg", "png", "webp") take turns. Files are named `scene-000000.jpg`, …; the
    truth is `annotations.json`, whose path is returned: instances with compressed RLE and person keypoints.
    Raises ValueError for an unknown format.
    """
    unknown = sorted(set(formats) - set(_FORMATS))
    if unknown or not formats:
        raise ValueError(f"scene formats {unknown or 'none'}: choose from {sorted(_FORMATS)}")
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    scenes, names = [], []
    for index in range(n):
        made = scene(seed, index, sizes[index % len(sizes)])
        suffix = formats[index % len(formats)]
        names.append(f"scene-{index:06d}.{suffix}")
        Image.fromarray(made.image).save(folder / names[-1], _FORMATS[suffix], quality=92)
        scenes.append(_records(made, index))
    path = folder / "annotations.json"
    path.write_text(json.dumps(_coco_file(scenes, names)))
    return path


def coco(scenes: Sequence[Scene]) -> dict:
    """The truth of scenes as a COCO dataset (a dict ready for JSON); image ids count from 0."""
    return _coco_file(
        [_records(made, index) for index, made in enumerate(scenes)],
        [f"scene-{index:06d}.png" for index in range(len(scenes))],
    )


def categories() -> list[dict]:
    """COCO category records; the person's has the joints and the skeleton, 1-based as COCO has it."""
    records: list[dict] = [
        {"id": number, "name": name, "supercategory": "scene"} for number, name in enumerate(CLASSES, start=1)
    ]
    records[PERSON - 1]["keypoints"] = list(KEYPOINT_NAMES)
    records[PERSON - 1]["skeleton"] = [[a + 1, b + 1] for a, b in SKELETON]
    return records


def _records(made: Scene, image_id: int) -> tuple[tuple[int, int], list[dict]]:
    annotations = []
    for instance in made.instances:
        rle = coco_mask.encode(np.asfortranarray(made.mask(instance), dtype=np.uint8))
        record = {
            "image_id": image_id,
            "category_id": instance.category_id,
            "bbox": list(instance.box),
            "area": instance.area,
            "iscrowd": 0,
            "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")},
        }
        if instance.keypoints is not None:
            record["keypoints"] = instance.keypoints.ravel().tolist()
            record["num_keypoints"] = int(np.count_nonzero(instance.keypoints[:, 2]))
        annotations.append(record)
    return made.segments.shape, annotations


def _coco_file(scenes: Sequence[tuple[tuple[int, int], list[dict]]], names: Sequence[str]) -> dict:
    images = [
        {"id": index, "file_name": name, "height": size[0], "width": size[1]}
        for index, (name, (size, _)) in enumerate(zip(names, scenes, strict=True))
    ]
    annotations = [record for _, records in scenes for record in records]
    for number, record in enumerate(annotations, start=1):
        record["id"] = number
    return {"images": images, "annotations": annotations, "categories": categories()}


def _noise(rng: RandomState, height: int, width: int, cell: int, channels: int) -> NDArray[np.int16]:
    """Smooth noise of about `cell` pixels a feature: (H, W, channels) in -128 … 127."""
    rows, columns = max(2, height // cell), max(2, width // cell)
    grid = np.frombuffer(rng.bytes(rows * columns * channels), np.uint8).reshape(rows, columns, channels)
    layers = [
        np.asarray(Image.fromarray(grid[:, :, c]).resize((width, height), Image.Resampling.BILINEAR))
        for c in range(channels)
    ]
    return np.stack(layers, axis=-1).astype(np.int16) - 128


def _background(rng: RandomState, base: NDArray, height: int, width: int) -> NDArray[np.uint8]:
    side = min(height, width)
    picture = base.astype(np.int16) + (_noise(rng, height, width, side // 3, 3) * 3) // 8
    picture += _noise(rng, height, width, max(2, side // 16), 3) // int(rng.choice([5, 8, 16]))
    x, y = np.arange(width, dtype=np.int32), np.arange(height, dtype=np.int32)[:, None]
    step_x, step_y = rng.randint(-60, 61, 2)
    picture += (x * step_x // width + y * step_y // height).astype(np.int16)[:, :, None]
    if rng.random_sample() < 0.4:
        period, strength = int(rng.randint(6, 41)), int(rng.randint(6, 31))
        run_x, run_y = rng.randint(-4, 5, 2)
        wave = np.abs((x * run_x + y * run_y) // 2 % period * 2 - period)
        picture += (wave * strength // period).astype(np.int16)[:, :, None]
    return np.clip(picture, 0, 255).astype(np.uint8)


def _texture(
    rng: RandomState, picture: NDArray, segments: NDArray[np.uint8], n_objects: int
) -> NDArray[np.uint8]:
    """Give each object a texture of its own (mottle, stripes or none), then the whole picture some grain."""
    height, width = segments.shape
    mottle = np.concatenate([[0], rng.randint(0, 33, n_objects)]).astype(np.int16)
    striped = np.concatenate([[0], rng.randint(8, 29, n_objects) * (rng.random_sample(n_objects) < 0.3)])
    run_x, run_y = rng.randint(-3, 4, (2, n_objects + 1)).astype(np.int16)
    noise = _noise(rng, height, width, 6, 1)[:, :, 0]
    x, y = np.arange(width, dtype=np.int16), np.arange(height, dtype=np.int16)[:, None]
    phase = (x * run_x[segments] + y * run_y[segments]) >> 3
    change = (noise * mottle[segments]) // 128 + ((phase & 1) * 2 - 1) * striped.astype(np.int16)[segments]
    grain = np.frombuffer(rng.bytes(height * width), np.int8).reshape(height, width)
    change += grain // int(rng.choice([8, 12, 24]))
    return np.clip(picture.astype(np.int16) + change[:, :, None], 0, 255).astype(np.uint8)


def _colour(rng: RandomState, apart_from: NDArray) -> Colour:
    """A random colour that is told from the background's base colour."""
    while True:
        colour = rng.randint(0, 256, 3)
        if np.abs(colour - apart_from).sum() >= 130:
            return int(colour[0]), int(colour[1]), int(colour[2])


def _blend(colour: Colour, towards: int, share: float) -> Colour:
    red, green, blue = (round(c + (towards - c) * share) for c in colour)
    return red, green, blue


def _arrange(rng: RandomState, base: NDArray, height: int, width: int) -> list[tuple[_Object, Point]]:
    """Choose objects and places, back to front, such that none covers half of the box of one behind it."""
    side = min(height, width)
    kinds = ["person"] * int(rng.choice([0, 1, 1, 1, 2, 2, 3]))
    kinds += [CLASSES[rng.randint(1, len(CLASSES))] for _ in range(rng.randint(1, 6))]
    placed: list[tuple[_Object, Point]] = []
    boxes: list[list[float]] = []  # left, top, right, bottom, area, covered area
    for kind in rng.permutation(kinds):
        thing = _figure(rng, base, side) if kind == "person" else _shape(rng, base, str(kind), side)
        left, top, right, bottom = thing.extent
        for _ in range(6):
            centre = _place(rng, thing.extent, height, width)
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
                placed.append((thing, centre))
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


def _shape(rng: RandomState, base: NDArray, name: str, side: int) -> _Object:
    radius = side * (0.05 + 0.17 * rng.random_sample() ** 1.5)
    shape = _Shape(
        name=name, radius=radius, rotation=rng.random_sample() * 2 * math.pi, colour=_colour(rng, base)
    )
    return _Object(extent=(-radius, -radius, radius, radius), shape=shape)


def _figure(rng: RandomState, base: NDArray, side: int) -> _Object:
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
    figure = _Figure(
        joints=body[:-1],
        head=(float(body[-1, 0]), float(body[-1, 1])),
        height=height,
        left_first=bool(rng.random_sample() < 0.5),
        skin=skins[rng.randint(len(skins))],
        shirt=_colour(rng, base),
        trousers=_colour(rng, base),
    )
    return _Object(
        extent=(float(-half_width), float(-half_height), float(half_width), float(half_height)), figure=figure
    )


class _Pen:
    """Draws in the picture and, with the same geometry, in the part map."""

    def __init__(self, canvas: ImageDraw.ImageDraw, parts: ImageDraw.ImageDraw, segment: int) -> None:
        self._canvas, self._parts, self._first = canvas, parts, segment * _PARTS_PER_SEGMENT

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


def _draw(
    canvas: ImageDraw.ImageDraw, parts: ImageDraw.ImageDraw, thing: _Object, centre: Point, segment: int
) -> NDArray[np.int32] | None:
    """Draw an object; for a figure, return its joints in the picture: (17, 2) whole pixels."""
    pen = _Pen(canvas, parts, segment)
    if thing.figure is not None:
        joints = np.rint(thing.figure.joints + np.array(centre)).astype(np.int32)
        head = (thing.figure.head[0] + centre[0], thing.figure.head[1] + centre[1])
        _draw_figure(pen, thing.figure, [(int(x), int(y)) for x, y in joints], head)
        return joints
    if thing.shape is not None:
        _draw_shape(pen, thing.shape, centre)
    return None


def _draw_shape(pen: _Pen, shape: _Shape, centre: Point) -> None:
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


def _draw_figure(pen: _Pen, figure: _Figure, joints: Sequence[Point], head: Point) -> None:
    at = dict(zip(KEYPOINT_NAMES, joints, strict=True))
    h = figure.height

    def shade(colour: Colour, side: int) -> Colour:
        return _blend(colour, 255, 0.4) if side == 0 else _blend(colour, 0, 0.4)

    sides = ((0, "left"), (1, "right")) if figure.left_first else ((1, "right"), (0, "left"))
    for side, name in sides:
        colour = shade(figure.trousers, side)
        pen.limb(at[f"{name}_knee"], at[f"{name}_ankle"], 0.028 * h, colour, _SHIN + side)
        pen.limb(at[f"{name}_hip"], at[f"{name}_knee"], 0.038 * h, _blend(colour, 128, 0.25), _THIGH + side)
    torso = [at["left_shoulder"], at["right_shoulder"], at["right_hip"], at["left_hip"]]
    neck = ((torso[0][0] + torso[1][0]) / 2, (torso[0][1] + torso[1][1]) / 2)
    pen.limb(neck, head, 0.03 * h, figure.skin, _TORSO)
    pen.polygon(torso, figure.shirt, _TORSO)
    for side, name in sides:
        colour = shade(figure.shirt, side)
        pen.limb(at[f"{name}_shoulder"], at[f"{name}_elbow"], 0.03 * h, colour, _UPPER_ARM + side)
        pen.limb(
            at[f"{name}_elbow"], at[f"{name}_wrist"], 0.024 * h, _blend(colour, 128, 0.3), _FOREARM + side
        )
        pen.disc(at[f"{name}_wrist"], 0.03 * h, figure.skin, _FOREARM + side)
    for side, name in sides:
        pen.disc(at[f"{name}_ear"], 0.022 * h, shade(figure.skin, side), _HEAD)
    pen.disc(head, 0.08 * h, figure.skin, _HEAD)
    for side, name in sides:
        pen.disc(at[f"{name}_eye"], 0.016 * h, (250, 250, 250) if side == 0 else (20, 20, 20), _HEAD)
    pen.disc(at["nose"], 0.014 * h, (215, 60, 50), _HEAD)


def _visibility(joints: NDArray[np.int32], part_map: NDArray[np.int32], segment: int) -> NDArray[np.int32]:
    """COCO keypoints (17, 3) of joints (17, 2): outside the frame all zero, hidden 1, visible 2."""
    keypoints = np.zeros((len(joints), 3), np.int32)
    height, width = part_map.shape
    for row, (x, y), own_parts in zip(keypoints, joints, _JOINT_PARTS, strict=True):
        if 0 <= x < width and 0 <= y < height:
            owner, part = divmod(int(part_map[y, x]), _PARTS_PER_SEGMENT)
            row[:] = x, y, 2 if owner == segment and part in own_parts else 1
    return keypoints
