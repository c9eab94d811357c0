"""Orientation, the only field of EXIF that is read."""

from __future__ import annotations

import struct

_ORIENTATION = 0x0112
_NUMBERS = {1: "B", 3: "H", 4: "I"}
"""Types in which files have an orientation: BYTE, SHORT (the standard's), LONG."""

SIDEWAYS = frozenset({5, 6, 7, 8})


def orientation(exif: bytes) -> int:
    """1 to 8 (EXIF 2.32, tag 0x0112); 1, upright, where EXIF holds none or is broken.

    exif: from its TIFF header on, or from the "Exif\\0\\0" that stands before it in a JPEG.
    """
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, values = struct.unpack_from(order + "HHI", tiff, entry)
            if tag == _ORIENTATION:
                if kind not in _NUMBERS or values != 1:
                    return 1
                (value,) = struct.unpack_from(order + _NUMBERS[kind], tiff, entry + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1
