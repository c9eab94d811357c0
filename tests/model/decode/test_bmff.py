"""AVIF, HEIC and JPEG XL."""

from __future__ import annotations

import io
import sys

import imagecodecs
import numpy as np
import pillow_heif
import pytest
from masklake.model.decode import DecodeOptions, Fault, UndecodableError, decode
from PIL import Image

from tests.helpers.images import as_stored, oriented, quadrants, save

SCENE = quadrants(96, 64)


def _pixels(data: bytes) -> np.ndarray:
    return decode(data, DecodeOptions())[0]


def _refused(data: bytes) -> tuple[Fault, str]:
    with pytest.raises(UndecodableError) as caught:
        decode(data, DecodeOptions())
    return caught.value.fault, str(caught.value)


def _close(pixels: np.ndarray, expected: np.ndarray = SCENE) -> None:
    assert pixels.shape == expected.shape
    assert np.abs(pixels[8::16, 8::16].astype(int) - expected[8::16, 8::16]).max() <= 12


def _heic(image: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(image)).save(file, format="HEIF", quality=95, **options)
    return file.getvalue()


def test_avif_with_broken_exif_and_xmp() -> None:
    """Pillow refuses the whole picture; orientation is a box of its own."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker" * 20
    data = save(np.rot90(SCENE), "AVIF", quality=95, exif=exif.tobytes(), xmp=b"<x>" * 50)
    _close(_pixels(data))
    start = data.index(b"II*\0") if b"II*\0" in data else data.index(b"MM\0*")
    broken = data[: start - 8] + b"\xff" * 40 + data[start + 32 :]
    with pytest.raises(ValueError, match="Exif"):
        Image.open(io.BytesIO(broken)).load()
    assert np.array_equal(_pixels(broken), _pixels(data))


@pytest.mark.parametrize("depth", [10, 12])
def test_avif_of_more_bits(depth: int) -> None:
    values = SCENE.astype(np.uint16) << (depth - 8)
    _close(_pixels(imagecodecs.avif_encode(values, bitspersample=depth, level=95)))


def test_heic_is_read_where_its_extra_is() -> None:
    data = _heic(SCENE)
    _close(_pixels(data))
    _close(_pixels(_heic(SCENE, exif=oriented(6).tobytes())), _pixels(_heic(np.rot90(SCENE, -1).copy())))
    assert decode(_heic(SCENE, exif=oriented(6).tobytes()), DecodeOptions())[1] == (64, 96)
    for share in (0.1, 0.5, 0.95):
        assert _refused(data[: int(len(data) * share)])[0] == Fault.UNREADABLE


def test_heic_is_named_where_its_extra_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    fault, reason = _refused(_heic(SCENE))
    assert fault == Fault.UNSUPPORTED
    assert "pip install 'masklake[heic]'" in reason


def test_brands_decide() -> None:
    for brand in (b"heic", b"mif1", b"msf1"):
        data = b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic" + bytes(64)
        fault, reason = _refused(data)
        assert fault == Fault.UNREADABLE
        assert "HEIC" in reason
    for brand in (b"isom", b"mp42", b"crx ", b"qt  "):
        assert (
            _refused(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0" + brand * 2 + bytes(64))[0] == Fault.UNSUPPORTED
        )


@pytest.mark.parametrize(
    "size",
    [(1, 1), (8, 8), (256, 256), (300, 200), (640, 480), (1920, 1080), (513, 1000), (3000, 10), (2000, 1000)],
)
def test_the_size_of_a_jpeg_xl(size: tuple[int, int]) -> None:
    """Known from its header, before libjxl takes memory: as one or several numbers, and as a ratio."""
    data = imagecodecs.jpegxl_encode(np.zeros((size[1], size[0], 3), np.uint8), effort=1)
    assert decode(data, DecodeOptions())[1] == size
    with pytest.raises(UndecodableError) as caught:
        decode(data, DecodeOptions(max_pixels=size[0] * size[1] - 1))
    assert caught.value.fault == Fault.TOO_LARGE


def test_jpeg_xl() -> None:
    rgba = np.dstack([SCENE, np.full((64, 96), 255, np.uint8)])
    rgba[:20, :, 3] = 0
    grey = np.ascontiguousarray(SCENE[..., 1])
    for values, expected in (
        (SCENE, SCENE),
        (grey, grey[..., None].repeat(3, axis=2)),
        (SCENE.astype(np.uint16) * 257, SCENE),
        ((SCENE / 255).astype(np.float32), SCENE),
        (rgba, np.where(rgba[..., 3:] == 0, 255, SCENE)),
    ):
        data = imagecodecs.jpegxl_encode(values, lossless=True)
        assert np.abs(_pixels(data).astype(int) - expected).max() <= 1
        for share in (0.2, 0.6, 0.95):
            assert _refused(data[: int(len(data) * share)])[0] == Fault.UNREADABLE
    jpeg = save(SCENE, "JPEG", quality=95, subsampling=0)
    _close(_pixels(imagecodecs.jpegxl_encode_jpeg(jpeg)))
    for orientation in range(1, 9):
        stored = np.ascontiguousarray(as_stored(SCENE, orientation))
        jpeg = save(stored, "JPEG", quality=95, subsampling=0, exif=oriented(orientation))
        data = imagecodecs.jpegxl_encode_jpeg(jpeg)
        pixels, size = decode(data, DecodeOptions())
        assert size == (96, 64)
        _close(pixels)
