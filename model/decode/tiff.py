"""TIFF by tifffile and imagecodecs, which give the samples as they are stored; their meaning is in `tiff_colour`."""

from __future__ import annotations

import io
import logging
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from masklake.model.decode import jpeg, jpeg_stream
from masklake.model.decode.frame import (
    Fault,
    Frame,
    Pixels,
    UndecodableError,
    check_pixels,
    unreadable,
    unsupported,
)
from masklake.model.decode.jpeg2000 import open_jpeg2000
from masklake.model.decode.jpeg_stream import SOI
from masklake.model.decode.tiff_colour import Colours, colours_of, to_rgb
from masklake.model.decode.tiff_ycbcr import decode_ycbcr
from masklake.model.decode.webp import open_webp

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_REDUCED, _MASK = 1, 4
_MOST_PAGES = 100
_CFA, _LINEAR_RAW = 32803, 34892
_YCBCR = 6
_JPEG, _OLD_JPEG = 7, 6
_JPEG2000 = (33003, 33005, 34712)
_WEBP = 50001
_CODECS = {1, 2, 3, 4, _OLD_JPEG, _JPEG, 5, 8, 32773, 32946, 34925, 50000, _WEBP, *_JPEG2000}
"""None, CCITT, JPEG, LZW, deflate, packbits, LZMA, ZSTD, WebP, JPEG 2000: the others have sizes of their own, or
need programs."""
_NEEDED = frozenset({
    *(256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 332, 338, 339, 347),
    *(529, 530, 532),
})  # fmt: skip
"""Tags that say where the pixels are and what they mean, JPEG's tables and those of YCbCr among them."""
_TELLING = {_JPEG, 5, 8, 32773, 32946, 50000, _WEBP, *_JPEG2000}
"""Those whose decoders raise where bytes are missing."""
_SPARSE_TAGS = (33550, 34735, 42112, 42113)
"""GeoTIFF's and GDAL's, whose tiles may be left out where there is nothing: all the same value then."""

logging.getLogger("tifffile").addHandler(logging.NullHandler())
logging.getLogger("tifffile").propagate = False  # it tells of odd tags, for each image


@dataclass(frozen=True)
class TiffFrame(Frame):
    """page: tifffile's, of `data`. colours: what its samples mean."""

    format: ClassVar[str] = "TIFF"

    data: bytes
    page: TiffPage
    colours: Colours

    def pixels(self, target: tuple[int, int] | None) -> Pixels:
        if self.page.photometric == _YCBCR and self.page.compression not in (_JPEG, _OLD_JPEG):
            return decode_ycbcr(self.page, self.data)
        if self.page.compression in (_JPEG, _OLD_JPEG):
            for segment in _segments(self.page, self.data):
                _check_jpeg(segment, self.page)
        samples = self.page.asarray(squeeze=False, maxworkers=1)[:, 0]
        planes, height, width, count = samples.shape
        if planes > 1:
            samples = np.moveaxis(samples[..., 0], 0, -1)
        return to_rgb(samples.reshape(height, width, planes * count), self.colours)


def open_tiff(data: bytes, max_pixels: int) -> TiffFrame:
    """Raises UndecodableError for what has no agreed colours, or takes more memory than its frame should."""
    from tifffile import TiffFile

    if data[8:10] == b"CR" and data.startswith(SIGNATURES):
        raise unsupported(_camera("CR2"))
    try:
        page = _picture(TiffFile(io.BytesIO(data)))
    except TypeError as error:  # tifffile's, of a sample format for each sample
        raise unsupported(f"a TIFF with tags that are not understood: {error}") from error
    _check_tags(page, data)
    width, height = page.imagewidth, page.imagelength
    if page.photometric in (_CFA, _LINEAR_RAW):
        raise unsupported(_camera("DNG, NEF, ARW …"))
    if not width or not height or not page.samplesperpixel:
        raise unreadable("broken TIFF header: a frame without pixels")
    check_pixels(width, height, max_pixels)
    if page.imagedepth != 1:
        raise unsupported(f"a volume of {page.imagedepth} slices is not one picture")
    if page.compression not in _CODECS:
        raise unsupported(f"TIFF compression {page.compression} is not decoded here; write it with deflate")
    colours = colours_of(page)
    _check_memory(page, max_pixels)
    _check_whole(page, data)
    tag = page.tags.get(274)
    turn = tag.value if tag is not None and isinstance(tag.value, int) and 1 <= tag.value <= 8 else 1
    return TiffFrame(width, height, int(turn), data, page, colours)


def _camera(kinds: str) -> str:
    return f"a camera's raw data ({kinds}) has to be developed first; give the JPEG"


def _picture(file: TiffFile) -> TiffPage:
    """The first frame that is neither a smaller copy nor a mask of another."""
    first = file.pages.first
    if not first.subfiletype & (_REDUCED | _MASK):
        return first
    for count, page in enumerate(_pages(file)):
        if not page.subfiletype & (_REDUCED | _MASK):
            return page
        if count > _MOST_PAGES:
            break
    return first


def _pages(file: TiffFile) -> Iterator[TiffPage]:
    for outer in file.pages:
        page = outer.aspage()
        yield page
        yield from (inner.aspage() for inner in page.pages or ())


