"""GIF: the first frame, where it lies on its screen."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from masklake.model.decode import DecodeOptions, Fault, UndecodableError, decode
from PIL import Image

from tests.helpers.images import save

RNG = np.random.default_rng(2)
PALETTE = RNG.integers(0, 256, (4, 3), np.uint8)
VALUES = RNG.integers(0, 4, (5, 6), np.uint8)


def _pixels(data: bytes) -> np.ndarray:
    return decode(data, DecodeOptions())[0]


def _gif(
    screen: tuple[int, int] = (6, 5),
    corner: tuple[int, int] = (0, 0),
    *,
    transparent: int | None = None,
    extension: bytes = b"",
    background: int = 0,
) -> bytes:
    image = Image.fromarray(VALUES, "P")
    image.putpalette(PALETTE.tobytes())
    whole = save(image, "GIF", optimize=False, interlace=0)
    table = 3 * 2 ** ((whole[10] & 7) + 1)
    frame = whole[whole.index(b",", 13 + table) :]
    control = b"\x21\xf9\x04" + bytes([transparent is not None, 0, 0, transparent or 0, 0])
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, whole[10], background, 0) + whole[13 : 13 + table]
    return head + extension + control + b"," + struct.pack("<HHHH", *corner, 6, 5) + frame[9:]


def test_a_frame_that_is_smaller_than_its_screen() -> None:
    """The rest is transparent, as in browsers: neither the background's colour nor the first of the palette."""
    for background in (0, 3):
        expected = np.full((9, 10, 3), 255, np.uint8)
        expected[3:8, 2:8] = PALETTE[VALUES]
        assert np.array_equal(_pixels(_gif((10, 9), (2, 3), background=background)), expected)
        expected[3:8, 2:8][VALUES == 1] = 255
        assert np.array_equal(_pixels(_gif((10, 9), (2, 3), transparent=1)), expected)


def test_a_frame_that_is_larger_than_its_screen() -> None:
    for screen in ((0, 0), (3, 2)):
        assert np.array_equal(_pixels(_gif(screen)), PALETTE[VALUES])


@pytest.mark.parametrize(
    "extension",
    [
        b"\x21\xfe\x03abc\0",
        b"\x21\xfe\0",
        b"\x21\xff\x0bNETSCAPE2.0\x03\1\0\0\0",
        b"\x21\xff\x0bXMP DataXMP" + b"\x03<x>" * 100 + b"\0",
        b"\x21\xff\x05short\0",
        b"\x21\x01\x0c" + bytes(12) + b"\0",
        b"\x21\xf9\x01\0\0",
    ],
)
def test_extensions_cost_nothing(extension: bytes) -> None:
    assert np.array_equal(_pixels(_gif(extension=extension)), PALETTE[VALUES])


def test_ends_and_later_frames() -> None:
    image = Image.fromarray(VALUES.repeat(8, 0).repeat(8, 1), "P")
    image.putpalette(PALETTE.tobytes())
    whole = save(image, "GIF")
    expected = np.asarray(image.convert("RGB"))
    second = Image.fromarray(RNG.integers(0, 4, (40, 48), np.uint8), "P")
    animated = save(image, "GIF", save_all=True, append_images=[second])
    for data in (whole, whole[:-1], whole[:-2], whole + b"junk", save(image, "GIF", interlace=1), animated):
        assert np.array_equal(_pixels(data), expected)
    assert np.array_equal(_pixels(animated[:-40]), expected)
    with pytest.raises(UndecodableError) as caught:
        decode(whole[: len(whole) * 2 // 3], DecodeOptions())
    assert caught.value.fault == Fault.UNREADABLE
