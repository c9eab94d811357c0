"""GIF: its first frame alone, so that neither the others nor a comment can cost it."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from masklake.model.decode.frame import Fault, Frame, Pixels, UndecodableError, unreadable
from masklake.model.decode.rgb import from_pillow

_EXTENSION, _IMAGE = 0x21, 0x2C
_CONTROL = 0xF9


@dataclass(frozen=True)
class GifFrame(Frame):
    """still: the first frame alone, as a GIF file."""

    format: ClassVar[str] = "GIF"

    still: bytes
    part: tuple[int, int, int, int]
    """Left, top, width and height of what `still` shows; browsers leave the rest transparent."""

    def pixels(self, target: tuple[int, int] | None) -> Pixels:
        from PIL import GifImagePlugin, Image

        try:
            image = GifImagePlugin.GifImageFile(io.BytesIO(self.still))
        except Image.DecompressionBombError as error:
            raise UndecodableError(Fault.TOO_LARGE, f"Pillow reads no GIF of this size: {error}") from error
        image.load()
        rgb = from_pillow(image)
        x, y, width, height = self.part
        if self.part == (0, 0, self.width, self.height):
            return rgb
        page = np.full((self.height, self.width, 3), 255, np.uint8)
        page[y : y + height, x : x + width] = rgb
        return page


def open_gif(data: bytes) -> GifFrame:
    """The first frame of a GIF file. Raises UndecodableError, or one of BROKEN, for a broken header."""
    if len(data) < 13:
        raise unreadable("broken GIF header: it is cut off")
    screen, flags = struct.unpack_from("<HH", data, 6), data[10]
    position = 13 + _table(flags)
    head, control = data[10:position], b""
    while position < len(data) and data[position] == _EXTENSION:
        end = _blocks_end(data, position + 2)
        if data[position + 1 : position + 3] == bytes([_CONTROL, 4]):
            # Without its way of disposal, which is about the next frame.
            transparency = bytes([data[position + 3] & 1]) + data[position + 4 : position + 7]
            control = bytes([_EXTENSION, _CONTROL, 4]) + transparency + b"\0"
        position = end
    if position + 10 > len(data) or data[position] != _IMAGE:
        raise unreadable("broken GIF content: no frame is in it")
    x, y, width, height = struct.unpack_from("<HHHH", data, position + 1)
    if not width or not height:
        raise unreadable("broken GIF content: a frame without pixels")
    start = position + 10 + _table(data[position + 9])
    end = _blocks_end(data, start + 1)
    still = b"GIF89a" + struct.pack("<HH", width, height) + head + control
    still += struct.pack("<BHHHH", _IMAGE, 0, 0, width, height) + data[position + 9 : end] + b";"
    # As in browsers and Pillow the screen grows to hold the first frame.
    return GifFrame(max(screen[0], x + width), max(screen[1], y + height), 1, still, (x, y, width, height))


def _table(flags: int) -> int:
    """Bytes of the colour table that these flags announce."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _blocks_end(data: bytes, position: int) -> int:
    """Where the blocks that begin at `position` end."""
    while position < len(data) and data[position]:
        position += 1 + data[position]
    return min(position + 1, len(data))
