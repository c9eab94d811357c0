"""The text of COCO's compressed RLE: run lengths to text and back. Free of torch.

The format is pycocotools' own (rleToString and rleFrString in its maskApi.c).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TypedDict

import numpy as np
from masklake.model.masks.crossings import Places
from masklake.model.masks.pasted import Ints
from numpy.typing import NDArray

_MAX_GROUPS = 12
"""Five bits each: more do not fit a 64-bit integer."""


class Rle(TypedDict):
    """COCO's compressed RLE: size is [height, width] in pixels, counts the run lengths, column-major."""

    size: list[int]
    counts: bytes


def compress(changes: Places, n: int, height: int, width: int) -> list[Rle]:
    """Run lengths of n instances and their text (rleToString in pycocotools' maskApi.c), all at once.

    changes: as from `find_changes`.
    """
    frame_ends = np.arange(1, n + 1) * (height * width + 1) - 1
    before_end = np.searchsorted(changes, frame_ends.astype(changes.dtype))
    at_end = np.append(changes, -1)[before_end] == frame_ends
    if at_end.any():  # no run of no pixels at the end
        changes = np.delete(changes, before_end[at_end])
        before_end -= np.cumsum(at_end) - at_end
    bounds = np.insert(changes, before_end, frame_ends)
    last = before_end + np.arange(n)
    first = np.concatenate([[0], last[:-1] + 1])
    runs = bounds.copy()
    runs[1:] -= bounds[:-1]
    runs[first[1:]] -= 1
    # From an instance's fourth run on, the text has the difference to the run before the last.
    delta = runs.copy()
    delta[2:] -= runs[:-2]
    raw = first[:, None] + np.arange(3)
    raw = raw[raw <= last[:, None]]
    delta[raw] = runs[raw]
    # Groups of five bits, the lowest first, until only the sign is left; bit 5 says that more follow. Few have more.
    groups, index = [], np.arange(len(delta))
    size = np.ones(len(delta), np.int64)
    while True:
        text, more = _group(delta)
        groups.append((index, text))
        if not len(more):
            break
        index = index[more] if len(groups) > 1 else more
        size[index] += 1
        delta = delta[more] >> 5
    stops = np.cumsum(size)
    start = stops - size
    text = np.empty(stops[-1], np.uint8)
    for group, (index, characters) in enumerate(groups):
        text[start[index] + group if group else start] = characters
    data = text.tobytes()
    cuts = [0, *stops[last].tolist()]
    return [{"size": [height, width], "counts": data[a:b]} for a, b in pairwise(cuts)]


def _group(delta: Places) -> tuple[NDArray[np.uint8], Ints]:
    """The characters of the lowest five bits, and of which numbers these are not all."""
    character = delta.astype(np.uint8)
    character &= 31
    character += 48
    magnitude = delta >> (8 * delta.itemsize - 1)
    magnitude ^= delta
    more = np.flatnonzero(magnitude > 15)
    character[more] += 32
    return character, more


def runs_of_text(text: str) -> NDArray[np.int64]:
    """Run lengths from their text: rleFrString in pycocotools' maskApi.c. Raises ValueError when it is none."""
    codes = np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int64) - 48
    if not len(codes) or (codes < 0).any() or (codes > 63).any() or codes[-1] & 32:
        raise ValueError("the RLE's counts are not COCO's compressed text")
    # Groups of five bits, the lowest first; bit 5 says that more follow, and bit 4 of the last is the sign.
    last = np.flatnonzero(codes & 32 == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    groups = last - first + 1
    if groups.max() > _MAX_GROUPS:
        raise ValueError("the RLE's counts hold a number that is longer than any image")
    place = np.arange(len(codes)) - np.repeat(first, groups)
    values = np.add.reduceat((codes & 31) << (5 * place), first)
    values -= (codes[last] & 16 != 0).astype(np.int64) << (5 * groups)
    # From the fourth run on, the text has the difference to the run before the last.
    runs = values
    runs[1::2] = np.cumsum(values[1::2])
    runs[2::2] = np.cumsum(values[2::2])
    return runs
