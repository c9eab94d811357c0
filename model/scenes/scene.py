"""Synthetic scenes with exact ground truth, for the demo model, tests and benchmarks.

A scene is a textured background, overlapping shapes and articulated figures ("person") with COCO's 17 keypoints.
Everything follows from (seed, index, size) alone. Random numbers come from `numpy.random.RandomState`, whose
streams are frozen (NEP 19), and all drawing is on whole pixels, so scenes do not depend on the machine (a
release of Pillow that fills polygons differently would change them).
"""

from dataclasses import dataclass

import numpy as np
from masklake.model.scenes.objects import CLASSES, PARTS_PER_SEGMENT, arrange, draw, visibility
from masklake.model.scenes.texture import background, texture
from numpy.random import RandomState
from numpy.typing import NDArray
from PIL import Image, ImageDraw

PERSON = 1
"""The category id of a person, as in COCO."""
DEFAULT_SIZES: tuple[tuple[int, int], ...] = ((240, 320), (320, 240), (256, 256))
MIN_SIDE = 64


@dataclass(frozen=True, kw_only=True)
class SceneInstance:
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
    instances: tuple[SceneInstance, ...]

    def mask(self, instance: SceneInstance) -> NDArray[np.bool_]:
        """The visible pixels of an instance: (H, W) bool."""
        return self.segments == instance.segment


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
    image = Image.fromarray(background(rng, base, height, width))
    parts = Image.new("I", (width, height))
    canvas, part_canvas = ImageDraw.Draw(image), ImageDraw.Draw(parts)

    objects = arrange(rng, base, height, width)
    keypoints = [
        draw(canvas, part_canvas, drawable, centre, segment)
        for segment, (drawable, centre) in enumerate(objects, start=1)
    ]
    part_map = np.asarray(parts)
    segments = (part_map // PARTS_PER_SEGMENT).astype(np.uint8)
    instances = []
    for segment, ((drawable, _), points) in enumerate(zip(objects, keypoints, strict=True), start=1):
        mask = segments == segment
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            continue
        x, y = int(columns[0]), int(rows[0])
        instances.append(
            SceneInstance(
                category_id=PERSON if drawable.shape is None else CLASSES.index(drawable.shape.name) + 1,
                segment=segment,
                box=(x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1),
                area=int(np.count_nonzero(mask)),
                keypoints=None if points is None else visibility(points, part_map, segment),
            )
        )
    textured = texture(rng, np.asarray(image), segments, len(objects))
    return Scene(image=textured, segments=segments, instances=tuple(instances))
