"""JPEG 2000 by OpenJPEG (ISO/IEC 15444-1): through Pillow, or imagecodecs where samples have other than 8 bits."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from masklake.model.decode.bmff import boxes
from masklake.model.decode.frame import Frame, Pixels, unreadable, unsupported
from masklake.model.decode.rgb import from_channels, from_pillow

if TYPE_CHECKING:
    from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile

_START = b"\xff\x4f\xff\x51"
"""SOC and SIZ, with which every codestream begins."""
_SRGB, _GREY = 16, 17


@dataclass(frozen=True)
class Jpeg2000Frame(Frame):
    """image: Pillow's, open and not loaded. bits: of a sample."""

    format: ClassVar[str] = "JPEG2000"

    data: bytes
    image: Jpeg2KImageFile
    bits: int

    def pixels(self, target: tuple[int, int] | None) -> Pixels:
        if self.bits == 8:
            self.image.load()
            return from_pillow(self.image)
        import imagecodecs

        values = imagecodecs.jpeg2k_decode(self.data)
        return from_channels(values, 2**self.bits - 1)


def open_jpeg2000(data: bytes) -> Jpeg2000Frame:
    """The frame of a JPEG 2000 file or codestream. Raises UndecodableError, or one of BROKEN, for a broken header."""
    from PIL import Jpeg2KImagePlugin

    image = Jpeg2KImagePlugin.Jpeg2KImageFile(io.BytesIO(data))
    start = data.find(_START)
    components = data[start + 42 : start + 42 + 3 * int.from_bytes(data[start + 40 : start + 42], "big")]
    depths = set(components[::3])
    if start < 0 or not depths:
        raise unreadable("broken JPEG2000 header: no codestream is in it")
    bits = (max(depths) & 0x7F) + 1
    if bits != 8 or len(depths) > 1:
        plain = len(depths) == 1 and set(components[1::3]) == set(components[2::3]) == {1}
        # Signed (the highest bit of a depth), subsampled, with a palette, or in a colour space of its own.
        if not plain or max(depths) & 0x80 or bits > 16 or not _is_plain(data):
            raise unsupported(
                f"a JPEG 2000 of {bits} bits of this kind is not decoded here; convert it to PNG"
            )
    return Jpeg2000Frame(*image.size, 1, data, image, bits)


def _is_plain(data: bytes) -> bool:
    """Whether the boxes before the codestream say sRGB or grey, without a palette; a bare codestream has none."""
    for kind, start, end in boxes(data, 0, len(data)):
        if kind != b"jp2h":
            continue
        for inner, inner_start, inner_end in boxes(data, start, end):
            if inner == b"pclr":
                return False
            if inner == b"colr" and data[inner_start : inner_start + 1] == b"\1":
                colour_space = data[inner_start + 3 : min(inner_start + 7, inner_end)]
                return int.from_bytes(colour_space, "big") in (_SRGB, _GREY)
    return True
