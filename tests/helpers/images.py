"""Images whose every pixel is known, in any format and mode, and broken ones."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

QUADRANTS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
"""Red, green / blue, white: tells every one of the eight orientations from the others."""


def quadrants(width: int = 48, height: int = 32) -> np.ndarray:
    """uint8 (height, width, 3), each quarter of one of the four colours."""
    return QUADRANTS.repeat(height // 2, axis=0).repeat(width // 2, axis=1)


def save(image: Image.Image | np.ndarray, format_: str, **options: Any) -> bytes:
    """The file that Pillow writes of `image`."""
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def solid(colour: tuple[int, int, int], size: tuple[int, int] = (32, 24), format_: str = "PNG") -> bytes:
    """A file of one colour; `size` is (width, height)."""
    return save(Image.new("RGB", size, colour), format_)


def oriented(orientation: int) -> Image.Exif:
    """EXIF that holds nothing but this orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def as_stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels that a file with this EXIF orientation stores of a scene that looks like `upright`."""
    # EXIF 2.32 names where the stored first row and first column lie in the scene.
    return {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p, 1),
        7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
        8: lambda p: np.rot90(p, -1),
    }[orientation](upright)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bomb(width: int, height: int) -> bytes:
    """A few bytes that say they are a PNG of width x height pixels."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + png_chunk(b"IEND", b"")


def gif_bomb(width: int, height: int) -> bytes:
    """A few bytes that say they are a GIF whose first frame has to be filled with the background."""
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    control = b"\x21\xf9\x04\x08\0\0\0\0"
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\x00"
    return screen + control + frame + b";"


def tiff_bomb(side: int) -> bytes:
    """A TIFF of 16 x 16 pixels in one tile of side x side."""
    entries = [
        (256, 4, 16),
        (257, 4, 16),
        (258, 3, 8),
        (259, 3, 8),
        (262, 3, 1),
        (277, 3, 1),
        (322, 4, side),
        (323, 4, side),
        (324, 4, 300),
        (325, 4, 20),
    ]
    ifd = struct.pack("<H", len(entries))
    ifd += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return (b"II*\0" + struct.pack("<I", 8) + ifd + bytes(4)).ljust(300, b"\0") + zlib.compress(bytes(2000))


def tiff(tags: dict[int, tuple[str, Any]], *segments: bytes, order: str = "<") -> bytes:
    """A TIFF of these strips, or tiles where there is a tag TileWidth (322).

    tags: code to (type, value or values), the type as in `struct`: B, H, I, f, s; offsets and counts are added.
    """
    tiled = 322 in tags
    offset = 8 + sum(len(segment) + len(segment) % 2 for segment in segments)
    offsets, where = [], 8
    for segment in segments:
        offsets.append(where)
        where += len(segment) + len(segment) % 2
    every = {
        259: ("H", 1),
        **tags,
        324 if tiled else 273: ("I", offsets),
        325 if tiled else 279: ("I", [len(segment) for segment in segments]),
    }
    codes = {"B": 1, "s": 2, "H": 3, "I": 4, "f": 11, "b": 6, "h": 8, "Q": 16}
    entries, extra = b"", b""
    after = offset + 2 + 12 * len(every) + 4
    for code, (kind, value) in sorted(every.items()):
        if kind == "s":
            packed, count = value + b"\0", len(value) + 1
        else:
            values = value if isinstance(value, list | tuple) else [value]
            packed, count = struct.pack(f"{order}{len(values)}{kind}", *values), len(values)
        if len(packed) > 4:
            entries += struct.pack(order + "HHII", code, codes[kind], count, after + len(extra))
            extra += packed + bytes(len(packed) % 2)
        else:
            entries += struct.pack(order + "HHI", code, codes[kind], count) + packed.ljust(4, b"\0")
    body = b"".join(segment + bytes(len(segment) % 2) for segment in segments)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", offset)
    return head + body + struct.pack(order + "H", len(every)) + entries + bytes(4) + extra


def packed_bits(values: np.ndarray, bits: int) -> bytes:
    """(H, W, C) of integers below 2**bits, most significant bit first, each row from a new byte on."""
    shifts = np.arange(bits - 1, -1, -1, dtype=np.uint64)
    expanded = (values.astype(np.uint64)[..., None] >> shifts) & np.uint64(1)
    return np.packbits(expanded.reshape(len(values), -1).astype(np.uint8), axis=1).tobytes()
