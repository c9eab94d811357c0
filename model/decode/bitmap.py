"""BMP and ICO (Windows' device-independent bitmaps).

Where pixels have 16 or 32 bits their masks are applied here: Pillow knows only some layouts, and takes an alpha
channel that was never written for transparency.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from masklake.model.decode.frame import Frame, Pixels, unreadable, unsupported
from masklake.model.decode.png import SIGNATURE, PngFrame, open_png
from masklake.model.decode.rgb import from_pillow, on_white, to_8_bits
from numpy.typing import NDArray

_CORE, _INFO = 12, 40
_RGB, _BITFIELDS, _ALPHA_BITFIELDS = 0, 3, 6
_EMBEDDED = {4: "JPEG", 5: "PNG"}
_MASKS = {16: (0x7C00, 0x3E0, 0x1F, 0), 32: (0xFF0000, 0xFF00, 0xFF, 0)}
_ICON_MASKS = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)


@dataclass(frozen=True)
class BitmapFrame(Frame):
    """data: from the bitmap's header on.

    start: where its pixels begin. masks: red, green, blue, alpha of a pixel of 16 or 32 bits.
    transparent: where an icon's rows of one bit a pixel begin, 1 for transparent; None for none.
    """

    format: ClassVar[str] = "BMP"

    data: bytes
    bits: int
    start: int
    top_down: bool
    masks: tuple[int, int, int, int] | None
    transparent: int | None = None

    def pixels(self, target: tuple[int, int] | None) -> Pixels:
        rgb, alpha = self._masked(self.masks) if self.masks else (self._by_pillow(), None)
        if alpha is not None and not alpha.any():
            alpha = None
        if alpha is None and self.transparent is not None:
            alpha = self._from_icon_mask(self.transparent)
        return rgb if alpha is None else on_white(rgb, alpha)

    def _rows(self, start: int, bits: int) -> NDArray[np.uint8]:
        """(height, bytes) from the top down; rows fill four bytes."""
        length = -(-self.width * bits // 32) * 4
        data = np.frombuffer(self.data, np.uint8, offset=start)
        if len(data) < length * self.height:
            raise unreadable("broken BMP content: its pixels are cut off")
        rows = data[: length * self.height].reshape(self.height, length)
        return rows if self.top_down else rows[::-1]

    def _masked(self, masks: tuple[int, int, int, int]) -> tuple[Pixels, NDArray[np.uint8] | None]:
        kind = f"<u{self.bits // 8}"
        rows = np.ascontiguousarray(self._rows(self.start, self.bits))
        values = rows[:, : self.width * self.bits // 8].view(kind)
        channels = [_channel(values, mask) for mask in masks]
        alpha = channels.pop() if masks[3] else None
        return np.dstack(channels[:3]), alpha

    def _by_pillow(self) -> Pixels:
        from PIL import BmpImagePlugin

        head = b"BM" + struct.pack("<IHHI", 14 + len(self.data), 0, 0, 14 + self.start)
        image = BmpImagePlugin.BmpImageFile(io.BytesIO(head + self.data))
        image.load()
        return from_pillow(image)

    def _from_icon_mask(self, start: int) -> NDArray[np.uint8]:
        bits = np.unpackbits(self._rows(start, 1), axis=1)[:, : self.width]
        return np.where(bits, 0, 255).astype(np.uint8)


def _channel(values: NDArray[np.unsignedinteger[Any]], mask: int) -> Pixels:
    if not mask:
        return np.zeros(values.shape, np.uint8)
    shift = (mask & -mask).bit_length() - 1
    part: NDArray[Any] = (values & mask) >> shift
    return to_8_bits(part, mask >> shift)


def open_bmp(data: bytes) -> BitmapFrame:
    """The frame of a BMP file. Raises UndecodableError, or one of BROKEN, for a broken header."""
    if len(data) < 26:
        raise unreadable("broken BMP header: it is cut off")
    return _bitmap(data[14:], struct.unpack_from("<I", data, 10)[0] - 14, _MASKS)


def _bitmap(data: bytes, start: int, masks: dict[int, tuple[int, int, int, int]]) -> BitmapFrame:
    """Raises UndecodableError or struct.error for a broken header."""
    (size,) = struct.unpack_from("<I", data)
    if size < _CORE or size > 4096:
        raise unreadable(f"broken BMP header: it says that it has {size} bytes")
    if size < 16:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 4)
        compression = _RGB
    else:
        width, height, _, bits = struct.unpack_from("<iiHH", data, 4)
        compression = struct.unpack_from("<I", data, 16)[0] if size >= 20 else _RGB
        # Windows never wrote a negative width; as an unsigned number it is so large that the pixel limit refuses it.
        width &= 2**32 - 1
    if not width or not height:
        raise unreadable("broken BMP header: a frame without pixels")
    if compression in _EMBEDDED and size >= _INFO:
        raise unsupported(f"a BMP that holds a {_EMBEDDED[compression]} is not decoded here")
    if bits in (2, 64):
        raise unsupported(f"a BMP of {bits} bits a pixel is not decoded here; convert it to PNG")
    pixel_masks = masks.get(bits) if compression == _RGB else None
    if bits in masks and compression in (_BITFIELDS, _ALPHA_BITFIELDS) and size >= _INFO:
        red, green, blue = struct.unpack_from("<III", data, _INFO)
        has_alpha = size >= 56 or compression == _ALPHA_BITFIELDS
        pixel_masks = (red, green, blue, struct.unpack_from("<I", data, 52)[0] if has_alpha else 0)
    return BitmapFrame(width, abs(height), 1, data, bits, max(start, 0), height < 0, pixel_masks)


def open_ico(data: bytes) -> BitmapFrame | PngFrame:
    """The largest picture of an icon, of the most colours."""
    (count,) = struct.unpack_from("<H", data, 4)
    entries = [struct.unpack_from("<BBBBHHII", data, 6 + 16 * i) for i in range(count)]
    if not entries:
        raise unreadable("broken ICO header: no picture is in it")
    best = max(entries, key=lambda e: ((e[0] or 256) * (e[1] or 256), e[5]))
    start, length = best[7], best[6]
    image = data[start : start + length]
    if not image or len(image) < length:
        raise unreadable("broken ICO content: its picture is cut off")
    if image.startswith(SIGNATURE):
        return open_png(image)
    size, width, height, _, bits, _, _, _, _, colours = struct.unpack_from("<IiiHHIIiiI", image)
    if size < _INFO or height % 2 or width < 1:
        raise unreadable("broken ICO content: its bitmap's header makes no sense")
    palette = 4 * (colours or 2**bits) if bits <= 8 else 0
    halved = image[:8] + struct.pack("<i", height // 2) + image[12:]
    frame = _bitmap(halved, size + palette, {**_MASKS, 32: _ICON_MASKS})
    after = frame.start + -(-frame.width * bits // 32) * 4 * frame.height
    has_mask = len(image) >= after + -(-frame.width // 32) * 4 * frame.height
    return replace(frame, transparent=after if has_mask else None)
