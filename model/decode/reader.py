"""Which format a file is, by its first bytes and nothing else, and the way from its bytes to upright pixels."""

from __future__ import annotations

from masklake.model.decode.bmff import AVIF_BRANDS, HEIC_BRANDS, brands, open_avif, open_heic
from masklake.model.decode.exif import SIDEWAYS
from masklake.model.decode.frame import (
    BROKEN,
    DecodeOptions,
    Fault,
    Frame,
    Pixels,
    UndecodableError,
    check_pixels,
    unreadable,
    unsupported,
)
from masklake.model.decode.rgb import upright

_KNOWN = (
    (b"\xff\xd8\xff\xf7", "JPEG-LS"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),
    (b"%PDF", "PDF"),
    (b"8BPS", "PSD"),
    (b"II\xbc", "JPEG XR"),
    (b"DDS ", "DDS"),
    (b"qoif", "QOI"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"FUJIFILM", "a Fujifilm raw file"),
    (b"IIU\0", "a Panasonic raw file"),
    (b"IIRO", "an Olympus raw file"),
)
"""Formats that people have and that are not decoded here: the error names them, so that it is clear what to convert."""


def decode(data: bytes | memoryview, options: DecodeOptions) -> tuple[Pixels, tuple[int, int]]:
    """RGB pixels, uint8 (H, W, 3), upright, and the original frame's (width, height).

    Greyscale, palette, CMYK, YCCK, LAB, 16-bit and floating-point images become 8-bit RGB; transparent pixels
    are laid over white; of an animation the first frame is taken. Raises UndecodableError.
    """
    frame = _opened(bytes(data), options.max_pixels)
    size = (frame.width, frame.height)
    try:
        target = options.scaled_to(*size)
        stored = frame.pixels(target)
        if stored.shape[1::-1] != frame.scaled(target):
            raise unreadable(
                f"broken {frame.format} content: it gives {stored.shape[1]}x{stored.shape[0]} pixels"
            )
        pixels = upright(stored, frame.orientation)
    except UndecodableError as error:
        error.size = error.size or size
        raise
    except MemoryError as error:
        reason = f"not enough memory to decode {size[0]}x{size[1]}"
        raise UndecodableError(Fault.FAILED, reason, size) from error
    except BROKEN as error:
        reason = f"broken {frame.format} content: {_error_text(error)}"
        raise UndecodableError(Fault.UNREADABLE, reason, size) from error
    return pixels, size[::-1] if frame.orientation in SIDEWAYS else size


def decoded_size(data: bytes | memoryview, options: DecodeOptions) -> tuple[int, int] | None:
    """Width and height of what `decode` would give, before it is turned, from the header alone; None for nothing."""
    try:
        frame = _opened(bytes(data), options.max_pixels)
    except UndecodableError:
        return None
    return frame.scaled(options.scaled_to(frame.width, frame.height))


def _opened(data: bytes, max_pixels: int) -> Frame:
    if not data:
        raise UndecodableError(Fault.UNREADABLE, "the object has no bytes")
    try:
        frame = open_frame(data, max_pixels)
    except MemoryError as error:
        raise UndecodableError(Fault.FAILED, "not enough memory to open it") from error
    except BROKEN as error:
        raise UndecodableError(
            Fault.UNREADABLE, f"broken {_name(data) or 'TGA'} header: {_error_text(error)}"
        ) from error
    check_pixels(frame.width, frame.height, max_pixels)
    return frame


def _error_text(error: Exception) -> str:
    """The text of a decoder's error; with its type where the text alone, such as a missing key, says nothing."""
    text = str(error).strip()
    return text if text and not isinstance(error, LookupError) else f"{type(error).__name__} {text}".strip()


def open_frame(data: bytes, max_pixels: int) -> Frame:
    """The frame, by its header. Raises UndecodableError, or one of BROKEN for a header that is broken."""
    from masklake.model.decode import bitmap, gif, jpeg, jpeg2000, jxl, plain, png, tiff, webp

    for signature, name in _KNOWN:
        if data.startswith(signature):
            raise unsupported(f"{name} is not decoded here; convert it to JPEG, PNG or TIFF")
    match _name(data):
        case "JPEG":
            return jpeg.open_jpeg(data)
        case "PNG":
            return png.open_png(data)
        case "WebP":
            return webp.open_webp(data)
        case "AVIF":
            return open_avif(data)
        case "HEIC":
            return open_heic(data)
        case "JPEG XL":
            return jxl.open_jxl(data)
        case "TIFF":
            return tiff.open_tiff(data, max_pixels)
        case "GIF":
            return gif.open_gif(data)
        case "BMP":
            return bitmap.open_bmp(data)
        case "ICO":
            return bitmap.open_ico(data)
        case "PPM":
            return plain.open_pnm(data)
        case "JPEG 2000":
            return jpeg2000.open_jpeg2000(data)
        case _ if plain.is_tga(data):
            return plain.open_tga(data)
        case _ if data.startswith(b"\0\0\2\0") and data[4:6] != b"\0\0":
            raise unsupported("a cursor (CUR) is not decoded here; convert it to PNG")
    raise unsupported(f"not an image format that is decoded here (starts with {data[:12]!r})")


_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"BM", "BMP"),
    (b"\0\0\1\0", "ICO"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
)


def _name(data: bytes) -> str:
    for signature, name in _SIGNATURES:
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[:1] == b"P" and data[1:2] in (b"1", b"2", b"3", b"4", b"5", b"6", b"f") and data[2:3].isspace():
        return "PPM"
    file_brands = brands(data)
    if file_brands & AVIF_BRANDS:
        return "AVIF"
    return "HEIC" if file_brands & HEIC_BRANDS else ""
