"""PNG: every depth and colour type, broken ancillary chunks, and animations."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from masklake.model.decode import DecodeOptions, Fault, UndecodableError, decode
from PIL import Image

from tests.helpers.images import packed_bits, png_chunk, quadrants, save

SCENE = quadrants(80, 64)
BASE = save(SCENE, "PNG")
SIGNATURE = BASE[:8]


def _pixels(data: bytes) -> np.ndarray:
    return decode(data, DecodeOptions())[0]


def _refused(data: bytes) -> tuple[Fault, str]:
    with pytest.raises(UndecodableError) as caught:
        decode(data, DecodeOptions())
    return caught.value.fault, str(caught.value)


def _header(width: int, height: int, depth: int, colour: int, interlaced: bool = False) -> bytes:
    return png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))


def _rows(values: np.ndarray, depth: int) -> bytes:
    rows = [values[y : y + 1] for y in range(len(values))]
    return zlib.compress(
        b"".join(
            b"\0" + (row.astype(">u2").tobytes() if depth == 16 else packed_bits(row, depth)) for row in rows
        )
    )


ADAM7 = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1))
"""First row, step, first column, step of each pass (PNG, section 8.2)."""


def _png(
    values: np.ndarray, depth: int, colour: int, *before: tuple[bytes, bytes], interlaced: bool = False
) -> bytes:
    height, width = values.shape[:2]
    image = _rows(values, depth)
    if interlaced:
        passes = [values[top::down, left::across] for top, down, left, across in ADAM7]
        image = zlib.compress(b"".join(zlib.decompress(_rows(part, depth)) for part in passes if part.size))
    chunks = [png_chunk(*chunk) for chunk in (*before, (b"IDAT", image), (b"IEND", b""))]
    return SIGNATURE + _header(width, height, depth, colour, interlaced) + b"".join(chunks)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize(
    ("depth", "colour", "count"),
    [
        *((depth, 0, 1) for depth in (1, 2, 4, 8, 16)),
        *((depth, colour, count) for colour, count in ((2, 3), (4, 2), (6, 4)) for depth in (8, 16)),
    ],
)
def test_depths_and_colour_types(
    depth: int,
    colour: int,
    count: int,
    transparent: bool,
    interlaced: bool,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """tRNS names one level or colour, in the samples' own depth. libpng says nothing of it."""
    values = np.random.default_rng(depth).integers(0, 2**depth, (7, 11, count))
    shares = values / (2**depth - 1)
    seen = shares[..., :-1] if colour in (4, 6) else shares
    alpha = shares[..., -1:] if colour in (4, 6) else np.ones((7, 11, 1))
    before = []
    if transparent:
        before = [(b"tRNS", values[3, 4].astype(">u2").tobytes())]
        if colour in (0, 2):  # in the others it is not allowed, and says nothing
            alpha = (values != values[3, 4]).any(axis=2, keepdims=True).astype(float)
    expected = 255 * (seen.repeat(3 // seen.shape[2], axis=2) * alpha + 1 - alpha)
    data = _png(values, depth, colour, *before, interlaced=interlaced)
    assert np.abs(_pixels(data) - expected).max() < 1.1
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (5, 1), (9, 17)])
def test_interlaced_pictures_of_every_size(size: tuple[int, int]) -> None:
    """Narrow ones have fewer than seven passes. What lacks pixels is refused."""
    values = np.random.default_rng(0).integers(0, 2**16, (*size, 3))
    data = _png(values, 16, 2, interlaced=True)
    assert np.array_equal(_pixels(data), _pixels(_png(values, 16, 2)))
    less = _png(values, 16, 2, interlaced=True).replace(
        png_chunk(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], 16, 2, 0, 0, 1)),
        png_chunk(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0] + 8, 16, 2, 0, 0, 1)),
    )
    assert _refused(less)[0] == Fault.UNREADABLE


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_palettes(depth: int) -> None:
    rng = np.random.default_rng(depth)
    values = rng.integers(0, 2**depth, (7, 11, 1))
    palette = rng.integers(0, 256, (2**depth, 3), np.uint8)
    alpha = rng.integers(0, 256, 2**depth - 1, np.uint8)
    colours = (b"PLTE", palette.tobytes())
    for interlaced in (False, True):
        pixels = _pixels(_png(values, depth, 3, colours, interlaced=interlaced))
        assert np.array_equal(pixels, palette[values[..., 0]])
    opaque = np.append(alpha, 255)[values] / 255
    expected = palette[values[..., 0]] * opaque + 255 * (1 - opaque)
    for interlaced in (False, True):
        data = _png(values, depth, 3, colours, (b"tRNS", alpha.tobytes()), interlaced=interlaced)
        assert np.abs(_pixels(data) - expected).max() < 1.1
    assert _refused(_png(values, depth, 3))[0] == Fault.UNREADABLE


