"""PPM's family, TGA and JPEG 2000."""

from __future__ import annotations

import struct

import imagecodecs
import numpy as np
import pytest
from masklake.model.decode import DecodeOptions, Fault, UndecodableError, decode

from tests.helpers.images import quadrants, save

WIDTH, HEIGHT = 11, 7
RNG = np.random.default_rng(9)
RGBA = RNG.integers(0, 256, (HEIGHT, WIDTH, 4), np.uint8)
RGB = RGBA[..., :3]


def _pixels(data: bytes) -> np.ndarray:
    return decode(data, DecodeOptions())[0]


def _refused(data: bytes) -> tuple[Fault, str]:
    with pytest.raises(UndecodableError) as caught:
        decode(data, DecodeOptions())
    return caught.value.fault, str(caught.value)


@pytest.mark.parametrize("top", [1, 15, 100, 255, 256, 1023, 4095, 65535])
def test_ppm(top: int) -> None:
    for count, plain, binary in ((1, b"P2", b"P5"), (3, b"P3", b"P6")):
        values = RNG.integers(0, top + 1, (HEIGHT, WIDTH, count))
        expected = (values / top * 255).repeat(3 // count, axis=2)
        size = b" %d %d\n# a comment\n%d\n" % (WIDTH, HEIGHT, top)
        raw = values.astype(np.uint8 if top < 256 else ">u2").tobytes()
        text = " ".join(map(str, values.reshape(-1))).encode()
        assert np.abs(_pixels(binary + size + raw) - expected).max() < 1.1
        assert np.abs(_pixels(plain + size + text) - expected).max() < 1.1
        assert _refused(binary + size + raw[:-5])[0] == Fault.UNREADABLE


def test_dark_16_bit_ppm_stays_dark() -> None:
    values = np.full((HEIGHT, WIDTH), 200, ">u2")
    assert _pixels(b"P5 11 7 65535\n" + values.tobytes()).max() == 1


def test_pbm_and_pfm() -> None:
    bits = RNG.integers(0, 2, (HEIGHT, WIDTH), np.uint8)
    assert np.array_equal(
        _pixels(b"P4 11 7\n" + np.packbits(bits, axis=1).tobytes())[..., 0], 255 * (1 - bits)
    )
    values = RNG.random((HEIGHT, WIDTH)).astype("<f4")
    for scale, order in ((b"-1.0", "<f4"), (b"1.0", ">f4")):
        data = b"Pf\n11 7\n" + scale + b"\n" + values[::-1].astype(order).tobytes()
        assert np.abs(_pixels(data)[..., 0] - 255 * values).max() < 1


def _tga(
    kind: int, bits: int, descriptor: int, body: bytes, *, name: bytes = b"", palette: bytes = b""
) -> bytes:
    head = struct.pack(
        "<BBBHHBHHHHBB",
        len(name),
        bool(palette),
        kind,
        0,
        len(palette) // 3,
        24 if palette else 0,
        0,
        0,
        WIDTH,
        HEIGHT,
        bits,
        descriptor,
    )
    return head + name + palette + body


def _bgra(pixels: np.ndarray) -> bytes:
    return np.ascontiguousarray(pixels[..., [2, 1, 0, *range(3, pixels.shape[2])]]).tobytes()


def test_tga_in_its_four_directions() -> None:
    for descriptor, stored in (
        (0x20, RGB),
        (0x00, RGB[::-1]),
        (0x30, RGB[:, ::-1]),
        (0x10, RGB[::-1, ::-1]),
    ):
        for name in (b"", b"a name"):
            assert np.array_equal(_pixels(_tga(2, 24, descriptor, _bgra(stored), name=name)), RGB)


def test_alpha_of_tga() -> None:
    on_white = RGB * (RGBA[..., 3:] / 255) + 255 - RGBA[..., 3:]
    nowhere = np.dstack([RGB, np.zeros((HEIGHT, WIDTH), np.uint8)])
    assert np.abs(_pixels(_tga(2, 32, 0x28, _bgra(RGBA))) - on_white).max() < 1.1
    assert np.array_equal(_pixels(_tga(2, 32, 0x20, _bgra(RGBA))), RGB), "the descriptor says that it is none"
    assert np.array_equal(_pixels(_tga(2, 32, 0x28, _bgra(nowhere))), RGB), "0 everywhere is none"


def test_other_depths_of_tga() -> None:
    values = RNG.integers(0, 2**16, (HEIGHT, WIDTH))
    expected = np.dstack([(values >> shift & 31) / 31 * 255 for shift in (10, 5, 0)])
    for descriptor in (0x20, 0x21):
        assert np.abs(_pixels(_tga(2, 16, descriptor, values.astype("<u2").tobytes())) - expected).max() < 4
    grey = RGB[..., 0]
    assert np.array_equal(_pixels(_tga(3, 8, 0x20, grey.tobytes()))[..., 2], grey)
    palette = RNG.integers(0, 256, (16, 3), np.uint8)
    body = np.ascontiguousarray(grey % 16).tobytes()
    pixels = _pixels(_tga(1, 8, 0x20, body, palette=np.ascontiguousarray(palette[:, ::-1]).tobytes()))
    assert np.array_equal(pixels, palette[grey % 16])


@pytest.mark.parametrize("bits", [1, 4, 8, 10, 12, 16])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("codec", ["j2k", "jp2"])
def test_jpeg_2000(bits: int, count: int, codec: str) -> None:
    values = RNG.integers(0, 2**bits, (32, 48, count)).astype(np.uint8 if bits <= 8 else np.uint16)
    data = imagecodecs.jpeg2k_encode(
        values.squeeze(), bitspersample=bits, level=0, codecformat=codec, reversible=True
    )
    shares = values / (2**bits - 1)
    seen = shares[..., :3] if count > 2 else shares[..., :1].repeat(3, axis=2)
    alpha = shares[..., -1:] if count in (2, 4) else 1.0
    assert np.abs(_pixels(data) - 255 * (seen * alpha + 1 - alpha)).max() < 1.6
    for share in (0.3, 0.9):
        assert _refused(data[: int(len(data) * share)])[0] == Fault.UNREADABLE


def test_jpeg_2000_by_pillow_is_the_same() -> None:
    scene = quadrants(80, 64)
    assert np.array_equal(_pixels(save(scene, "JPEG2000")), scene)
