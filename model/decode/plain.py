"""The formats that Pillow's own readers decode as they are: PPM's family and TGA."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from masklake.model.decode.frame import Frame, Pixels
from masklake.model.decode.rgb import from_channels, from_floats, from_pillow

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

_TGA_KINDS = {1: (8,), 2: (16, 24, 32), 3: (8, 16), 9: (8,), 10: (16, 24, 32), 11: (8, 16)}
"""Bits of a pixel by kind: palette, colour, grey; the same with runs."""
_TGA_FOOTER = b"TRUEVISION-XFILE.\0"


@dataclass(frozen=True)
class PnmFrame(Frame):
    """image: Pillow's, open and not loaded."""

    format: ClassVar[str] = "PPM"

    image: ImageFile

    def pixels(self, target: tuple[int, int] | None) -> Pixels:
        self.image.load()
        if self.image.mode == "F":
            return from_floats(np.asarray(self.image))
        if self.image.mode == "I":  # 0 to 65535, whatever the file's own largest value
            return from_channels(np.asarray(self.image).astype(np.uint16), 65535)
        return from_pillow(self.image)


@dataclass(frozen=True)
class TgaFrame(Frame):
    """image: Pillow's, open and not loaded. alpha_bits: bits of alpha in a pixel, by the header."""

    format: ClassVar[str] = "TGA"

    image: ImageFile
    alpha_bits: int

    def pixels(self, target: tuple[int, int] | None) -> Pixels:
        self.image.load()
        # Many writers leave the fourth byte 0, and some say that it is alpha; a single bit means anything.
        if self.image.mode in ("RGBA", "LA") and (
            self.alpha_bits != 8 or self.image.getchannel("A").getextrema()[1] == 0
        ):
            return from_pillow(self.image.convert("RGB"))
        return from_pillow(self.image)


def open_pnm(data: bytes) -> PnmFrame:
    """The frame of a file of PPM's family (PBM, PGM, PPM, PFM). Raises UndecodableError, or one of BROKEN, for a broken header."""
    from PIL import PpmImagePlugin

    image = PpmImagePlugin.PpmImageFile(io.BytesIO(data))
    return PnmFrame(*image.size, 1, image)


def open_tga(data: bytes) -> TgaFrame:
    """The frame of a TGA file. Raises UndecodableError, or one of BROKEN, for a broken header."""
    from PIL import TgaImagePlugin

    image = TgaImagePlugin.TgaImageFile(io.BytesIO(data))
    return TgaFrame(*image.size, 1, image, data[17] & 15)


def is_tga(data: bytes) -> bool:
    """TGA has no signature at its start: whether its header makes sense."""
    if len(data) < 18:
        return False
    palette, kind, width, height, bits = (
        data[1],
        data[2],
        int.from_bytes(data[12:14], "little"),
        int.from_bytes(data[14:16], "little"),
        data[16],
    )
    sound = bits in _TGA_KINDS.get(kind, ()) and width > 0 and height > 0
    if kind in (1, 9):
        sound = sound and palette == 1 and data[7] in (15, 16, 24, 32)
    return sound and palette <= 1 and (data.endswith(_TGA_FOOTER) or data[17] & 0xC0 == 0)
