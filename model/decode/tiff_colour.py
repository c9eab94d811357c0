"""What the samples of a TIFF mean (TIFF 6.0 and its supplements): 8-bit RGB of them, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from masklake.model.decode.frame import Pixels, unsupported
from masklake.model.decode.rgb import (
    check_finite,
    float_top,
    floats_to_8_bits,
    from_ink,
    grey_to_rgb,
    on_white,
    to_8_bits,
)
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tifffile import TiffPage

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _INK, _YCBCR, _CIELAB, _ICCLAB = 0, 1, 2, 3, 5, 6, 8, 9
_NAMES = {4: "a mask", 10: "ITULAB", 32844: "LogL", 32845: "LogLuv", 34892: "LinearRaw", 51177: "a depth map"}
_FAX = (2, 3, 4)
_SIGNED, _FLOAT, _COMPLEX_INT, _COMPLEX = 2, 3, 5, 6
_ASSOCIATED, _UNASSOCIATED = 1, 2
_INK_SET, _CMYK = 332, 1
_BLOCK = 8_000_000
"""Samples that are converted at once."""


@dataclass(frozen=True)
class Colours:
    """kind: the photometric interpretation, after what the codec has undone.

    count: samples of a pixel that are colour. alpha: which sample is alpha. top: white of an integer sample.
    table: (colours, 3) of a palette.
    """

    kind: int
    count: int
    alpha: int | None
    premultiplied: bool
    top: int
    floats: bool
    table: NDArray[np.uint8] | None


def colours_of(page: TiffPage) -> Colours:
    """How the samples of `page` become colours. Raises UndecodableError for samples that have no agreed colours."""
    kind, bits = int(page.photometric), page.bitspersample
    if page.tags.get(262) is None:  # as libtiff guesses
        kind = (
            _RGB
            if page.samplesperpixel >= 3
            else _WHITE_IS_ZERO
            if page.compression in _FAX
            else _BLACK_IS_ZERO
        )
    samples = page.samplesperpixel
    bands = f"{samples} bands of {bits} bits"
    if kind in _NAMES or kind not in (0, 1, 2, 3, 5, 6, 8, 9):
        raise unsupported(
            f"a TIFF of {_NAMES.get(kind, f'photometric {kind}')} is not decoded here; convert it to RGB"
        )
    if not isinstance(bits, int) or len(set(_tuple(page, 258))) > 1:
        raise unsupported(
            f"a TIFF whose samples have different bits, {_tuple(page, 258)}, is not decoded here"
        )
    format_ = int(page.sampleformat)
    if format_ in (_COMPLEX, _COMPLEX_INT) or page.dtype is None:
        raise unsupported(f"{bands} (sample format {format_}) are no brightness")
    if bits > 16 and bits not in (32, 64):
        raise unsupported(f"{bands} are not decoded here; convert them to 16 bits")
    if format_ == _SIGNED and kind not in (_CIELAB, _ICCLAB):
        raise unsupported(f"{bands}, signed, have no agreed black and white; convert them to unsigned")
    if kind == _YCBCR and page.compression in (6, 7):
        kind = _RGB  # tifffile's decoder has made it that
    extras = tuple(int(extra) for extra in page.extrasamples)
    count = {_RGB: 3, _INK: 4, _YCBCR: 3, _CIELAB: 3, _ICCLAB: 3}.get(kind, 1)
    if kind in (_CIELAB, _ICCLAB) and samples - len(extras) == 1:
        kind, count = _BLACK_IS_ZERO, 1  # lightness alone
    if kind == _BLACK_IS_ZERO and samples == 3 and extras in ((0, 0), ()):
        kind, count, extras = _RGB, 3, ()  # GDAL's way of writing three bands of 16 bits
    if kind == _INK and (page.tags.valueof(_INK_SET, _CMYK) != _CMYK or samples - len(extras) > 4):
        raise unsupported(f"{bands} of inks that are not CMYK are not decoded here")
    if samples < count or (kind in (_WHITE_IS_ZERO, _BLACK_IS_ZERO) and samples > 3):
        raise unsupported(f"{bands} have no agreed colours; choose three and write them as RGB")
    alpha = next((i for i, extra in enumerate(extras) if extra in (_ASSOCIATED, _UNASSOCIATED)), None)
    return Colours(
        kind=kind,
        count=count,
        alpha=None if alpha is None else samples - len(extras) + alpha,
        premultiplied=alpha is not None and extras[alpha] == _ASSOCIATED,
        top=2**bits - 1,
        floats=format_ == _FLOAT,
        table=_table(page) if kind == _PALETTE else None,
    )


def _tuple(page: TiffPage, tag: int) -> tuple[Any, ...]:
    value = page.tags.valueof(tag, ())
    return value if isinstance(value, tuple) else (value,)


def _table(page: TiffPage) -> NDArray[np.uint8]:
    if page.tags.get(320) is None:
        raise unsupported("a TIFF with a palette that is not in it")
    values = np.asarray(page.tags.valueof(320), np.uint16).reshape(3, -1).T
    # Some writers give 8-bit entries where the format has 16 bits; libtiff detects them in the same way (checkcmap).
    return values.astype(np.uint8) if values.max(initial=0) <= 255 else (values >> 8).astype(np.uint8)


def to_rgb(samples: NDArray[Any], colours: Colours) -> Pixels:
    """(H, W, samples) as stored to RGB on white. Raises UndecodableError for floating-point values without a range."""
    top: float = colours.top
    if colours.floats:
        check_finite(samples)
        top = float_top(float(samples[..., : colours.count].max(initial=0.0)))
    height, width, count = samples.shape
    out = np.empty((height, width, 3), np.uint8)
    step = max(1, _BLOCK // max(1, width * count))
    for start in range(0, height, step):
        out[start : start + step] = _part(samples[start : start + step], colours, top)
    return out


def _part(samples: NDArray[Any], colours: Colours, top: float) -> Pixels:
    stored = samples[..., : colours.count]
    if colours.table is not None:
        rgb = colours.table[np.minimum(stored[..., 0].astype(np.intp), len(colours.table) - 1)]
    elif colours.kind in (_CIELAB, _ICCLAB):
        rgb = _from_lab(stored, colours)
    else:
        values = _eight(stored, colours, top)
        if colours.kind == _INK:
            rgb = from_ink(values)
        elif colours.count == 3:
            rgb = values
        else:
            rgb = grey_to_rgb(255 - values[..., 0] if colours.kind == _WHITE_IS_ZERO else values[..., 0])
    if colours.alpha is None:
        return rgb
    alpha = _eight(samples[..., colours.alpha], colours, 1.0 if colours.floats and top == 1.0 else top)
    return on_white(rgb, alpha, premultiplied=colours.premultiplied)


def _eight(values: NDArray[Any], colours: Colours, top: float) -> Pixels:
    if colours.floats:
        return floats_to_8_bits(values, top)
    return to_8_bits(values.astype(np.uint8) if values.dtype == bool else values, int(top))


def _from_lab(stored: NDArray[Any], colours: Colours) -> Pixels:
    """8 or 16 bits: L from 0 to white; a and b as signed numbers in CIELAB, around the middle in ICCLAB."""
    from PIL import Image

    wide = colours.top == 65535
    if colours.top not in (255, 65535):
        raise unsupported("LAB of other than 8 or 16 bits is not decoded here; convert it to RGB")
    unsigned: NDArray[Any] = stored.view(np.uint16 if wide else np.uint8)
    lab: Pixels = (unsigned >> 8).astype(np.uint8) if wide else unsigned.copy()
    if wide and colours.kind == _CIELAB:
        lab[..., 0] = to_8_bits(unsigned[..., 0], 65535)
    if colours.kind == _ICCLAB:
        lab[..., 1:] ^= 0x80  # Pillow's raw mode is CIELAB's
    height, width = lab.shape[:2]
    image = Image.frombuffer("LAB", (width, height), np.ascontiguousarray(lab), "raw", "LAB", 0, 1)
    return np.asarray(image.convert("RGB"))
