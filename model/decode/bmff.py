"""AVIF by libavif and HEIC by libheif: files of boxes (ISO/IEC 14496-12), whose orientation is a box of its own.

EXIF and XMP in them say nothing that is used (ISO/IEC 23008-12: orientation is `irot` and `imir`), so the libraries do
not get to see them: either may be broken.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from masklake.model.decode.frame import Frame, Pixels, unsupported
from masklake.model.decode.rgb import from_pillow

if TYPE_CHECKING:
    from PIL.AvifImagePlugin import AvifImageFile

AVIF_BRANDS = frozenset({b"avif", b"avis"})
HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_UNUSED = (b"Exif", b"mime")
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class AvifFrame(Frame):
    """image: Pillow's, open and not loaded."""

    format: ClassVar[str] = "AVIF"

    image: AvifImageFile

    def pixels(self, target: tuple[int, int] | None) -> Pixels:
        self.image.load()
        return from_pillow(self.image)


@dataclass(frozen=True)
class HeicFrame(Frame):
    """image: pillow-heif's, already upright."""

    format: ClassVar[str] = "HEIC"

    image: Any

    def pixels(self, target: tuple[int, int] | None) -> Pixels:
        return from_pillow(self.image.to_pillow())


def brands(data: bytes) -> frozenset[bytes]:
    """The brands of a file that begins with a `ftyp` box; none for others."""
    if data[4:8] != b"ftyp":
        return frozenset()
    end = min(int.from_bytes(data[:4], "big"), len(data), 512)
    return frozenset(data[start : start + 4] for start in (8, *range(16, end - 3, 4)))


def open_avif(data: bytes) -> AvifFrame:
    """The frame of an AVIF file. Raises UndecodableError, or one of BROKEN, for a broken header."""
    from PIL import AvifImagePlugin

    image = AvifImagePlugin.AvifImageFile(io.BytesIO(_without_unused(data)))
    # From the boxes irot and imir: Pillow says it as EXIF does.
    return AvifFrame(*image.size, image.getexif().get(_ORIENTATION, 1), image)


def open_heic(data: bytes) -> HeicFrame:
    """The frame of a HEIC file. Raises UndecodableError where pillow-heif is missing, or as `open_avif`."""
    try:
        import pillow_heif
    except ImportError as error:
        raise unsupported(
            "HEIC is read where pillow-heif is installed: pip install 'masklake[heic]', then run with --all"
        ) from error
    image = pillow_heif.open_heif(io.BytesIO(_without_unused(data)), convert_hdr_to_8bit=True)
    width, height = image.size
    return HeicFrame(width, height, 1, image)  # libheif turns it


def _without_unused(data: bytes) -> bytes:
    """The file with items of EXIF and XMP renamed to a type that is skipped."""
    out = bytearray(data)
    for meta, start, end in boxes(data, 0, len(data)):
        if meta != b"meta":
            continue
        for kind, inner, inner_end in boxes(data, start + 4, end):
            if kind != b"iinf" or inner >= len(data):
                continue
            for entry, entry_start, entry_end in boxes(
                data, inner + (6 if data[inner] == 0 else 8), inner_end
            ):
                kind_start = entry_start + 4 + (2 if data[entry_start : entry_start + 1] == b"\2" else 4) + 2
                if (
                    entry == b"infe"
                    and kind_start + 4 <= entry_end
                    and data[kind_start : kind_start + 4] in _UNUSED
                ):
                    out[kind_start : kind_start + 4] = b"skip"
    return bytes(out)


def boxes(data: bytes, position: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and end of the content of each box that is whole."""
    while position + 8 <= end:
        length = int.from_bytes(data[position : position + 4], "big")
        kind, head = data[position + 4 : position + 8], 8
        if length == 1:
            length, head = int.from_bytes(data[position + 8 : position + 16], "big"), 16
        elif length == 0:
            length = end - position
        if length < head or position + length > end:
            return
        yield kind, position + head, position + length
        position += length
