"""JPEG XL by libjxl (ISO/IEC 18181). Its size is read here first: libjxl gives it only with the pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from masklake.model.decode.bmff import boxes
from masklake.model.decode.exif import SIDEWAYS
from masklake.model.decode.frame import Frame, Pixels, unreadable
from masklake.model.decode.rgb import from_channels, from_floats

CODESTREAM = b"\xff\x0a"
CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
_BITS = (9, 13, 18, 30)


@dataclass(frozen=True)
class JxlFrame(Frame):
    """data: the whole file."""

    format: ClassVar[str] = "JPEG XL"

    data: bytes

    def pixels(self, target: tuple[int, int] | None) -> Pixels:
        import imagecodecs

        values = imagecodecs.jpegxl_decode(self.data, index=0)  # libjxl turns it
        if np.issubdtype(values.dtype, np.floating):
            return from_floats(values)
        return from_channels(values, int(np.iinfo(values.dtype).max))


def open_jxl(data: bytes) -> JxlFrame:
    """The frame of a JPEG XL file or codestream. Raises UndecodableError, or one of BROKEN, for a broken header."""
    stream = data[:64] if data.startswith(CODESTREAM) else _codestream(data)
    if not stream.startswith(CODESTREAM) or len(stream) < 4:
        raise unreadable("broken JPEG XL content: no whole codestream is in it")
    return JxlFrame(*_size(int.from_bytes(stream[2:18], "little")), 1, data)


def _codestream(data: bytes) -> bytes:
    """The first bytes of it; it may lie in several boxes, each with its number before it."""
    stream = b""
    for kind, start, end in boxes(data, 0, len(data)):
        if kind == b"jxlc":
            return data[start:end][:64]
        if kind == b"jxlp" and len(stream) < 64:
            stream += data[start + 4 : end][:64]
    return stream


def _size(bits: int) -> tuple[int, int]:
    """Width and height as libjxl gives them: of the SizeHeader, whose bits are read from the lowest on, turned by the
    orientation that may follow it."""

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << count) - 1), bits >> count
        return value

    small = take(1)

    def side() -> int:
        return (take(5) + 1) * 8 if small else take(_BITS[take(2)]) + 1

    height = side()
    ratio = take(3)
    if ratio:
        above, below = _RATIOS[ratio]
        width = height * above // below
    else:
        width = side()
    all_default = take(1)
    orientation = 1 + take(3) if not all_default and take(1) else 1
    return (height, width) if orientation in SIDEWAYS else (width, height)
