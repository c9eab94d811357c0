"""Samples of any depth to 8-bit RGB on white, the right way up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from masklake.model.decode.exif import SIDEWAYS
from masklake.model.decode.frame import Pixels, unreadable, unsupported
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

_BLOCK = 4_000_000
"""Samples that are widened at once: what is made on the way stays small beside the frame."""

_OVERSHOOT = 1.1


def to_8_bits(samples: NDArray[np.unsignedinteger[Any]], top: int) -> Pixels:
    """0 to `top` becomes 0 to 255, rounded; the shape stays."""
    if samples.dtype == np.uint8 and top == 255:
        return samples.astype(np.uint8, copy=False)
    if samples.dtype.itemsize <= 2:
        levels = min(top, np.iinfo(samples.dtype).max) + 1
        table = np.full(np.iinfo(samples.dtype).max + 1, 255, np.uint8)
        table[:levels] = np.rint(np.arange(levels) * (255 / top))
        return table[samples]
    return np.rint(np.minimum(samples, top) * (255 / top)).astype(np.uint8)


def grey_to_rgb(grey: Pixels) -> Pixels:
    """(H, W) to (H, W, 3)."""
    return np.repeat(grey[:, :, None], 3, axis=2)


def on_white(colour: Pixels, alpha: Pixels, *, premultiplied: bool = False) -> Pixels:
    """(H, W, 3) under (H, W) alpha, laid over white.

    premultiplied: the colours hold their alpha already (TIFF's associated alpha).
    """
    if alpha.min(initial=255) == 255:
        return colour
    out = np.empty_like(colour)
    step = max(1, _BLOCK // max(1, 3 * colour.shape[1]))
    for start in range(0, len(colour), step):
        part = slice(start, start + step)
        values = colour[part].astype(np.uint16)
        opaque = alpha[part].astype(np.uint16)[:, :, None]
        white = 255 - opaque
        out[part] = (
            np.minimum(values + white, 255) if premultiplied else (values * opaque + 255 * white + 127) // 255
        )
    return out


def from_channels(pixels: NDArray[Any], top: int) -> Pixels:
    """(H, W), or (H, W, C) of grey, grey and alpha, RGB or RGBA, to RGB on white."""
    values = to_8_bits(pixels, top)
    if values.ndim == 2:
        return grey_to_rgb(values)
    count = values.shape[2]
    colour = grey_to_rgb(values[:, :, 0]) if count < 3 else values[:, :, :3]
    return colour if count in (1, 3) else on_white(colour, values[:, :, -1])


def float_top(largest: float) -> float:
    """The value of white in a floating-point picture, by its largest value.

    Such files carry no range: 0 to 1, 0 to 255 and 0 to 65535 are those in use, and resampling goes a little beyond.
    Raises UndecodableError for what fits none.
    """
    for top in (1.0, 255.0, 65535.0):
        if largest <= top * _OVERSHOOT:
            return top
    raise unsupported(
        f"floating-point samples up to {largest:g} have no known range; scale them to 0 to 1, 0 to 255 or 0 to 65535"
    )


def from_floats(values: NDArray[np.floating[Any]]) -> Pixels:
    """(H, W) or (H, W, 3 or more) to RGB. Raises UndecodableError for NaN, infinity and unknown ranges."""
    check_finite(values)
    top = float_top(float(values.max(initial=0.0)))
    return from_channels(floats_to_8_bits(values, top), 255)


def check_finite(values: NDArray[np.floating[Any]]) -> None:
    """Raises UndecodableError where a value is NaN or infinite."""
    if not np.isfinite(values).all():
        raise unreadable("the pixels hold NaN or infinity")


def floats_to_8_bits(values: NDArray[np.floating[Any]], top: float) -> Pixels:
    """0 to `top` becomes 0 to 255, rounded; values outside are clipped. The shape stays."""
    return np.rint(np.clip(values, 0, top) * (255.0 / top)).astype(np.uint8)


def from_pillow(image: Image.Image) -> Pixels:
    """A loaded Pillow image of 8 bits a sample to RGB on white."""
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = np.asarray(image.convert("RGBA"))
        return on_white(layer[:, :, :3], layer[:, :, 3])
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def from_ink(ink: Pixels) -> Pixels:
    """CMYK (H, W, 4), 255 is full ink, to RGB. Profiles are not applied."""
    from PIL import Image

    height, width = ink.shape[:2]
    image = Image.frombuffer("CMYK", (width, height), np.ascontiguousarray(ink), "raw", "CMYK", 0, 1)
    return np.asarray(image.convert("RGB"))


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation of 2 to 8."""
    if orientation in SIDEWAYS:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
