"""WebP: the first picture, whatever stands beside it."""

from __future__ import annotations

import numpy as np
import pytest
from masklake.model.decode import DecodeOptions, Fault, UndecodableError, decode
from PIL import Image

from tests.helpers.images import oriented, quadrants, save

SCENE = quadrants(80, 64)


def _pixels(data: bytes) -> np.ndarray:
    return decode(data, DecodeOptions())[0]


def _translucent() -> Image.Image:
    rgba = np.dstack([SCENE, np.full((64, 80), 255, np.uint8)])
    rgba[:20, :, 3] = 0
    return Image.fromarray(rgba)


BLACK = Image.new("RGB", (80, 64))
FILES = {
    "lossy": save(SCENE, "WEBP", quality=90),
    "lossless": save(SCENE, "WEBP", lossless=True),
    "alpha": save(_translucent(), "WEBP", quality=90),
    "alpha-lossless": save(_translucent(), "WEBP", lossless=True),
    "profile": save(SCENE, "WEBP", quality=90, icc_profile=b"p" * 99),
    "animated": save(SCENE, "WEBP", lossless=True, save_all=True, append_images=[BLACK]),
}


def _chunk(kind: bytes, body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return kind + size.to_bytes(4, "little") + body + bytes(len(body) % 2)


@pytest.mark.parametrize("name", FILES)
def test_broken_chunks_cost_their_own_meaning(name: str) -> None:
    data, whole = FILES[name], _pixels(FILES[name])
    picture = 12 + 18 if data[12:16] == b"VP8X" else 12
    for kind in (b"EXIF", b"XMP ", b"ICCP", b"JUNK"):
        for body in (b"", b"x", bytes(100), b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0"):
            before = data[:picture] + _chunk(kind, body) + data[picture:]
            assert np.array_equal(_pixels(before), whole), (kind, body)
            for length in (None, len(body) + 50, 2**32 - 1):
                assert np.array_equal(_pixels(data + _chunk(kind, body, length)), whole), (kind, body, length)


@pytest.mark.parametrize("name", FILES)
def test_a_length_of_the_whole_that_lies(name: str) -> None:
    data = FILES[name]
    for length in (b"\0\0\0\0", b"\xff\xff\xff\x7f"):
        assert np.array_equal(_pixels(data[:4] + length + data[8:]), _pixels(data))
    assert np.array_equal(_pixels(data + b"junk"), _pixels(data))


def test_a_picture_that_is_cut_off() -> None:
    for name in ("lossy", "lossless", "alpha"):
        for share in (0.3, 0.6, 0.95):
            with pytest.raises(UndecodableError, match="no whole picture") as caught:
                decode(FILES[name][: int(len(FILES[name]) * share)], DecodeOptions())
            assert caught.value.fault == Fault.UNREADABLE


def test_later_frames_may_be_broken() -> None:
    data = FILES["animated"]
    second = data.rindex(b"ANMF")
    assert np.array_equal(_pixels(data[: second + 30]), SCENE)


def test_a_first_frame_that_is_smaller_than_the_canvas() -> None:
    """What it does not cover is transparent, as in browsers."""
    from masklake.model.decode.webp import _chunks

    still = dict(_chunks(FILES["lossless"], 12))[b"VP8L"]
    frame = bytes([5, 0, 0, 3, 0, 0, 79, 0, 0, 63, 0, 0, 100, 0, 0, 0]) + _chunk(b"VP8L", still)
    body = _chunk(b"VP8X", bytes([2, 0, 0, 0, 99, 0, 0, 79, 0, 0])) + _chunk(b"ANIM", bytes(6))
    body += _chunk(b"ANMF", frame)
    pixels = _pixels(b"RIFF" + (len(body) + 4).to_bytes(4, "little") + b"WEBP" + body)
    expected = np.full((80, 100, 3), 255, np.uint8)
    expected[6:70, 10:90] = SCENE
    assert np.array_equal(pixels, expected)


def test_orientation_with_and_without_the_prefix_of_jpeg() -> None:
    exif = oriented(6).tobytes()
    for body in (exif, exif.removeprefix(b"Exif\0\0")):
        assert _pixels(FILES["lossless"] + _chunk(b"EXIF", body)).shape == (80, 64, 3)
