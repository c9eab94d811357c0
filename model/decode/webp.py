"""WebP by libwebp, from the chunks that make its first picture alone (RFC 9649)."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from masklake.model.decode.exif import orientation
from masklake.model.decode.frame import Frame, Pixels, unreadable
from masklake.model.decode.rgb import from_pillow

_PICTURE = (b"VP8 ", b"VP8L", b"ALPH")
_ALPHA = 0x10
"""The bit of VP8X that says there is an alpha channel."""


@dataclass(frozen=True)
class WebpFrame(Frame):
    """still: the first picture alone, as a WebP file."""

    format: ClassVar[str] = "WebP"

    still: bytes
    corner: tuple[int, int]
    part: tuple[int, int]
    """Left and top, width and height of what `still` shows of the frame: less than all in some animations."""

    def pixels(self, target: tuple[int, int] | None) -> Pixels:
        from PIL import WebPImagePlugin

        image = WebPImagePlugin.WebPImageFile(io.BytesIO(self.still))
        if image.size != self.part:
            raise unreadable(f"broken WebP content: its picture is {image.size}, not {self.part}")
        image.load()
        rgb = from_pillow(image)
        if self.part == (self.width, self.height):
            return rgb
        page = np.full((self.height, self.width, 3), 255, np.uint8)
        (x, y), (width, height) = self.corner, self.part
        page[y : y + height, x : x + width] = rgb
        return page


def open_webp(data: bytes) -> WebpFrame:
    """The frame of a WebP file, the first one of an animation. Raises UndecodableError, or one of BROKEN, for a broken header."""
    chunks: dict[bytes, bytes] = {}
    for kind, body in _chunks(data, 12):
        chunks.setdefault(kind, body)
    corner, part = (0, 0), None
    picture = {kind: chunks[kind] for kind in _PICTURE if kind in chunks}
    extended = chunks.get(b"VP8X", b"")
    canvas = (_number(extended, 4) + 1, _number(extended, 7) + 1) if len(extended) >= 10 else None
    if canvas and b"ANMF" in chunks:
        frame = chunks[b"ANMF"]
        if len(frame) < 16:
            raise unreadable("broken WebP content: the first frame is cut off")
        corner = (2 * _number(frame, 0), 2 * _number(frame, 3))
        part = (_number(frame, 6) + 1, _number(frame, 9) + 1)
        picture = {kind: body for kind, body in _chunks(frame, 16) if kind in _PICTURE}
        if corner[0] + part[0] > canvas[0] or corner[1] + part[1] > canvas[1]:
            raise unreadable("broken WebP content: the first frame lies outside of the canvas")
    if not picture.keys() & {b"VP8 ", b"VP8L"}:
        raise unreadable("broken WebP content: no whole picture is in it")
    part = part or canvas or _size(picture)
    flags = _ALPHA if b"ALPH" in picture or (extended and extended[0] & _ALPHA) else 0
    header = bytes([flags, 0, 0, 0]) + b"".join((side - 1).to_bytes(3, "little") for side in part)
    body = _packed(b"VP8X", header) + b"".join(
        _packed(kind, picture[kind]) for kind in (b"ALPH", b"VP8 ", b"VP8L") if kind in picture
    )
    still = b"RIFF" + (len(body) + 4).to_bytes(4, "little") + b"WEBP" + body
    width, height = canvas or part
    return WebpFrame(width, height, orientation(chunks.get(b"EXIF", b"")), still, corner, part)


def _number(data: bytes, start: int) -> int:
    return int.from_bytes(data[start : start + 3], "little")


def _packed(kind: bytes, body: bytes) -> bytes:
    return kind + len(body).to_bytes(4, "little") + body + bytes(len(body) % 2)


def _chunks(data: bytes, position: int) -> Iterator[tuple[bytes, bytes]]:
    """Whole chunks. What is cut off is left out: where it is the picture, there is none then."""
    while position + 8 <= len(data):
        kind = data[position : position + 4]
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        if position + 8 + length <= len(data):
            yield kind, data[position + 8 : position + 8 + length]
        position += 8 + length + length % 2


def _size(picture: dict[bytes, bytes]) -> tuple[int, int]:
    """As the picture's own header says."""
    if b"VP8L" in picture:
        bits = int.from_bytes(picture[b"VP8L"][1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    head = picture[b"VP8 "]
    return int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(head[8:10], "little") & 0x3FFF
