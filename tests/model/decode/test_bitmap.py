"""BMP and ICO of every header, depth, mask and direction."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from masklake.model.decode import DecodeOptions, Fault, UndecodableError, decode

from tests.helpers.images import packed_bits, png_chunk, quadrants, save

WIDTH, HEIGHT = 11, 7
BGRA = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
RNG = np.random.default_rng(5)
RGBA = RNG.integers(0, 256, (HEIGHT, WIDTH, 4), np.uint8)
RGB = RGBA[..., :3]
ON_WHITE = RGB * (RGBA[..., 3:] / 255) + 255 - RGBA[..., 3:]
SCENE = quadrants(80, 64)


def _pixels(data: bytes) -> np.ndarray:
    return decode(data, DecodeOptions())[0]


def _refused(data: bytes) -> tuple[Fault, str]:
    with pytest.raises(UndecodableError) as caught:
        decode(data, DecodeOptions())
    return caught.value.fault, str(caught.value)


def _padded(row: bytes) -> bytes:
    return row + bytes(-len(row) % 4)


def _bmp(
    rows: list[bytes],
    bits: int,
    header: int = 40,
    compression: int = 0,
    masks: tuple[int, ...] = (),
    palette: bytes = b"",
    *,
    top_down: bool = False,
    gap: int = 0,
) -> bytes:
    if header == 12:
        head = struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, bits)
    else:
        height = -HEIGHT if top_down else HEIGHT
        head = struct.pack(
            "<IiiHHIIiiII", header, WIDTH, height, 1, bits, compression, 0, 0, 0, len(palette) // 4, 0
        )
        packed = struct.pack(f"<{len(masks)}I", *masks)
        head += packed if header == 40 else packed.ljust(header - 40, b"\0")
    start = 14 + len(head) + len(palette) + gap
    body = b"".join(map(_padded, rows if top_down else rows[::-1]))
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + head + palette + bytes(gap) + body


def _rows(pixels: np.ndarray) -> list[bytes]:
    """Rows of blue, green, red and what follows."""
    order = [2, 1, 0, *range(3, pixels.shape[2])]
    return [row[:, order].tobytes() for row in pixels]


WITHOUT_ALPHA = np.dstack([RGB, np.zeros((HEIGHT, WIDTH), np.uint8)])


@pytest.mark.parametrize("top_down", [False, True])
def test_24_bits(top_down: bool) -> None:
    for header in (40, 52, 56, 64, 108, 124):
        assert np.array_equal(_pixels(_bmp(_rows(RGB), 24, header, top_down=top_down)), RGB), header
    assert np.array_equal(_pixels(_bmp(_rows(RGB), 24, 12)), RGB)


@pytest.mark.parametrize("top_down", [False, True])
@pytest.mark.parametrize(
    ("header", "compression", "masks", "alpha"),
    [
        (40, 0, (), False),
        (40, 3, BGRA[:3], False),
        (52, 3, BGRA[:3], False),
        (40, 6, BGRA, True),
        (56, 3, BGRA, True),
        (108, 3, BGRA, True),
        (124, 3, BGRA, True),
        (108, 0, BGRA, False),  # masks count where the compression says so
    ],
)
def test_32_bits(header: int, compression: int, masks: tuple[int, ...], alpha: bool, top_down: bool) -> None:
    data = _bmp(_rows(RGBA), 32, header, compression, masks, top_down=top_down)
    assert np.abs(_pixels(data) - (ON_WHITE if alpha else RGB)).max() < 1.1
    nowhere = _bmp(_rows(WITHOUT_ALPHA), 32, header, compression, masks, top_down=top_down)
    assert np.array_equal(_pixels(nowhere), RGB), "alpha that is 0 everywhere is no alpha"


@pytest.mark.parametrize(
    "masks", [(0x7C00, 0x3E0, 0x1F), (0xF800, 0x7E0, 0x1F), (0xF00, 0xF0, 0xF), (0x1F, 0x7E0, 0xF800)]
)
def test_16_bits(masks: tuple[int, int, int]) -> None:
    values = RNG.integers(0, 2**16, (HEIGHT, WIDTH))
    expected = np.dstack([(values & mask) / mask * 255 for mask in masks])
    rows = [row.astype("<u2").tobytes() for row in values]
    for header in (40, 108):
        assert np.abs(_pixels(_bmp(rows, 16, header, 3, masks)) - expected).max() < 1
    if masks[0] == 0x7C00:
        assert np.abs(_pixels(_bmp(rows, 16)) - expected).max() < 1


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_palettes(bits: int) -> None:
    palette = RNG.integers(0, 256, (2**bits, 3), np.uint8)
    values = RNG.integers(0, 2**bits, (HEIGHT, WIDTH))
    rows = [packed_bits(row[None, :, None], bits) for row in values]
    long = np.dstack([palette[None, :, ::-1], np.zeros((1, 2**bits), np.uint8)]).tobytes()
    short = palette[:, ::-1].tobytes()
    for data in (
        _bmp(rows, bits, palette=long),
        _bmp(rows, bits, palette=long, top_down=True),
        _bmp(rows, bits, palette=long, gap=20),
        _bmp(rows, bits, 12, palette=short),
    ):
        assert np.array_equal(_pixels(data), palette[values])


def test_runs() -> None:
    palette = RNG.integers(0, 256, (256, 3), np.uint8)
    long = np.dstack([palette[None, :, ::-1], np.zeros((1, 256), np.uint8)]).tobytes()
    values = RNG.integers(0, 256, HEIGHT)
    runs = b"".join(bytes([WIDTH, value, 0, 0]) for value in values[::-1]) + b"\0\1"
    data = _bmp([runs], 8, compression=1, palette=long)
    assert np.array_equal(_pixels(data), palette[values][:, None].repeat(WIDTH, axis=1))
    assert _refused(data[:-14])[0] == Fault.UNREADABLE


def test_what_is_cut_off_and_what_is_not_decoded() -> None:
    for data in (_bmp(_rows(RGB), 24), _bmp(_rows(RGBA), 32)):
        assert _refused(data[:-40])[0] == Fault.UNREADABLE
    for data, reason in (
        (_bmp([save(SCENE, "JPEG")], 24, 40, 4), "holds a JPEG"),
        (_bmp(_rows(RGB), 2), "2 bits"),
        (_bmp(_rows(RGB), 64), "64 bits"),
    ):
        fault, text = _refused(data)
        assert fault == Fault.UNSUPPORTED
        assert reason in text


# ---- icons ----


def _ico(*pictures: tuple[int, int, int, bytes], kind: int = 1) -> bytes:
    entries, body = b"", b""
    for width, height, bits, data in pictures:
        start = 6 + 16 * len(pictures) + len(body)
        entries += struct.pack("<BBBBHHII", width % 256, height % 256, 0, 0, 1, bits, len(data), start)
        body += data
    return struct.pack("<HHH", 0, kind, len(pictures)) + entries + body


MASK = RNG.integers(0, 2, (HEIGHT, WIDTH))


def _dib(rows: list[bytes], bits: int, palette: bytes = b"", mask: np.ndarray = MASK) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, WIDTH, 2 * HEIGHT, 1, bits, 0, 0, 0, 0, len(palette) // 4, 0)
    body = [*rows[::-1], *(packed_bits(row[None, :, None], 1) for row in mask[::-1])]
    return head + palette + b"".join(map(_padded, body))


def test_icons() -> None:
    masked = np.where(MASK[..., None] == 1, 255, RGB)
    png = save(SCENE, "PNG")
    broken = png[:33] + png_chunk(b"tEXt", b"x")[:-1] + b"\0" + png[33:]
    alpha = _pixels(_ico((WIDTH, HEIGHT, 32, _dib(_rows(RGBA), 32))))
    assert np.abs(alpha - ON_WHITE).max() < 1.1
    small = (WIDTH, HEIGHT, 24, _dib(_rows(RGB), 24))
    assert np.array_equal(_pixels(_ico((WIDTH, HEIGHT, 32, _dib(_rows(WITHOUT_ALPHA), 32)))), masked)
    assert np.array_equal(_pixels(_ico(small)), masked)
    assert np.array_equal(_pixels(_ico(small, (80, 64, 32, png))), SCENE)
    assert np.array_equal(_pixels(_ico((80, 64, 32, broken))), SCENE)
    for bits in (1, 4, 8):
        palette = RNG.integers(0, 256, (2**bits, 3), np.uint8)
        values = RNG.integers(0, 2**bits, (HEIGHT, WIDTH))
        rows = [packed_bits(row[None, :, None], bits) for row in values]
        long = np.dstack([palette[None, :, ::-1], np.zeros((1, 2**bits), np.uint8)]).tobytes()
        pixels = _pixels(_ico((WIDTH, HEIGHT, bits, _dib(rows, bits, long))))
        assert np.array_equal(pixels, np.where(MASK[..., None] == 1, 255, palette[values]))


def test_broken_icons_are_icons() -> None:
    """They were tried as TGA, and called that."""
    whole = _ico((WIDTH, HEIGHT, 32, _dib(_rows(RGBA), 32)))
    for data in (whole[:-100], _ico(), whole[:10], b"\0\0\1\0\1\0" + RNG.bytes(200)):
        fault, reason = _refused(data)
        assert fault == Fault.UNREADABLE
        assert "ICO" in reason or "BMP" in reason


def test_cursors_are_named() -> None:
    assert _refused(_ico((WIDTH, HEIGHT, 32, _dib(_rows(RGBA), 32)), kind=2)) == (
        Fault.UNSUPPORTED,
        "a cursor (CUR) is not decoded here; convert it to PNG",
    )