KINDS = b"tEXt zTXt iTXt iCCP gAMA cHRM sRGB cICP pHYs eXIf tRNS bKGD sBIT tIME hIST sPLT acTL fcTL fdAT vpAg"


@pytest.mark.parametrize("kind", KINDS.split())
def test_broken_ancillary_chunks_cost_their_own_meaning(kind: bytes) -> None:
    """Of every content, with a wrong checksum, and with a length that is short, long or endless."""
    for body in (b"", b"\0", bytes(7), b"x" * 50, b"name\0\7" + b"y" * 20, bytes(2**21)):
        right = png_chunk(kind, body)
        lengths = (len(body) + 20, max(0, len(body) - 1), 2**32 - 1, 2**31 - 1)
        forms = [right, right[:-1] + bytes([right[-1] ^ 1])]
        forms += [struct.pack(">I", length) + right[4:] for length in lengths]
        for form in forms:
            assert np.array_equal(_pixels(BASE[:33] + form + BASE[33:]), SCENE), (body[:8], form[:8])
            assert np.array_equal(_pixels(BASE[:-12] + form + BASE[-12:]), SCENE), (body[:8], form[:8])


def test_exif_with_the_prefix_of_jpeg() -> None:
    exif = b"II*\0" + struct.pack("<IHHHI", 8, 1, 0x0112, 3, 1) + struct.pack("<Hxx", 6) + bytes(4)
    for prefix in (b"", b"Exif\0\0"):
        assert _pixels(BASE[:33] + png_chunk(b"eXIf", prefix + exif) + BASE[33:]).shape == (80, 64, 3)


def test_gamma_is_not_applied() -> None:
    """Decided, as for profiles: pixels as they are stored."""
    for gamma in (1, 45_455, 100_000):
        data = BASE[:33] + png_chunk(b"gAMA", struct.pack(">I", gamma)) + BASE[33:]
        assert np.array_equal(_pixels(data), SCENE)


@pytest.mark.parametrize("tail", [-12, -6, -1])
def test_only_the_end_is_missing(tail: int) -> None:
    assert np.array_equal(_pixels(BASE[:tail]), SCENE)


def test_what_follows_the_end_is_not_looked_at() -> None:
    assert np.array_equal(_pixels(BASE + b"junk" * 100), SCENE)


def test_a_wrong_checksum_of_pixels_is_told() -> None:
    position = BASE.index(b"IDAT") + 20
    data = BASE[:position] + bytes([BASE[position] ^ 1]) + BASE[position + 1 :]
    assert _refused(data) == (Fault.UNREADABLE, "broken PNG content: the checksum of IDAT is wrong")


# ---- animations ----


def _control(number: int, width: int, height: int, x: int = 0, y: int = 0) -> bytes:
    return png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, width, height, x, y, 1, 10, 0, 0))


def _frame(number: int, values: np.ndarray) -> bytes:
    return png_chunk(b"fdAT", struct.pack(">I", number) + _rows(values, 8))


RED, GREEN = (np.full((64, 80, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 200, 0)))


def _animated(default: bytes, *frames: bytes) -> bytes:
    still = png_chunk(b"IDAT", _rows(RED, 8))
    head = SIGNATURE + _header(80, 64, 8, 2) + png_chunk(b"acTL", struct.pack(">II", 1, 0))
    return head + default + still + b"".join(frames) + png_chunk(b"IEND", b"")


def test_the_first_frame_of_an_animation() -> None:
    """As in browsers: the default image is for those who know no animations, and may be another picture."""
    assert np.array_equal(_pixels(_animated(b"", _control(0, 80, 64), _frame(1, GREEN))), GREEN)
    assert np.array_equal(_pixels(_animated(_control(0, 80, 64), _control(1, 80, 64), _frame(2, GREEN))), RED)
    part = _pixels(_animated(b"", _control(0, 20, 10, 30, 40), _frame(1, GREEN[:10, :20])))
    expected = np.full((64, 80, 3), 255, np.uint8)
    expected[40:50, 30:50] = (0, 200, 0)
    assert np.array_equal(part, expected)


def test_a_broken_animation_is_none() -> None:
    frame, control = _frame(1, GREEN), _control(0, 80, 64)
    for frames in (
        (),
        (control,),
        (frame,),
        (control[:-1] + b"\0", frame),
        (control, frame[:-1] + bytes([frame[-1] ^ 1])),
        (_control(0, 81, 64), frame),
        (_control(0, 0, 0), frame),
    ):
        assert np.array_equal(_pixels(_animated(b"", *frames)), RED)
    assert np.array_equal(_pixels(save(Image.fromarray(RED), "PNG")), RED)
