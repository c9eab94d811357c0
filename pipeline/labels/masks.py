"""Masks of annotation files as COCO's compressed RLE, checked: nothing here trusts the file.

pycocotools reads what it is given: a polygon far outside makes it allocate without bound, and run lengths that do
not add up give another mask than was drawn. So lengths, counts and coordinates are checked before it sees them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from masklake.model.masks.rle_text import runs_of_text
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

MAX_PIXELS = 2**31 - 1
"""Pixels of a frame: areas are int32."""

_FAR = 10
"""A polygon may leave its frame, but not by more than this many frames."""


class LabelMask(NamedTuple):
    """A mask: the frame's height and width in pixels, and COCO's compressed run lengths, as pycocotools writes them."""

    height: int
    width: int
    counts: str

    @classmethod
    def of_row(cls, mask: Mapping[str, Any] | None) -> LabelMask | None:
        """The mask in a row of `instances` or `labels`: its size, height and width, and its counts; None where it has none."""
        return None if mask is None else cls(mask["size"][0], mask["size"][1], mask["counts"])

    def as_coco(self) -> dict[str, Any]:
        """The mask as pycocotools takes it."""
        return {"size": [self.height, self.width], "counts": self.counts.encode("ascii")}

    @property
    def area(self) -> int:
        """Pixels in the mask."""
        return int(coco_mask.area(self.as_coco()))

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x, y, width, height of the smallest box around the mask, pixels; zeros where it is empty."""
        x, y, w, h = (float(v) for v in coco_mask.toBbox(self.as_coco()))
        return x, y, w, h


def check_frame(height: int, width: int) -> None:
    """Raises ValueError for a frame that no mask could have."""
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"a frame of {width}×{height} pixels is not possible")


def from_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> LabelMask:
    """The pixels of the polygons (x1, y1, x2, y2, … in pixels) together, rasterised by pycocotools.

    Raises ValueError for a polygon that is none.
    """
    check_frame(height, width)
    reach = _FAR * max(height, width)
    for points in polygons:
        if len(points) % 2:
            raise ValueError(f"a polygon has {len(points)} coordinates, which is not pairs of x and y")
        if len(points) < 6:
            raise ValueError(f"a polygon has {len(points) // 2} points; it needs at least 3")
        if not all(math.isfinite(v) and -reach <= v <= reach + max(height, width) for v in points):
            raise ValueError(f"a polygon lies far outside its {width}×{height} frame")
    merged = coco_mask.merge(coco_mask.frPyObjects([list(map(float, p)) for p in polygons], height, width))
    return _from_runs(runs_of_text(merged["counts"].decode("ascii")), height, width)


def from_ellipse(
    centre: tuple[float, float], radii: tuple[float, float], degrees: float, height: int, width: int
) -> LabelMask:
    """The pixels whose middle lies in the ellipse (x, y in pixels), whose first radius is turned clockwise from the x axis.

    Raises ValueError where no pixel does.
    """
    check_frame(height, width)
    (x, y), (a, b) = centre, radii
    if not (a > 0 and b > 0):
        raise ValueError("an ellipse has a radius that is not above 0")
    reach = max(a, b)
    rows = np.arange(max(0, math.floor(y - reach)), min(height, math.ceil(y + reach)))
    columns = np.arange(max(0, math.floor(x - reach)), min(width, math.ceil(x + reach)))
    dy, dx = rows[:, None] + 0.5 - y, columns[None, :] + 0.5 - x
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    inside = ((cos * dx + sin * dy) / a) ** 2 + ((cos * dy - sin * dx) / b) ** 2 <= 1
    if not inside.any():
        raise ValueError("an ellipse covers no pixel of its image")
    pixels = np.zeros((height, width), np.uint8)
    pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = inside
    return from_pixels(pixels)


def from_counts(counts: str | Sequence[int], size: Sequence[int], height: int, width: int) -> LabelMask:
    """An RLE of COCO, compressed (text) or not (run lengths), in the one form that pycocotools writes.

    Raises ValueError when it is broken, or is not of the frame's size.
    """
    check_frame(height, width)
    if list(size) != [height, width]:
        raise ValueError(
            f"the RLE's size is {list(size)}, and the image is {height} high and {width} wide; size is height, width"
        )
    if isinstance(counts, str):
        runs = runs_of_text(counts)
    else:
        if any(not 0 <= v <= MAX_PIXELS for v in counts):
            raise ValueError("the RLE has a run length that is negative or longer than any image")
        runs = np.asarray(counts, dtype=np.int64)
    return _from_runs(runs, height, width)


def from_pixels(pixels: NDArray[Any]) -> LabelMask:
    """The RLE of (H, W) pixels; those that are not 0 are in the mask."""
    encoded = coco_mask.encode(np.asfortranarray(pixels != 0, dtype=np.uint8))
    return LabelMask(pixels.shape[0], pixels.shape[1], encoded["counts"].decode("ascii"))


def to_pixels(mask: LabelMask) -> NDArray[np.uint8]:
    """(H, W) uint8, 0 or 1."""
    pixels: NDArray[np.uint8] = coco_mask.decode(mask.as_coco())
    return pixels


def _from_runs(runs: NDArray[np.int64], height: int, width: int) -> LabelMask:
    pixels = height * width
    if (runs < 0).any() or int(runs.sum()) != pixels:
        raise ValueError(
            f"the RLE covers {int(runs.sum())} pixels, and its {width}×{height} frame has {pixels}"
        )
    # Only the first run may be empty; without other empty runs, equal masks have equal text.
    bounds, times = np.unique(np.cumsum(runs)[:-1], return_counts=True)
    bounds = bounds[(times % 2 == 1) & (bounds < pixels)]
    canonical = np.diff(bounds, prepend=0, append=pixels)
    encoded = coco_mask.frPyObjects({"size": [height, width], "counts": canonical.tolist()}, height, width)
    return LabelMask(height, width, encoded["counts"].decode("ascii"))
