"""What all formats have in common: a frame whose size is known before its pixels are decoded."""

from __future__ import annotations

import enum
import struct
import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""RGB, (H, W, 3)."""

BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    RuntimeError,
    EOFError,
    struct.error,
    zlib.error,
)
"""What decoders raise on broken content: Pillow's AVIF and imagecodecs RuntimeError, broken tables nearly anything."""


class Fault(enum.StrEnum):
    """Why there are no pixels. The values are those of an image's status in a lake."""

    UNREADABLE = "unreadable"  # a known format whose content is broken
    TOO_LARGE = "too_large"  # over the pixel limit
    UNSUPPORTED = "unsupported"  # not a format, or a kind of it, that is decoded
    FAILED = "failed"  # memory


class UndecodableError(Exception):
    """Why a file gave no pixels, with the frame's (width, height) where it is known."""

    def __init__(self, fault: Fault, reason: str, size: tuple[int, int] | None = None) -> None:
        super().__init__(reason)
        self.fault = fault
        self.size = size


def unreadable(reason: str) -> UndecodableError:
    """The error for a known format whose content is broken."""
    return UndecodableError(Fault.UNREADABLE, reason)


def unsupported(reason: str, size: tuple[int, int] | None = None) -> UndecodableError:
    """The error for a format, or a kind of it, that is not decoded."""
    return UndecodableError(Fault.UNSUPPORTED, reason, size)


class Cuts(Protocol):
    """The part of `model.tiles.tiling.Tiling` that decoding uses."""

    def cuts(self, height: int, width: int) -> bool:
        """Whether an image of this size is cut into tiles."""
        ...


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """Limits and scaling of decoding.

    max_pixels: frames with more pixels are refused from their header (decompression bombs).
    target: the model's (min_size, max_size); a JPEG at least twice as large is decoded at 1/2, 1/4 or 1/8 (in
        its DCT), but never below that size. None decodes every JPEG in full, to the pixels that Pillow, OpenCV and
        torchvision give: what an exact comparison needs.
    tiling: frames that it cuts are decoded in full; None where no image is cut.
    """

    max_pixels: int = 128_000_000
    target: tuple[int, int] | None = None
    tiling: Cuts | None = None

    def scaled_to(self, width: int, height: int) -> tuple[int, int] | None:
        """The target of a JPEG of this size; None to decode it in full."""
        cut = self.tiling is not None and self.tiling.cuts(height, width)
        return None if cut else self.target


@dataclass(frozen=True)
class Frame(ABC):
    """The picture of a file, known from its header.

    width, height: as stored, before `orientation` (EXIF 2.32, tag 0x0112; 1 is upright) is undone.
    """

    format: ClassVar[str]

    width: int
    height: int
    orientation: int

    def scaled(self, target: tuple[int, int] | None) -> tuple[int, int]:  # JPEG's business
        """Width and height of what `pixels` makes for this target."""
        return self.width, self.height

    @abstractmethod
    def pixels(self, target: tuple[int, int] | None) -> Pixels:
        """As stored, not yet upright. Raises UndecodableError, or one of BROKEN."""


def check_pixels(width: int, height: int, limit: int) -> None:
    """Raises UndecodableError for a frame over the limit."""
    if width * height > limit:
        raise UndecodableError(
            Fault.TOO_LARGE,
            f"{width}x{height} is {width * height:,} pixels; the limit is {limit:,} (--max-pixels)",
            (width, height),
        )
