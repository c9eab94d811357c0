"""A mask as one polygon, for formats that have nothing else.

Contours are contourpy's at half height, so that a slanted edge is a line and no stairs. The parts of an instance and its
holes are joined by cuts of no width, as ultralytics' converter joins parts (merge_multi_segment): filled by the even-odd
rule, the polygon is the whole mask.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from masklake.pipeline.labels.masks import LabelMask
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

_LOOKED_AT = 1024
"""Points of a ring among which the nearest are looked for. A cut has no area, wherever it runs."""

Ring = NDArray[np.float64]
"""(N, 2) x, y in pixels, without its first point again; the middle of the first pixel lies at 0.5, 0.5."""


def one_polygon(mask: LabelMask) -> Ring | None:
    """The mask as one ring; None where it is empty."""
    rings = _rings(mask)
    if not rings:
        return None
    joined, *rest = rings
    for ring in rest:
        i, j = _nearest(joined, ring)
        there = np.roll(ring, -j, axis=0)
        joined = np.concatenate([joined[: i + 1], there, there[:1], joined[i:]])
    return joined


def _rings(mask: LabelMask) -> list[Ring]:
    """The outlines of all parts and holes, the largest first."""
    from contourpy import FillType, contour_generator

    left, top, width, height = (int(side) for side in mask.box)
    if not width or not height:
        return []
    pixels = coco_mask.decode(mask.as_coco())[top : top + height, left : left + width]
    generator = contour_generator(
        z=np.pad(pixels, 1).astype(np.float64), fill_type=FillType.OuterOffset, name="serial"
    )
    points: Any
    offsets: Any
    points, offsets, *_ = generator.filled(0.5, 2.0)  # arrays, as the fill type has no parts without outlines
    rings = [
        part[start : end - 1]
        for part, bounds in zip(points, offsets, strict=True)
        for start, end in pairwise(bounds)
    ]
    corner = np.array([left - 0.5, top - 0.5])
    rings.sort(key=len, reverse=True)
    return [_corners(ring) + corner for ring in rings]


def _corners(ring: Ring) -> Ring:
    """The ring without the points that lie on a straight line between their neighbours."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turn = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    return ring[turn != 0]


def _nearest(joined: Ring, ring: Ring) -> tuple[int, int]:
    """Positions of two points, one of each, that are near each other: the nearest, but for very long rings."""
    start = max(0, len(joined) - _LOOKED_AT)
    window, few = joined[start:], ring[:_LOOKED_AT]
    squares = ((window[:, None] - few[None]) ** 2).sum(axis=2)
    i, j = np.unravel_index(int(np.argmin(squares)), squares.shape)
    return start + int(i), int(j)
