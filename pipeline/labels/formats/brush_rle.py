"""Label Studio's brush masks: run lengths of RGBA values, packed into bits.

The format is rle-pack's (thi.ng/umbrella, packages/rle-pack/src/index.ts), as Label Studio's converter reads and
writes it (label_studio_converter/brush.py): 32 bits of how many values there are, 5 bits of the word size less 1, four
times 4 bits of a length's size less 1; then blocks: a bit that tells a run from literals, 2 bits that choose the
length's size, the length less 1, and one word (a run) or as many as the length says. Values are four a pixel, rows
first; a pixel is in the mask where its fourth, alpha, is not 0.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CHANNELS = 4
_WORD = 8
_LENGTHS = (3, 4, 8, 16)
_LONGEST = tuple(1 << size for size in _LENGTHS)
_OPAQUE = 255
_MAX_PIXELS = 2**28
"""All values of an image are unpacked; the few bytes of a damaged file could ask for any amount of memory."""


class _Bits:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def read(self, count: int) -> int:
        """The next `count` bits, at most 32. Raises ValueError where there are no more."""
        start, end = self._position, self._position + count
        if end > 8 * len(self._data):
            raise ValueError("the brush mask ends before all of its pixels")
        self._position = end
        chunk = int.from_bytes(self._data[start // 8 : (end + 7) // 8])
        return chunk >> (-end % 8) & ((1 << count) - 1)


def decode(data: Sequence[int], height: int, width: int) -> NDArray[np.bool_]:
    """(H, W) pixels of a brush mask, given as `rle`, a list of bytes.

    Raises ValueError when it is broken, or is not of the frame's size.
    """
    if height * width > _MAX_PIXELS:
        raise ValueError(
            f"the brush mask is of {height * width:,} pixels, and {_MAX_PIXELS:,} are read at most"
        )
    try:
        bits = _Bits(bytes(data))
    except (TypeError, ValueError):
        raise ValueError("the brush mask is not a list of bytes") from None
    count = bits.read(32)
    if count != height * width * _CHANNELS:
        raise ValueError(
            f"the brush mask has {count} values, and an image of {width}×{height} needs {height * width * _CHANNELS}"
        )
    word = bits.read(5) + 1
    lengths = [bits.read(4) + 1 for _ in range(4)]
    values = np.zeros(count, np.bool_)
    position = 0
    while position < count:
        head = bits.read(3)
        end = position + 1 + bits.read(lengths[head & 3])
        if end > count:
            raise ValueError("the brush mask has more values than its image")
        if head & 4:  # a run
            values[position:end] = bits.read(word) != 0
        else:
            values[position:end] = [bits.read(word) != 0 for _ in range(position, end)]
        position = end
    return values.reshape(height, width, _CHANNELS)[:, :, _CHANNELS - 1]


def encode(pixels: NDArray[Any]) -> list[int]:
    """The `rle` of (H, W) pixels: all four channels 255 where they are not 0."""
    flat = np.asarray(pixels).ravel() != 0
    starts = np.flatnonzero(np.diff(flat, prepend=~flat[:1]))
    runs = np.diff(starts, append=len(flat)) * _CHANNELS
    head = f"{len(flat) * _CHANNELS:032b}{_WORD - 1:05b}" + "".join(f"{size - 1:04b}" for size in _LENGTHS)
    text = head + "".join(_blocks(runs.tolist(), flat[starts].tolist()))
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8))


def _blocks(runs: list[int], inside: list[bool]) -> Iterator[str]:
    for run, value in zip(runs, inside, strict=True):
        left = run
        while left:
            length = min(left, _LONGEST[-1])
            choice = bisect_left(_LONGEST, length)
            yield f"1{choice:02b}{length - 1:0{_LENGTHS[choice]}b}{_OPAQUE * value:0{_WORD}b}"
            left -= length
