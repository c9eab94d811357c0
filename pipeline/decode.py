"""Decode: an object's bytes in, RGB pixels out, or the reason why there are none.

Runs in CPU tasks without torch (a worker pays 4 s and 800 MB to import it).
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from masklake.model.tiles.tiling import Tiling
from masklake.pipeline.schema import Status
from masklake.pipeline.streams.outcome import with_outcomes

if TYPE_CHECKING:
    from PIL import Image

DECODED = (
    pa.field("pixels", pa.large_binary()),
    pa.field("pixel_width", pa.int32()),
    pa.field("pixel_height", pa.int32()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
)
"""RGB bytes (pixel_height, pixel_width, 3); width and height are those of the original frame, after EXIF
orientation, which are larger where a JPEG was decoded at a fraction of its size."""

_SIDEWAYS = {5, 6, 7, 8}
_EXIF_ORIENTATION = 0x0112
_SCALES_WIDE = ("I", "F")
_LARGEST_SIDE = 2**31 - 1
_PART_BYTES = 256 * 2**20
_TIFF_TILE = (322, 323)
"""TileWidth, TileLength: libtiff takes memory for a whole tile, however small the frame."""
_FILLED_ON_OPENING = (b"GIF8", b"\0\0\1\0")
"""GIF, ICO: Pillow makes their first frame before its size can be asked."""

_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "GIF", "BMP", "DIB", "PPM", "JPEG2000", "TGA", "ICO")
"""Pillow's plugins that may see the bytes. Others start programs (EPS runs Ghostscript) or only read headers."""

_BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    RuntimeError,
    EOFError,
    struct.error,
    zlib.error,
)
"""What Pillow's plugins raise on broken content: AVIF RuntimeError, broken tag tables nearly anything."""


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """Limits and scaling of decoding.

    max_pixels: frames with more pixels are refused from their header (decompression bombs).
    target: the model's (min_size, max_size); a JPEG at least twice as large is decoded at 1/2, 1/4 or 1/8 (in
        its DCT), but never below that size. None decodes every JPEG in full.
    tiling: frames that it cuts are decoded in full; None where no image is cut.
    """

    max_pixels: int = 128_000_000
    target: tuple[int, int] | None = None
    tiling: Tiling | None = None

    def scaled_to(self, width: int, height: int) -> tuple[int, int] | None:
        """The target of a JPEG of this size; None to decode it in full."""
        cut = self.tiling is not None and self.tiling.cuts(height, width)
        return None if cut else self.target


