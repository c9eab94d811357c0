"""PNG by libpng, from the chunks that make its picture alone; of an animated one the first frame.

Other chunks may be broken or enormous (a wrong CRC, a profile of megabytes); they are not read.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from masklake.model.decode.exif import orientation
from masklake.model.decode.frame import Frame, Pixels, unreadable
from masklake.model.decode.rgb import from_channels

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_TRANSPARENT_BYTES = {0: 2, 2: 6}
"""Length of tRNS by colour type; of a palette any length up to its own."""
_INTERLACED = 12
"""Where IHDR says it."""
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""By colour type."""
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""x, y, dx, dy of the pixels of each pass: PNG specification, 8.2."""
_PICTURE = re.compile(b"PLTE|IDAT")
_MOST_LOOKED_AT = 4
"""How many times its own bytes a broken file is looked through for chunks that are sound."""


@dataclass
class _Budget:
    """left: bytes of which checksums may still be computed."""

    left: int


class _Chunk(NamedTuple):
    kind: bytes
    data: bytes
    sound: bool


class _Control(NamedTuple):
    """fcTL: where a frame of an animation lies."""

    width: int
    height: int
    x: int
    y: int


@dataclass(frozen=True)
class PngFrame(Frame):
    """header, palette, transparent, image: content of IHDR, PLTE, tRNS and the joined IDAT (or fdAT) chunks.

    place: where the picture lies in the frame, for the first frame of an animation; None for a picture that fills it.
    """

    format: ClassVar[str] = "PNG"

    header: bytes
    palette: bytes
    transparent: bytes | None
    image: bytes
    place: _Control | None

    def pixels(self, target: tuple[int, int] | None) -> Pixels:
        header = self.header
        if self.place:
            header = struct.pack(">II", self.place.width, self.place.height) + header[8:]
        rgb = self._decoded(header)
        if self.place is None or self.place == (self.width, self.height, 0, 0):
            return rgb
        page = np.full((self.height, self.width, 3), 255, np.uint8)
        width, height, x, y = self.place
        page[y : y + height, x : x + width] = rgb
        return page

    def _decoded(self, header: bytes) -> Pixels:
        width, height = struct.unpack(">II", header[:8])
        if not header[_INTERLACED]:
            values = self._values(header, self.image)
        else:
            # libpng would write a line to standard error for each interlaced file that imagecodecs gives to it.
            passes = [
                ((slice(y, None, dy), slice(x, None, dx)), self._values(size + header[8:-1] + b"\0", rows))
                for (x, y, dx, dy), size, rows in _passes(header, self.image)
            ]
            first = passes[0][1]
            values = np.empty((height, width, *first.shape[2:]), first.dtype)
            for place, part in passes:
                values[place] = part
        return from_channels(values, int(np.iinfo(values.dtype).max))

    def _values(self, header: bytes, image: bytes) -> np.ndarray:
        """What libpng makes of the compressed `image`: (height, width) or (height, width, channels), uint8 or uint16."""
        import imagecodecs

        chunks = [(b"IHDR", header)]
        if self.palette:
            chunks.append((b"PLTE", self.palette))
        if self.transparent is not None:
            chunks.append((b"tRNS", self.transparent))
        chunks += [(b"IDAT", image), (b"IEND", b"")]
        values: np.ndarray = imagecodecs.png_decode(SIGNATURE + b"".join(_packed(*chunk) for chunk in chunks))
        return values


def _passes(header: bytes, image: bytes) -> Iterator[tuple[tuple[int, int, int, int], bytes, bytes]]:
    """The pictures of which an interlaced one consists: (x, y, dx, dy) of its pixels, its size as IHDR has it, its image.

    Raises UndecodableError, or zlib.error, where pixels are missing.
    """
    width, height, depth, colour = struct.unpack(">IIBB", header[:10])
    bits = depth * _CHANNELS.get(colour, 1)
    unpacked = zlib.decompressobj()
    rest = image
    for x, y, dx, dy in _ADAM7:
        wide, high = -(-(width - x) // dx), -(-(height - y) // dy)
        if wide <= 0 or high <= 0:
            continue
        wanted = high * (1 + (wide * bits + 7) // 8)
        rows = unpacked.decompress(rest, wanted)
        rest = unpacked.unconsumed_tail
        if len(rows) < wanted:
            raise unreadable("broken PNG content: pixels are missing")
        yield (x, y, dx, dy), struct.pack(">II", wide, high), zlib.compress(rows, 1)


def open_png(data: bytes) -> PngFrame:
    """The frame of a PNG file, the first one of an animation. Raises UndecodableError, or one of BROKEN, for a broken header."""
    chunks = list(_chunks(data))
    if not chunks or chunks[0].kind != b"IHDR" or len(chunks[0].data) != 13:
        raise unreadable("broken PNG header: IHDR does not come first")
    for chunk in chunks:
        if chunk.kind in _CRITICAL and not chunk.sound:
            raise unreadable(f"broken PNG content: the checksum of {chunk.kind.decode()} is wrong")
    header = chunks[0].data
    width, height, _, colour = struct.unpack(">IIBB", header[:10])
    if not width or not height:
        raise unreadable("broken PNG header: a frame without pixels")
    sound: dict[bytes, bytes] = {}
    for chunk in chunks:
        if chunk.sound:
            sound.setdefault(chunk.kind, chunk.data)
    palette = sound.get(b"PLTE", b"") if colour == 3 else b""
    image = b"".join(chunk.data for chunk in chunks if chunk.kind == b"IDAT")
    if not image:
        raise unreadable("broken PNG content: no pixels are in it")
    place, moving = _first_frame(chunks, width, height)
    return PngFrame(
        width,
        height,
        orientation(sound.get(b"eXIf", b"")),
        header,
        palette,
        _transparent(sound.get(b"tRNS"), colour, palette),
        moving or image,
        place,
    )


def _packed(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _chunks(data: bytes) -> Iterator[_Chunk]:
    """Raises UndecodableError where a chunk of the picture is cut off."""
    position, seen = len(SIGNATURE), False
    budget = _Budget(_MOST_LOOKED_AT * len(data))
    while position + 8 <= len(data):
        length, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        end = position + 12 + length
        if end > len(data) or not kind.isalpha():
            # A wrong length, in this chunk or the one before: go on at the next sound chunk of the picture.
            if kind in _CRITICAL and kind != b"IEND":
                raise unreadable(f"broken PNG content: {kind.decode()} is cut off")
            after = _next_sound(data, position + 4, budget)
            if after is None:
                break
            position = after
            continue
        body, checksum = data[position + 8 : end - 4], int.from_bytes(data[end - 4 : end], "big")
        chunk = _Chunk(kind, body, zlib.crc32(data[position + 4 : end - 4]) == checksum)
        if not chunk.sound and kind not in _CRITICAL and not data[end + 4 : end + 8].isalpha() and not seen:
            after = _next_sound(data, position + 4, budget)
            if after is not None:
                position = after
                continue
        seen = seen or kind == b"IDAT"
        yield chunk
        if kind == b"IEND":
            return
        position = end


def _next_sound(data: bytes, start: int, budget: _Budget) -> int | None:
    """Where the next sound PLTE or IDAT chunk stands; None as well where the budget is spent."""
    view = memoryview(data)
    for match in _PICTURE.finditer(data, start):
        position = match.start()
        end = position + 4 + int.from_bytes(data[position - 4 : position], "big")
        if end + 4 > len(data):
            continue
        budget.left -= end - position
        if budget.left < 0:
            break
        if zlib.crc32(view[position:end]) == int.from_bytes(data[end : end + 4], "big"):
            return position - 4
    return None


def _transparent(transparent: bytes | None, colour: int, palette: bytes) -> bytes | None:
    """tRNS, where it fits its picture."""
    if transparent is None:
        return None
    if colour == 3:
        return transparent if len(transparent) <= len(palette) // 3 else None
    return transparent if len(transparent) == _TRANSPARENT_BYTES.get(colour) else None


def _first_frame(chunks: list[_Chunk], width: int, height: int) -> tuple[_Control | None, bytes]:
    """Where the first frame of an animation lies and its pixels, when they are not those of the default image.

    As in browsers an animation that is broken is none, and the default image is shown.
    """
    kinds = [chunk.kind for chunk in chunks]
    image = kinds.index(b"IDAT")
    controls = [i for i, kind in enumerate(kinds) if kind == b"fcTL"]
    if b"acTL" not in kinds[:image] or not controls or controls[0] < image:
        return None, b""
    start = controls[0]
    stop = controls[1] if len(controls) > 1 else len(chunks)
    parts = [chunk for chunk in chunks[start:stop] if chunk.kind == b"fdAT"]
    if not chunks[start].sound or len(chunks[start].data) != 26 or not parts:
        return None, b""
    place = _Control(*struct.unpack_from(">IIII", chunks[start].data, 4))
    inside = 0 < place.width <= width - place.x and 0 < place.height <= height - place.y
    if not inside or not all(part.sound for part in parts):
        return None, b""
    return place, b"".join(part.data[4:] for part in parts)
