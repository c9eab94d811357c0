"""Every kind of image to RGB pixels, and every broken one to a status and a reason."""

from __future__ import annotations

import io
import random
import resource
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import pillow_heif
import pytest
import tifffile
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from masklake.model.decode import DecodeOptions, Fault, UndecodableError, decode, decoded_size
from masklake.model.tiles.tiling import Tiling
from PIL import Image

from tests.helpers.images import (
    as_stored,
    gif_bomb,
    oriented,
    png_bomb,
    png_chunk,
    quadrants,
    save,
    solid,
    tiff_bomb,
)

PLAIN = DecodeOptions()
SCENE = quadrants()
HEIGHT, WIDTH = SCENE.shape[:2]


def _pixels(data: bytes, options: DecodeOptions = PLAIN) -> np.ndarray:
    pixels, size = decode(data, options)
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert size == (pixels.shape[1], pixels.shape[0])
    return pixels


def _corners(pixels: np.ndarray) -> np.ndarray:
    """The middles of the four quarters, int (2, 2, 3): away from the edges that JPEG smears."""
    h, w = pixels.shape[:2]
    return pixels[np.ix_([h // 4, h * 3 // 4], [w // 4, w * 3 // 4])].astype(int)


def _close(pixels: np.ndarray, expected: np.ndarray, tolerance: int = 8) -> None:
    assert pixels.shape == expected.shape
    assert np.abs(_corners(pixels) - _corners(expected)).max() <= tolerance


def _status(data: bytes, options: DecodeOptions = PLAIN) -> tuple[Fault, str]:
    with pytest.raises(UndecodableError) as caught:
        decode(data, options)
    return caught.value.fault, str(caught.value)


@pytest.mark.parametrize(
    ("format_", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", {"compression": "packbits"}),
        ("PPM", {}),
        ("TGA", {}),
        ("TGA", {"compression": "tga_rle"}),
        ("JPEG2000", {}),
    ],
)
def test_lossless_formats_are_exact(format_: str, options: dict) -> None:
    assert np.array_equal(_pixels(save(SCENE, format_, **options)), SCENE)


@pytest.mark.parametrize(
    ("format_", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("JPEG", {"quality": 95, "subsampling": 0, "optimize": True}),
        ("TIFF", {"compression": "jpeg"}),
        ("WEBP", {"quality": 95}),
        ("AVIF", {"quality": 90}),
        ("GIF", {}),
    ],
)
def test_lossy_formats_are_close(format_: str, options: dict) -> None:
    _close(_pixels(save(SCENE, format_, **options)), SCENE, tolerance=12)


@pytest.mark.parametrize("format_", ["JPEG", "TIFF"])
def test_cmyk(format_: str) -> None:
    """Pillow's JPEG writer inverts CMYK and adds an Adobe marker, as Photoshop does; TIFF does neither."""
    image = Image.fromarray(SCENE).convert("CMYK")
    _close(_pixels(save(image, format_, **({"quality": 95} if format_ == "JPEG" else {}))), SCENE)


def test_ycck() -> None:
    """Adobe's transform 2: the stored planes are YCC of CMY, and inverted K."""
    cmyk = np.asarray(Image.fromarray(SCENE).convert("CMYK"))
    ycc = np.asarray(Image.fromarray(cmyk[..., :3].copy()).convert("YCbCr"))
    # Pillow's writer stores 255 minus what it is given.
    planes = np.dstack([255 - ycc, cmyk[..., 3:]])
    data = bytearray(save(Image.fromarray(planes, "CMYK"), "JPEG", quality=95))
    adobe = data.index(b"Adobe")
    assert data[adobe + 11] == 0  # the transform: none
    data[adobe + 11] = 2
    _close(_pixels(bytes(data)), SCENE, tolerance=12)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "TIFF", "WEBP", "BMP", "AVIF", "JPEG2000"])
def test_greyscale(format_: str) -> None:
    grey = Image.fromarray(SCENE).convert("L")
    expected = np.asarray(grey)[:, :, None].repeat(3, axis=2)
    _close(_pixels(save(grey, format_)), expected, tolerance=4)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_orientation(format_: str, orientation: int) -> None:
    stored = np.ascontiguousarray(as_stored(SCENE, orientation))
    data = save(stored, format_, exif=oriented(orientation))
    _close(_pixels(data), SCENE, tolerance=24)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_of_a_scaled_jpeg(orientation: int) -> None:
    scene = quadrants(960, 640)
    data = save(np.ascontiguousarray(as_stored(scene, orientation)), "JPEG", exif=oriented(orientation))
    pixels, size = decode(data, DecodeOptions(target=(64, 96)))
    assert size == (960, 640)
    assert pixels.shape == (80, 120, 3)
    assert np.abs(_corners(pixels) - _corners(scene)).max() <= 24


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
def test_an_impossible_orientation_means_upright(value: int) -> None:
    _close(_pixels(save(SCENE, "JPEG", quality=95, exif=oriented(value))), SCENE)


def test_broken_exif_costs_only_the_orientation() -> None:
    data = bytearray(save(SCENE, "JPEG", quality=95, exif=oriented(6)))
    tiff = data.index(b"Exif\0\0") + 6
    data[tiff + 4 : tiff + 8] = b"\xff\xff\xff\x7f"  # the offset of the first directory
    _close(_pixels(bytes(data)), SCENE)


def test_palette_png() -> None:
    image = Image.fromarray(SCENE).quantize(16)
    _close(_pixels(save(image, "PNG")), SCENE)


def test_palette_png_with_one_transparent_entry() -> None:
    image = Image.fromarray(SCENE).quantize(16)
    red = int(np.asarray(image)[0, 0])
    pixels = _pixels(save(image, "PNG", transparency=red))
    expected = SCENE.copy()
    expected[: HEIGHT // 2, : WIDTH // 2] = 255
    _close(pixels, expected)


def test_palette_png_with_translucent_entries() -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([255, 0, 0, 0, 0, 0])
    data = save(image, "PNG", transparency=bytes([128, 255]))
    assert np.abs(_pixels(data)[0, 0].astype(int) - [255, 127, 127]).max() <= 1


def test_rgb_png_with_a_transparent_colour() -> None:
    pixels = _pixels(save(SCENE, "PNG", transparency=(255, 0, 0)))
    expected = SCENE.copy()
    expected[: HEIGHT // 2, : WIDTH // 2] = 255
    assert np.array_equal(pixels, expected)


def test_grey_png_with_a_transparent_level() -> None:
    image = Image.new("L", (8, 8), 100)
    image.putpixel((0, 0), 7)
    pixels = _pixels(save(image, "PNG", transparency=7))
    assert pixels[0, 0].tolist() == [255] * 3
    assert pixels[1, 1].tolist() == [100] * 3


@pytest.mark.parametrize("format_", ["PNG", "WEBP", "TIFF", "AVIF", "ICO", "TGA", "JPEG2000"])
def test_transparent_pixels_lie_on_white(format_: str) -> None:
    rgba = np.zeros((32, 32, 4), np.uint8)
    rgba[..., 0] = 200
    rgba[:16, :, 3] = 255
    options = {"lossless": True} if format_ == "WEBP" else {}
    pixels = _pixels(save(rgba, format_, **options))
    assert np.abs(pixels[8, 16].astype(int) - [200, 0, 0]).max() <= 8
    assert np.abs(pixels[24, 16].astype(int) - 255).max() <= 8


def test_half_transparent_is_half_white() -> None:
    rgba = np.full((4, 4, 4), (0, 0, 0, 128), np.uint8)
    assert np.abs(_pixels(save(rgba, "PNG")).astype(int) - 127).max() <= 1


def test_grey_with_alpha_png() -> None:
    la = Image.new("LA", (8, 8), (90, 255))
    la.putpixel((0, 0), (90, 0))
    pixels = _pixels(save(la, "PNG"))
    assert pixels[0, 0].tolist() == [255] * 3
    assert pixels[4, 4].tolist() == [90] * 3


@pytest.mark.parametrize("format_", ["PNG", "TIFF", "BMP"])
def test_one_bit(format_: str) -> None:
    image = Image.new("1", (16, 8), 0)
    image.paste(1, (8, 0, 16, 8))
    pixels = _pixels(save(image, format_))
    assert pixels[4, 2].tolist() == [0] * 3
    assert pixels[4, 12].tolist() == [255] * 3


def test_fax_tiff() -> None:
    image = Image.new("1", (32, 16), 1)
    image.paste(0, (0, 0, 16, 16))
    pixels = _pixels(save(image, "TIFF", compression="group4"))
    assert pixels[8, 4].tolist() == [0] * 3
    assert pixels[8, 24].tolist() == [255] * 3


@pytest.mark.parametrize("format_", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_whole_range(format_: str) -> None:
    values = np.array([[0, 257, 128 * 257, 65535]], np.uint16).repeat(4, axis=0)
    pixels = _pixels(save(Image.fromarray(values), format_))
    assert pixels[0, :, 0].tolist() == [0, 1, 128, 255]
    assert (pixels == pixels[:, :, :1]).all()


def test_big_endian_16_bit_tiff() -> None:
    values = np.array([[0, 65535]], ">u2").repeat(2, axis=0)
    image = Image.frombytes("I;16B", (2, 2), values.tobytes())
    assert _pixels(save(image, "TIFF"))[0, :, 0].tolist() == [0, 255]


def test_dark_16_bit_grey_stays_dark() -> None:
    """A 16-bit scan in which nothing is brighter than 255 is nearly black, not an 8-bit picture."""
    values = np.full((4, 4), 200, np.uint16)
    assert _pixels(save(Image.fromarray(values), "PNG")).max() <= 1


def test_16_bit_rgb_png() -> None:
    raw = b"".join(b"\0" + np.array([[65535, 0, 128 * 257]] * 2, ">u2").tobytes() for _ in range(2))
    import zlib

    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(raw)) + png_chunk(b"IEND", b"")
    assert _pixels(data)[0, 0].tolist() == [255, 0, 128]


@pytest.mark.parametrize(
    ("top", "expected"), [(1.0, 255), (0.5, 128), (255.0, 255), (200.0, 200), (65535.0, 255)]
)
def test_float_tiff(top: float, expected: int) -> None:
    values = np.zeros((8, 8), np.float32)
    values[0, 0], values[1, 1] = top, -3.0
    pixels = _pixels(save(Image.fromarray(values), "TIFF"))
    assert pixels[0, 0].tolist() == [expected] * 3
    assert pixels[1, 1].tolist() == [0] * 3


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_float_tiff_with_values_that_are_none(poison: float) -> None:
    values = np.zeros((8, 8), np.float32)
    values[3, 3] = poison
    status, reason = _status(save(Image.fromarray(values), "TIFF"))
    assert status == Fault.UNREADABLE
    assert "NaN" in reason


def test_multi_page_tiff_gives_the_first_page() -> None:
    second = Image.new("RGB", (7, 5), "black")
    pixels = _pixels(save(SCENE, "TIFF", save_all=True, append_images=[second]))
    assert np.array_equal(pixels, SCENE)


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "PNG", "AVIF"])
def test_animations_give_the_first_frame(format_: str) -> None:
    options = {"lossless": True} if format_ == "WEBP" else {}
    second = Image.new("RGB", (WIDTH, HEIGHT), "black")
    data = save(SCENE, format_, save_all=True, append_images=[second], duration=100, **options)
    _close(_pixels(data), SCENE, tolerance=12)


def test_transparent_gif_lies_on_white() -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((0, 0), 1)
    pixels = _pixels(save(image, "GIF", transparency=0))
    assert pixels[4, 4].tolist() == [255] * 3
    assert pixels[0, 0].tolist() == [40, 50, 60]


def test_multi_picture_jpeg() -> None:
    """What many phones write: a JPEG with further JPEGs (a gain map, the other eye) behind it."""
    data = save(SCENE, "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))], quality=95)
    _close(_pixels(data), SCENE, tolerance=12)


def test_multi_picture_jpegs_are_scaled_too() -> None:
    scene = quadrants(960, 640)
    data = save(scene, "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    pixels, size = decode(data, DecodeOptions(target=(64, 96)))
    assert size == (960, 640)
    assert pixels.shape == (80, 120, 3)


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 700),
    height=st.integers(1, 700),
    least=st.integers(1, 400),
    most=st.integers(1, 600),
)
@example(width=640, height=480, least=240, most=320)
@example(width=1, height=700, least=8, most=8)
def test_a_scaled_jpeg_is_never_smaller_than_the_models_input(
    width: int, height: int, least: int, most: int
) -> None:
    least, most = min(least, most), max(least, most)
    data = save(Image.new("RGB", (width, height), (10, 200, 30)), "JPEG")
    pixels, size = decode(data, DecodeOptions(target=(least, most)))
    assert size == (width, height)
    # torchvision's GeneralizedRCNNTransform: shrink until the short side has `least`, the long one at most `most`
    scale = min(least / min(width, height), most / max(width, height), 1.0)
    h, w = pixels.shape[:2]
    # Pillow rounds the scaled frame up, and the transform rounds its own down.
    assert w >= int(width * scale)
    assert h >= int(height * scale)
    assert (w, h) in {(-(-width // s), -(-height // s)) for s in (1, 2, 4, 8)}
    assert np.abs(pixels[h // 2, w // 2].astype(int) - [10, 200, 30]).max() <= 6


def test_scaling_saves_work_where_it_can() -> None:
    data = save(Image.new("RGB", (6400, 4800)), "JPEG")
    assert decode(data, DecodeOptions(target=(800, 1333)))[0].shape == (1200, 1600, 3)
    assert decode(data, PLAIN)[0].shape == (4800, 6400, 3)


def test_what_will_be_cut_into_tiles_is_decoded_in_full() -> None:
    scaled = DecodeOptions(target=(64, 96), tiling=Tiling(size=512, above=640 * 480))
    large, small = (save(Image.new("RGB", size), "JPEG") for size in ((641, 480), (640, 480)))
    assert decode(large, scaled)[0].shape == (480, 641, 3)
    assert decode(small, scaled)[0].shape == (120, 160, 3)


def test_scaled_pixels_show_the_same_scene() -> None:
    x = np.linspace(0, 255, 1024).astype(np.uint8)
    scene = np.dstack([np.tile(x, (512, 1)), np.tile(x[::2, None], (1, 1024)), np.full((512, 1024), 90)])
    data = save(scene.astype(np.uint8), "JPEG", quality=95)
    pixels, _ = decode(data, DecodeOptions(target=(128, 256)))
    expected = scene.reshape(128, 4, 256, 4, 3).mean(axis=(1, 3))
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected).mean() < 1.5


# ---- what cannot be decoded ----


def _tiff(pixels: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, photometric="rgb", metadata=None, **options)
    return file.getvalue()


def _heic(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(file, format="HEIF")
    return file.getvalue()


def _whole_files() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (64, 64, 3), np.uint8)

    def frames() -> dict:
        return {"save_all": True, "append_images": [Image.fromarray(noise[::-1].copy())]}

    exif = oriented(6)
    return {
        "jpeg": save(noise, "JPEG", exif=exif),
        "jpeg-progressive": save(noise, "JPEG", progressive=True),
        "jpeg-cmyk": save(Image.fromarray(noise).convert("CMYK"), "JPEG"),
        "mpo": save(noise, "MPO", **frames()),
        "png": save(noise, "PNG", exif=exif),
        "png-palette": save(Image.fromarray(noise).quantize(64), "PNG", transparency=3),
        "png-16": save(Image.fromarray(rng.integers(0, 65535, (64, 64), np.uint16)), "PNG"),
        "png-animated": save(noise, "PNG", **frames()),
        "webp": save(noise, "WEBP", exif=exif),
        "webp-lossless": save(noise, "WEBP", lossless=True),
        "webp-animated": save(noise, "WEBP", **frames()),
        "avif": save(noise, "AVIF", exif=exif),
        "tiff": save(noise, "TIFF", exif=exif),
        "tiff-lzw": save(noise, "TIFF", compression="tiff_lzw"),
        "tiff-jpeg": save(noise, "TIFF", compression="jpeg"),
        "tiff-float": save(Image.fromarray(noise[..., 0].astype(np.float32)), "TIFF"),
        "tiff-fax": save(Image.fromarray(noise).convert("1"), "TIFF", compression="group4"),
        "tiff-pages": save(noise, "TIFF", **frames()),
        "gif": save(noise, "GIF"),
        "gif-animated": save(noise, "GIF", disposal=2, **frames()),
        "bmp": save(noise, "BMP"),
        "bmp-palette": save(Image.fromarray(noise).quantize(64), "BMP"),
        "ppm": save(noise, "PPM"),
        "jp2": save(noise, "JPEG2000"),
        "ico": save(noise, "ICO"),
        "tga": save(noise, "TGA", compression="tga_rle"),
        "jpeg-restarts": save(noise, "JPEG", restart_marker_blocks=4),
        "jpeg-2000-deep": imagecodecs.jpeg2k_encode(noise.astype(np.uint16) * 16, bitspersample=12, level=0),
        "tiff-tiles": _tiff(noise, tile=(16, 16), compression="zlib"),
        "tiff-planes": _tiff(np.moveaxis(noise, -1, 0), planarconfig="separate", bigtiff=True),
        "jxl": imagecodecs.jpegxl_encode(noise),
        "heic": _heic(noise),
        "bmp-masks": save(Image.fromarray(noise).convert("RGBA"), "BMP"),
    }


WHOLE = _whole_files()


@pytest.mark.parametrize("name", WHOLE)
def test_whole_files_decode(name: str) -> None:
    assert _pixels(WHOLE[name]).shape == (64, 64, 3)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", [name for name in WHOLE if "animated" not in name and "pages" not in name])
def test_truncated_files_are_unreadable(name: str, share: float) -> None:
    """Never a picture whose lower part is grey: its instances would be wrong and nobody would know."""
    data = WHOLE[name][: int(len(WHOLE[name]) * share)]
    if name == "mpo" and share > 0.5:
        assert _pixels(data).shape == (64, 64, 3)  # the first picture is whole
        return
    status, reason = _status(data)
    assert status == Fault.UNREADABLE, reason


@pytest.mark.parametrize("data", [b"", b"\0" * 1000, b"x", b"hello world, this is text\n" * 40, b"\xff"])
def test_what_is_no_image(data: bytes) -> None:
    status, reason = _status(data)
    assert status == (Fault.UNSUPPORTED if data else Fault.UNREADABLE)
    assert ("starts with" in reason) == bool(data)


@pytest.mark.parametrize(
    "data",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg' width='10' height='10'/>",
        b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
        b"PK\x03\x04" + bytes(64),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n",
        b"\xd7\xcd\xc6\x9a" + bytes(64),  # WMF
        b"GRIB\0\0\0\x01" + bytes(64),
        b"\x89HDF\r\n\x1a\n" + bytes(64),
    ],
    ids=["svg", "pdf", "zip", "eps", "wmf", "grib", "hdf5"],
)
def test_other_formats_are_unsupported(data: bytes) -> None:
    """EPS above all: Pillow would hand it to Ghostscript."""
    assert _status(data)[0] == Fault.UNSUPPORTED


MAGIC = {
    "jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF\0",
    "png": b"\x89PNG\r\n\x1a\n",
    "gif87": b"GIF87a",
    "gif89": b"GIF89a",
    "webp": b"RIFF\x00\x10\0\0WEBPVP8 ",
    "avif": b"\0\0\0\x20ftypavif\0\0\0\0avifmif1",
    "tiff": b"II*\0\x08\0\0\0",
    "tiff-big-endian": b"MM\0*\0\0\0\x08",
    "bmp": b"BM",
    "jp2": b"\0\0\0\x0cjP  \r\n\x87\n",
}


@pytest.mark.parametrize("name", MAGIC)
@pytest.mark.parametrize("seed", range(3))
def test_a_magic_and_then_noise(name: str, seed: int) -> None:
    noise = np.random.default_rng(seed).bytes(500)
    assert _status(MAGIC[name] + noise)[0] in (Fault.UNREADABLE, Fault.TOO_LARGE)


@pytest.mark.parametrize("name", MAGIC)
def test_only_a_magic_is_a_broken_image(name: str) -> None:
    assert _status(MAGIC[name])[0] == Fault.UNREADABLE


@pytest.mark.parametrize("name", ["png", "bmp", "jpeg", "gif"])
def test_a_header_without_content(name: str) -> None:
    whole = WHOLE[name]
    length = {"png": 8 + 25, "bmp": 54, "gif": 13, "jpeg": whole.find(b"\xff\xda")}[name]
    assert _status(whole[:length])[0] == Fault.UNREADABLE


def _ico(png: bytes) -> bytes:
    return struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(png), 22) + png


BOMBS = {
    "png": lambda: png_bomb(30_000, 30_000),
    "gif": lambda: gif_bomb(40_000, 40_000),
    "ico": lambda: _ico(png_bomb(30_000, 30_000)),
    "tiff": lambda: tiff_bomb(40_000),
    "webp": lambda: (
        b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + (16_382).to_bytes(3, "little") * 2 + b"VP8 \0\0\0\0"
    ),
    "bmp": lambda: b"BM" + struct.pack("<IHHIIiiHHIIiiII", 60, 0, 0, 54, 40, 30_000, 30_000, 1, 24, *[0] * 6),
    "ppm": lambda: b"P6 30000 30000 255\n" + bytes(100),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_before_they_take_memory(name: str) -> None:
    code = (
        "import resource, sys\n"
        "from PIL import Image\n"
        "from masklake.model.decode import *\n"
        "Image.init()\n"
        "data = sys.stdin.buffer.read()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: decode(data, DecodeOptions())\n"
        "except UndecodableError as error: print(error.fault, error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], input=BOMBS[name](), capture_output=True, check=False)
    said, grown = done.stdout.decode().splitlines()
    assert said.startswith("too_large") or (name == "webp" and said.startswith("unreadable")), said
    assert "--max-pixels" in said or name == "webp"
    assert int(grown) < 100


def test_a_refused_frame_keeps_its_size() -> None:
    with pytest.raises(UndecodableError) as caught:
        decode(png_bomb(30_000, 20_000), PLAIN)
    assert caught.value.size == (30_000, 20_000)
    assert "600,000,000" in str(caught.value)


def test_the_pixel_limit_is_exact() -> None:
    data = solid((1, 2, 3), (100, 50))
    assert decode(data, DecodeOptions(max_pixels=5000))[1] == (100, 50)
    assert _status(data, DecodeOptions(max_pixels=4999))[0] == Fault.TOO_LARGE


def test_the_limit_is_our_own_not_pillows() -> None:
    """Pillow would warn above 89 million pixels and raise above 179 million."""
    file = io.BytesIO()
    Image.new("1", (15_000, 13_000)).save(file, "PNG")
    with pytest.raises(UndecodableError) as caught:
        decode(file.getvalue(), PLAIN)
    assert caught.value.fault == Fault.TOO_LARGE
    assert caught.value.size == (15_000, 13_000)


# ---- any bytes ----

SMALL = DecodeOptions(max_pixels=4_000_000)
SMALL_SCALED = DecodeOptions(max_pixels=4_000_000, target=(16, 16))


def _survives(data: bytes) -> None:
    """Pixels or a reason come out; no other exception does."""
    for options in (SMALL, SMALL_SCALED):
        size = decoded_size(data, options)
        try:
            pixels, (width, height) = decode(data, options)
        except UndecodableError as error:
            assert str(error)
            continue
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3
        assert pixels.dtype == np.uint8
        assert width >= pixels.shape[1] > 0
        assert height >= pixels.shape[0] > 0
        assert size in ((pixels.shape[1], pixels.shape[0]), (pixels.shape[0], pixels.shape[1]))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(magic=st.sampled_from([b"", *MAGIC.values()]), tail=st.binary(max_size=300))
def test_any_bytes_give_pixels_or_a_reason(magic: bytes, tail: bytes) -> None:
    _survives(magic + tail)


_MUTATIONS: list[Callable[[bytearray, int, random.Random], None]] = [
    lambda b, i, r: b.__setitem__(i, r.choice([0, 1, 2, 7, 0x7F, 0x80, 0xFE, 0xFF])),
    lambda b, i, r: b.__setitem__(i, r.randrange(256)),
    lambda b, i, r: b.__setitem__(slice(i, i + 4), r.choice([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"])),
    lambda b, i, r: b.__setitem__(slice(i, i + 4), struct.pack(r.choice("<>") + "I", r.randrange(70_000))),
    lambda b, i, r: b.__delitem__(slice(i, i + r.randrange(1, 40))),
    lambda b, i, r: b.__setitem__(slice(i, i), r.randbytes(r.randrange(1, 20))),
    lambda b, i, r: b.__delitem__(slice(i, None)),
]


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(name=st.sampled_from(sorted(WHOLE)), seed=st.integers(0, 2**32), changes=st.integers(1, 8))
def test_any_damage_gives_pixels_or_a_reason(name: str, seed: int, changes: int) -> None:
    rnd = random.Random(seed)  # noqa: S311  # damage, not secrets
    data = bytearray(WHOLE[name])
    for _ in range(changes):
        if data:
            where = rnd.randrange(min(len(data), rnd.choice([64, 300, 10**6])))  # mostly headers
            rnd.choice(_MUTATIONS)(data, where, rnd)
    _survives(bytes(data))


@pytest.mark.slow
def test_a_lot_of_damage() -> None:
    rnd, names = random.Random(20_260), sorted(WHOLE)  # noqa: S311  # as above
    for _ in range(40_000):
        data = bytearray(WHOLE[rnd.choice(names)])
        for _ in range(rnd.choice([1, 1, 2, 3, 8])):
            if data:
                where = rnd.randrange(min(len(data), rnd.choice([64, 300, 10**6])))
                rnd.choice(_MUTATIONS)(data, where, rnd)
        _survives(bytes(data))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 3 * 2**20  # KiB: nothing piles up


def test_decoding_knows_no_torch() -> None:
    """A worker that decodes would pay 4 s and 800 MB for it; nor are the codecs loaded before they are needed."""
    code = (
        "import sys\n"
        "import masklake.model.decode\n"
        "print({'torch', 'ray', 'pyarrow', 'PIL', 'tifffile', 'imagecodecs', 'simplejpeg'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout == "set()\n"


def test_no_format_is_tried_that_its_first_bytes_do_not_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would ask each of its plugins, and EPS would start Ghostscript."""
    monkeypatch.setattr(Image, "open", lambda *_a, **_k: pytest.fail("Pillow was asked to guess"))
    for data in (
        *WHOLE.values(),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"\xc5\xd0\xd3\xc6" + bytes(40),
    ):
        try:
            decode(data, PLAIN)
        except UndecodableError as error:
            assert error.fault == Fault.UNSUPPORTED
            assert "PostScript" in str(error) or "EPS" in str(error)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\xff\xd8\xff\xf7", "JPEG-LS"),
        (b"8BPS\0\1", "PSD"),
        (b"%PDF-1.7", "PDF"),
        (b"\x76\x2f\x31\x01", "OpenEXR"),
        (b"II\xbc\1", "JPEG XR"),
        (b"DDS |", "DDS"),
        (b"FUJIFILMCCD-RAW", "Fujifilm raw"),
    ],
)
def test_pictures_that_are_not_decoded_are_named(head: bytes, name: str) -> None:
    fault, reason = _status(head + bytes(100))
    assert fault == Fault.UNSUPPORTED
    assert reason.startswith(("a " if "raw" in name else "") + name)
    assert "convert" in reason
