"""A deadline for native code: a process that does not come back in time is ended, and its images are tried again one by one
(`ledger.guarded`), so that the one that held it is found.

A thread of Python could not: a decoder that loops keeps the interpreter's lock. faulthandler's own thread needs no lock.
"""

from __future__ import annotations

import faulthandler
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS = 300.0
"""For an image alone, by default: some fifty times what the slowest model takes on a slow processor."""
_SHARE = 0.1
"""Of an image's seconds, for each image of a packet beside the time for one: a hang among many is noticed before they could
all have taken so long."""
_PIXELS, _BYTES = 4_000_000, 4_000_000
"""An image with more of them counts as several."""


def seconds_for(sizes: list[int | None], unit: int, seconds: float) -> float:
    """The deadline for images of these sizes, in units of `unit`; `seconds` is that for one of at most a unit."""
    images = [max(1.0, (size or 0) / unit) for size in sizes]
    return seconds * max(images, default=1.0) + seconds * _SHARE * (sum(images) - max(images, default=0.0))


def of_bytes(sizes: list[int | None], seconds: float) -> float:
    """The deadline for encoded images of so many bytes."""
    return seconds_for(sizes, _BYTES, seconds)


def of_pixels(sizes: list[int | None], seconds: float) -> float:
    """The deadline for decoded images of so many pixels: a large one may be worked on in tiles."""
    return seconds_for(sizes, _PIXELS, seconds)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """End this process, after a traceback on its standard error, if the block takes longer. One at a time in a process."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or sys.stderr)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
