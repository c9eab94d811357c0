"""YCbCr in a TIFF that is not JPEG (TIFF 6.0, section 21): tifffile decompresses its bytes and leaves their order as it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from masklake.model.decode.frame import Pixels, unreadable, unsupported
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tifffile import TiffPage

_COEFFICIENTS, _SUBSAMPLING, _REFERENCES = 529, 530, 532
_REC_601 = (0.299, 0.587, 0.114)
_CODECS = (1, 5, 8, 32773, 32946, 34925, 50000)
"""None, LZW, deflate, packbits, LZMA and ZSTD give bytes; the others pictures."""
_FULL_RANGE = (0.0, 255.0, 128.0, 255.0, 128.0, 255.0)


def decode_ycbcr(page: TiffPage, data: bytes) -> Pixels:
    """RGB (H, W, 3); chroma is repeated where it is subsampled, as libtiff does. Raises UndecodableError."""
    across, down = page.tags.valueof(_SUBSAMPLING, (2, 2))
    if page.compression not in _CODECS:
        raise unsupported(
            f"YCbCr of TIFF compression {page.compression} is not decoded here; convert it to RGB"
        )
    if page.planarconfig != 1 or page.bitspersample != 8 or page.predictor != 1 or page.samplesperpixel != 3:
        raise unsupported(
            "YCbCr of this kind (planes, bits or predictor) is not decoded here; convert it to RGB"
        )
    if across not in (1, 2, 4) or down not in (1, 2, 4):
        raise unreadable(f"broken TIFF header: YCbCr subsampled by {across} and {down}")
    ycc = np.zeros((page.imagelength, page.imagewidth, 3), np.uint8)
    for (top, left), segment, (height, width) in _segments(page, data):
        units_down, units_across = -(-height // down), -(-width // across)
        count, size = units_down * units_across, across * down + 2
        values = np.frombuffer(segment, np.uint8)
        if len(values) < count * size:
            raise unreadable("broken TIFF content: a strip or tile is cut off")
        units = values[: count * size].reshape(units_down, units_across, size)
        luma = units[..., :-2].reshape(units_down, units_across, down, across).transpose(0, 2, 1, 3)
        chroma = units[..., -2:].repeat(down, 0).repeat(across, 1)
        part = ycc[top : top + height, left : left + width]
        part[..., 0] = luma.reshape(units_down * down, units_across * across)[
            : part.shape[0], : part.shape[1]
        ]
        part[..., 1:] = chroma[: part.shape[0], : part.shape[1]]
    return _to_rgb(page, ycc)


def _segments(page: TiffPage, data: bytes) -> Iterator[tuple[tuple[int, int], bytes, tuple[int, int]]]:
    """Top and left, bytes as they were before compression, height and width of each strip or tile."""
    from tifffile import TIFF

    wide, high = (page.tilewidth, page.tilelength) if page.is_tiled else (page.imagewidth, page.rowsperstrip)
    in_a_row = -(-page.imagewidth // wide)
    for i, (offset, count) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=False)):
        top, left = i // in_a_row * high, i % in_a_row * wide
        if top >= page.imagelength:
            return
        rows = high if page.is_tiled else min(high, page.imagelength - top)
        segment = data[offset : offset + count]
        if page.fillorder == 2:
            segment = bytes(np.packbits(np.unpackbits(np.frombuffer(segment, np.uint8), bitorder="little")))
        if page.compression != 1:
            # Three samples of each pixel, and of what fills up its last units, are the most that can be in it.
            segment = TIFF.DECOMPRESSORS[page.compression](segment, out=3 * (rows + 4) * (wide + 4))
        yield (top, left), bytes(segment), (rows, wide)


def _to_rgb(page: TiffPage, ycc: NDArray[np.uint8]) -> Pixels:
    red, green, blue = _numbers(page, _COEFFICIENTS, _REC_601)
    levels = _numbers(page, _REFERENCES, _FULL_RANGE)
    out = np.empty_like(ycc)
    step = max(1, 2_000_000 // ycc.shape[1])
    for start in range(0, len(ycc), step):
        part = ycc[start : start + step].astype(np.float32)
        y = (part[..., 0] - levels[0]) * (255.0 / (levels[1] - levels[0]))
        cb = (part[..., 1] - levels[2]) * (127.0 / (levels[3] - levels[2]))
        cr = (part[..., 2] - levels[4]) * (127.0 / (levels[5] - levels[4]))
        r = y + (2 - 2 * red) * cr
        b = y + (2 - 2 * blue) * cb
        g = (y - red * r - blue * b) / green
        out[start : start + step] = np.rint(np.clip(np.dstack([r, g, b]), 0, 255))
    return out


def _numbers(page: TiffPage, tag: int, default: tuple[float, ...]) -> list[float]:
    """The tag's rational numbers; the standard's where it is missing or senseless."""
    value = page.tags.valueof(tag)
    if not isinstance(value, tuple) or len(value) not in (len(default), 2 * len(default)):
        return list(default)
    if len(value) == 2 * len(default):
        value = tuple(a / b if b else 0.0 for a, b in zip(value[::2], value[1::2], strict=True))
    numbers = [float(number) for number in value]
    pairs = [(numbers[i], numbers[i + 1]) for i in range(0, len(numbers) - 1, 2)]
    sound = all(a != b for a, b in pairs) if len(numbers) == 6 else numbers[1] > 0
    return numbers if sound else list(default)