def _check_tags(page: TiffPage, data: bytes) -> None:
    """Raises UndecodableError where a tag cannot be read without which the pixels are others: tifffile leaves it out."""
    layout = page.parent.tiff
    (count,) = struct.unpack_from(layout.tagnoformat, data, page.offset)
    start = page.offset + layout.tagnosize
    entries = range(start, start + count * layout.tagsize, layout.tagsize)
    codes = {struct.unpack_from(f"{layout.byteorder}H", data, entry)[0] for entry in entries}
    if lost := sorted(code for code in codes & _NEEDED if code not in page.tags):
        raise unreadable(f"broken TIFF header: the values of tag {lost[0]} are not in the file")


def _check_memory(page: TiffPage, max_pixels: int) -> None:
    """Raises UndecodableError where decoding takes too much memory: a tile is decoded whole, however small the frame is, and
    a pixel may have many samples of many bits."""
    tile = page.tilewidth * page.tilelength if page.is_tiled else 0
    samples = page.imagewidth * page.imagelength * page.samplesperpixel * max(1, page.bitspersample // 8)
    if tile > max_pixels or samples > 8 * max_pixels:
        raise UndecodableError(
            Fault.TOO_LARGE,
            f"its samples or a tile of it take more memory than {max_pixels:,} pixels (--max-pixels)",
            (page.imagewidth, page.imagelength),
        )


def _check_whole(page: TiffPage, data: bytes) -> None:
    """Raises UndecodableError where bytes of the pixels are missing, which tifffile would take for zeros."""
    if page.compression == 1 and page.photometric != _YCBCR:
        # Old writers leave the counts 0 or too large; without compression they follow from the size, as in libtiff.
        needed = _plain_counts(page)
        counts = page.databytecounts if len(page.databytecounts) == len(needed) else needed
        if any(0 < count < least for count, least in zip(counts, needed, strict=True)):
            raise unreadable("broken TIFF content: strips or tiles are cut off")
        none = not any(counts)
        page.databytecounts = tuple(
            least if count or none else 0 for count, least in zip(counts, needed, strict=True)
        )
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    least = int(np.prod(page.chunked)) if page.chunked else 1
    if len(segments) < least and not page.is_contiguous:
        raise unreadable(f"broken TIFF content: {least} strips or tiles, of which {len(segments)} are told")
    empty = sum(not count or not offset for offset, count in segments)
    if empty and (empty == len(segments) or not any(tag in page.tags for tag in _SPARSE_TAGS)):
        raise unreadable(
            f"broken TIFF content: {empty} of {len(segments)} strips or tiles were never written"
        )
    # Some decoders report missing bytes themselves; for them a count that is too large does no harm.
    end = None if page.compression in _TELLING else len(data)
    if any(offset >= len(data) or (end and offset + count > end) for offset, count in segments):
        raise unreadable("broken TIFF content: strips or tiles are cut off")
    if page.compression in (*_JPEG2000, _WEBP):
        opened = open_webp if page.compression == _WEBP else open_jpeg2000
        for segment in _segments(page, data):
            inner = opened(segment)
            check_pixels(inner.width, inner.height, _most_pixels(page))


def _plain_counts(page: TiffPage) -> tuple[int, ...]:
    """Bytes of each strip or tile that is not compressed."""
    samples = page.samplesperpixel if page.planarconfig == 1 else 1
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    if page.is_tiled:
        row = -(-page.tilewidth * page.bitspersample * samples // 8)
        return (row * page.tilelength,) * len(page.dataoffsets)
    row = -(-page.imagewidth * page.bitspersample * samples // 8)
    high = min(page.rowsperstrip, page.imagelength)
    starts = range(0, page.imagelength, high)
    counts = tuple(row * min(high, page.imagelength - start) for start in starts) * planes
    return counts[: len(page.dataoffsets)]


def _most_pixels(page: TiffPage) -> int:
    """Pixels that a strip or tile may hold, with a margin for padding."""
    wide, high = (page.tilewidth, page.tilelength) if page.is_tiled else (page.imagewidth, page.rowsperstrip)
    return 4 * max(wide, 64) * max(min(high, max(page.imagelength, page.tilelength)), 64)


def _segments(page: TiffPage, data: bytes) -> Iterator[bytes]:
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        if count:
            yield data[offset : offset + count]


def _check_jpeg(segment: bytes, page: TiffPage) -> None:
    """Raises UndecodableError where libjpeg warns, or makes more pixels than a strip or tile has: tifffile's decoder does not
    tell."""
    whole = SOI + (page.jpegtables[2:-2] if page.jpegtables else b"") + segment[2:]
    try:
        stream = jpeg_stream.parse(whole)
    except UndecodableError as error:
        if error.fault == Fault.UNSUPPORTED:  # of 12 bits, or lossless: tifffile reads it, without a warning
            check_pixels(*(error.size or (0, 0)), _most_pixels(page))
            return
        raise
    check_pixels(stream.width, stream.height, _most_pixels(page))
    jpeg_stream.check_scans(whole, stream)
    size = (-(-stream.width // 8), -(-stream.height // 8))
    jpeg.decode_whole(whole, stream, size)  # at an eighth: all is read, little is made
