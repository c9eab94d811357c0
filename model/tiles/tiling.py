"""How a large image is cut into tiles: a pyramid of overlapping squares. Free of torch.

The lowest level has tiles of `size` pixels. On each level above tiles cover twice as much a side, at half the
resolution, until one covers the image: a third to a half more pixels than the lowest level alone. A thing is whole in
some tile of the level whose overlap is larger than it is, so that no thing has to be put together from its pieces.
"""

from dataclasses import dataclass
from typing import NamedTuple

from masklake.model.errors import ModelError

_SMALLEST = 64
_MARGIN = 64
"""A thing that ends within a 64th of a tile of the tile's border may go on behind it: boxes are not exact."""
_LEAST_OVERLAP = 16
"""A 16th of a tile: twice what the margins of two tiles take."""


class View(NamedTuple):
    """A tile: x1, y1, x2, y2 are pixels of the image; step image pixels a side become one of the network's image."""

    x1: int
    y1: int
    x2: int
    y2: int
    level: int

    @property
    def step(self) -> int:
        """Pixels of the image, a side, that become one pixel of the network's input."""
        return 2**self.level


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """Which images are cut, and how.

    size: side of a tile, pixels.
    overlap: pixels that neighbouring tiles share at least; None for an eighth of the size.
    above: images with up to this many pixels are not cut, nor are images that fit into a tile.

    Raises ModelError for numbers that cannot be.
    """

    size: int = 1024
    overlap: int | None = None
    above: int = 50_000_000

    def __post_init__(self) -> None:
        if self.size < _SMALLEST:
            raise ModelError(f"tiles of {self.size} pixels are too small to see in; give {_SMALLEST} or more")
        least, most = -(-self.size // _LEAST_OVERLAP), (self.size - 1) // 2
        if not least <= self.shared <= most:
            raise ModelError(
                f"an overlap of {self.shared} pixels does not fit tiles of {self.size}: give {least} to {most}, or other tiles"
            )
        if self.above < 0:
            raise ModelError(f"a tiling above {self.above} pixels: give 0 or more")

    @property
    def shared(self) -> int:
        """The overlap of the lowest level, pixels."""
        return self.size // 8 if self.overlap is None else self.overlap

    def margin(self, level: int) -> int:
        """What ends within so many image pixels of a tile's inner border counts as cut by it."""
        return (self.size // _MARGIN) << level

    def whole(self, level: int) -> int:
        """Things of up to so many image pixels are uncut in some tile of the level; 0 for level -1."""
        return (self.shared << level) - 2 * self.margin(level) if level >= 0 else 0

    def cuts(self, height: int, width: int) -> bool:
        """Whether an image of this size is cut. A smaller one never is where a larger one is not."""
        return max(height, width) > self.size and height * width > self.above

    def views(self, height: int, width: int) -> list[View]:
        """The tiles of an image, lowest level first; the last covers the image."""
        views: list[View] = []
        level = 0
        while True:
            side = self.size << level
            rows, columns = (_starts(length, side, self.shared << level) for length in (height, width))
            views += [
                View(x, y, min(x + side, width), min(y + side, height), level) for y in rows for x in columns
            ]
            if len(rows) == len(columns) == 1:
                return views
            level += 1


def _starts(length: int, side: int, overlap: int) -> list[int]:
    """Where tiles start along an axis, spread evenly; the first at 0, the last at length - side."""
    if length <= side:
        return [0]
    count = -(-(length - overlap) // (side - overlap))
    return [index * (length - side) // (count - 1) for index in range(count)]