class UndecodableError(Exception):
    """Why an object gave no pixels, with the status of its row and the frame's size where it is known."""

    def __init__(self, status: Status, reason: str, size: tuple[int, int] | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.size = size


def decode(data: bytes | memoryview, options: DecodeOptions) -> tuple[np.ndarray, tuple[int, int]]:
    """RGB pixels, uint8 (H, W, 3), upright, and the original frame's (width, height).

    Greyscale, palette, CMYK, YCCK, LAB, 16-bit and floating-point images become 8-bit RGB; transparent pixels
    are laid over white; of an animation the first frame is taken. Raises UndecodableError.
    """
    from PIL import Image, UnidentifiedImageError

    if not len(data):
        raise UndecodableError(Status.UNREADABLE, "the object has no bytes")
    filled = bytes(data[:4]) in _FILLED_ON_OPENING
    Image.MAX_IMAGE_PIXELS = options.max_pixels if filled else None  # the others are measured below
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd EXIF and palettes, for each image
        try:
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
        except UnidentifiedImageError as error:
            raise UndecodableError(*_unidentified(bytes(data[:32]))) from error
        except Image.DecompressionBombError as error:
            raise _too_large(options, None) from error
        except MemoryError as error:
            raise UndecodableError(Status.FAILED, "not enough memory to open it") from error
        except _BROKEN as error:
            raise UndecodableError(Status.UNREADABLE, f"broken header: {error}") from error
        width, height = image.size
        if width * height > options.max_pixels:
            raise _too_large(options, (width, height))
        try:
            if image.format == "TIFF" and _tile_pixels(image) > options.max_pixels:
                raise _too_large(options, None)
            if image.format in ("JPEG", "MPO") and (target := options.scaled_to(width, height)):
                image.draft(None, _draft_size((width, height), target))
            image.load()
            # read after loading: Pillow turns TIFF and AVIF upright itself, and then drops the tag
            orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
            pixels = _upright(_rgb(image), orientation)
        except UndecodableError:
            raise
        except MemoryError as error:
            raise UndecodableError(
                Status.FAILED, f"not enough memory to decode {width}x{height}", (width, height)
            ) from error
        except _BROKEN as error:
            raise UndecodableError(
                Status.UNREADABLE, f"broken {image.format} content: {error}", (width, height)
            ) from error
    return pixels, (height, width) if orientation in _SIDEWAYS else (width, height)


def _too_large(options: DecodeOptions, size: tuple[int, int] | None) -> UndecodableError:
    what = f"{size[0]}x{size[1]} is {size[0] * size[1]:,} pixels" if size else "a part of it has more pixels"
    return UndecodableError(
        Status.TOO_LARGE, f"{what}; the limit is {options.max_pixels:,} (--max-pixels)", size
    )


def _tile_pixels(image: Image.Image) -> int:
    tags = image.tag_v2  # type: ignore[attr-defined]  # a TiffImageFile, which the caller has asked
    width, height = (tags.get(tag, 0) for tag in _TIFF_TILE)
    return width * height


def _unidentified(head: bytes) -> tuple[Status, str]:
    """A known signature that Pillow still refuses is a broken image; anything else is none."""
    for signature, name in (
        (b"\xff\xd8\xff", "JPEG"),
        (b"\x89PNG", "PNG"),
        (b"GIF8", "GIF"),
        (b"II*\0", "TIFF"),
        (b"MM\0*", "TIFF"),
        (b"BM", "BMP"),
        (b"\0\0\1\0", "ICO"),
        (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    ):
        if head.startswith(signature):
            return Status.UNREADABLE, f"broken {name} header"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return Status.UNREADABLE, "broken WebP header"
    if head[4:12] in (b"ftypavif", b"ftypavis"):
        return Status.UNREADABLE, "broken AVIF header"
    return Status.UNSUPPORTED, f"not an image format that is decoded here (starts with {head[:12]!r})"


def _draft_size(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """The smallest frame that still holds all that the model's resize would keep; Pillow rounds it up."""
    scale = min(target[0] / min(size), target[1] / max(size), 1.0)
    width, height = (max(1, round(side * scale)) for side in size)
    return width, height


def _rgb(image: Image.Image) -> np.ndarray:
    from PIL import Image

    if image.mode.startswith("I;16") or image.mode in _SCALES_WIDE:
        values = np.asarray(image)
        if image.mode == "F":
            if not np.isfinite(values).all():
                raise UndecodableError(Status.UNREADABLE, "the pixels hold NaN or infinity", image.size)
            # Floating-point images carry no range: 0 to 1 and 0 to 255 are the two in use.
            values = values * 255.0 if values.max(initial=0.0) <= 1.0 else values
        elif image.mode != "I" or values.max(initial=0) > 255:
            values = values.astype(np.float64) / 257.0  # 65535 -> 255
        grey = np.clip(np.rint(values), 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        page = Image.new("RGBA", layer.size, "white")
        image = Image.alpha_composite(page, layer)
    if image.mode != "RGB":
        image = image.convert("RGB")
    return np.asarray(image)


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo EXIF orientation 2 to 8 (EXIF 2.32, tag 0x0112); other values mean upright."""
    if orientation in _SIDEWAYS:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def parts(rows: pa.Table, options: DecodeOptions) -> Iterator[pa.Table]:
    """FETCHED `rows` cut where their pixels would take more than 256 MiB, so that a task and its result stay small
    where a few kilobytes hold 64 megapixels."""
    start = held = 0
    for i, data in enumerate(rows["data"]):
        size = _pixel_bytes(data.as_buffer(), options) if data.is_valid else 0
        if i > start and held + size > _PART_BYTES:
            yield rows.slice(start, i - start)
            start, held = i, 0
        held += size
    yield rows.slice(start)


def _pixel_bytes(data: memoryview, options: DecodeOptions) -> int:
    """What `decode` would give, as the header says; 0 where it would give nothing, or has to be asked itself."""
    from PIL import Image

    if not len(data) or bytes(data[:4]) in _FILLED_ON_OPENING:
        return 0
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
            if image.format in ("JPEG", "MPO") and (target := options.scaled_to(*image.size)):
                image.draft(None, _draft_size(image.size, target))
    except (MemoryError, *_BROKEN):
        return 0
    width, height = image.size
    return 3 * width * height if width * height <= options.max_pixels else 0


def decode_rows(rows: pa.Table, options: DecodeOptions) -> pa.Table:
    """FETCHED `rows` with the bytes replaced by the DECODED columns; rows that have failed pass through."""
    statuses, errors = rows["status"].to_pylist(), rows["error"].to_pylist()
    columns: dict[str, list] = {field.name: [None] * len(rows) for field in DECODED}
    for i, data in enumerate(rows["data"]):
        if statuses[i] != Status.OK:
            continue
        size: tuple[int, int] | None
        try:
            pixels, size = decode(data.as_buffer(), options)
            columns["pixels"][i] = pixels.reshape(-1)
            columns["pixel_height"][i], columns["pixel_width"][i] = pixels.shape[:2]
        except UndecodableError as error:
            statuses[i], errors[i], size = str(error.status), str(error), error.size
        if size is not None and max(size) <= _LARGEST_SIDE:
            columns["width"][i], columns["height"][i] = size
    out = with_outcomes(rows.drop_columns(["data"]), statuses, errors)
    for field in DECODED:
        values = columns[field.name]
        array = _binary(values) if field.name == "pixels" else pa.array(values, field.type)
        out = out.append_column(field, array)
    return out


def _binary(arrays: list[np.ndarray | None]) -> pa.Array:
    """A large_binary array of uint8 arrays. (`pa.array` over memoryviews never lets their memory go, seen in
    pyarrow 26.)"""
    lengths = [0 if array is None else len(array) for array in arrays]
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
    present = [array for array in arrays if array is not None]
    values = np.concatenate(present) if present else np.empty(0, np.uint8)
    valid = np.packbits([array is not None for array in arrays], bitorder="little")
    return pa.Array.from_buffers(
        pa.large_binary(), len(arrays), [pa.py_buffer(valid), pa.py_buffer(offsets), pa.py_buffer(values)]
    )
