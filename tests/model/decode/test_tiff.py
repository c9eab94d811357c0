"""TIFF: every corner of bits, sample format, photometric interpretation, planes, alpha and orientation."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import tifffile
from masklake.model.decode import DecodeOptions, Fault, UndecodableError, decode
from PIL import Image

from tests.helpers.images import as_stored, packed_bits, quadrants, save, tiff

HEIGHT, WIDTH = 9, 14
SCENE = quadrants(80, 64)
MINISWHITE, MINISBLACK, RGB, PALETTE, CMYK = 0, 1, 2, 3, 5
COLOURS = {MINISWHITE: 1, MINISBLACK: 1, RGB: 3, PALETTE: 1, CMYK: 4}
UNSPECIFIED, ASSOCIATED, UNASSOCIATED = 0, 1, 2


def pixels_of(data: bytes) -> np.ndarray:
    return decode(data, DecodeOptions())[0]


def refused(data: bytes, **options: Any) -> tuple[Fault, str]:
    with pytest.raises(UndecodableError) as caught:
        decode(data, DecodeOptions(**options))
    return caught.value.fault, str(caught.value)


def written(values: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, metadata=None, **options)
    return file.getvalue()


def shown(shares: np.ndarray, kind: int, extra: int | None, table: np.ndarray | None = None) -> np.ndarray:
    """What samples, as shares of white (H, W, C), look like on white: floating point, 0 to 255."""
    count = COLOURS[kind]
    colour = shares[..., :count]
    if kind == MINISWHITE:
        colour = 1 - colour
    if kind == CMYK:
        colour = (1 - colour[..., :3]) * (1 - colour[..., 3:])
    if table is not None:
        colour = table
    if colour.shape[2] == 1:
        colour = colour.repeat(3, axis=2)
    alpha = shares[..., count:]
    if extra == UNASSOCIATED:
        colour = colour * alpha + 1 - alpha
    if extra == ASSOCIATED:
        colour = np.minimum(colour + 1 - alpha, 1)
    return colour * 255


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 32])
def test_unsigned_samples(bits: int) -> None:
    rng = np.random.default_rng(bits)
    for kind, planar, extra, order, compressed in itertools.product(
        COLOURS, (1, 2), (None, UNSPECIFIED, ASSOCIATED, UNASSOCIATED), "<>", (False, True)
    ):
        count = COLOURS[kind] + (extra is not None)
        if (planar == 2 and count == 1) or (kind == PALETTE and bits > 16):
            continue
        values = rng.integers(0, 2**bits, (HEIGHT, WIDTH, count), dtype=np.uint64)
        planes = [values] if planar == 1 else np.split(values, count, axis=2)
        segments = [
            plane.astype(f"{order}u{bits // 8}").tobytes()
            if bits in (8, 16, 32)
            else packed_bits(plane, bits)
            for plane in planes
        ]
        tags: dict[int, tuple[str, Any]] = {
            256: ("H", WIDTH),
            257: ("H", HEIGHT),
            258: ("H", [bits] * count),
            259: ("H", 8 if compressed else 1),
            262: ("H", kind),
            277: ("H", count),
            278: ("H", HEIGHT),
            284: ("H", planar),
        }
        if extra is not None:
            tags[338] = ("H", extra)
        table = None
        if kind == PALETTE:  # libtiff shifts entries to 8 bits
            entries = rng.integers(0, 65536, (3, 2**bits))
            tags[320] = ("H", entries.reshape(-1).tolist())
            table = entries[:, values[..., 0].astype(np.intp)].transpose(1, 2, 0) // 256 / 255
        data = tiff(tags, *(map(zlib.compress, segments) if compressed else segments), order=order)
        corner = f"photometric {kind}, planar {planar}, extra {extra}, {order}, compressed {compressed}"
        # tifffile is the reference for what is stored.
        page = tifffile.TiffFile(io.BytesIO(data)).pages.first
        stored = page.asarray().reshape((count, HEIGHT, WIDTH) if planar == 2 else (HEIGHT, WIDTH, count))
        assert np.array_equal(np.moveaxis(stored, 0, -1) if planar == 2 else stored, values), corner
        expected = shown(values / float(2**bits - 1), kind, extra, table)
        assert np.abs(pixels_of(data) - expected).max() < 2.1, corner


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_floating_point_samples(bits: int) -> None:
    rng = np.random.default_rng(bits)
    for kind, planar, extra, order, tile in itertools.product(
        (MINISWHITE, MINISBLACK, RGB, CMYK),
        ("contig", "separate"),
        (None, "assocalpha", "unassalpha"),
        "<>",
        (None, (16, 16)),
    ):
        count = COLOURS[kind] + (extra is not None)
        if planar == "separate" and count == 1:
            continue
        values = rng.random((HEIGHT, WIDTH, count)).astype(f"f{bits // 8}")
        stored = values if count > 1 else values[..., 0]
        data = written(
            np.moveaxis(stored, -1, 0) if planar == "separate" else stored,
            photometric={MINISWHITE: "miniswhite", MINISBLACK: "minisblack", RGB: "rgb", CMYK: "separated"}[
                kind
            ],
            planarconfig=planar if count > 1 else None,
            extrasamples=[extra] if extra else None,
            byteorder=order,
            tile=tile,
        )
        alpha = {"assocalpha": ASSOCIATED, "unassalpha": UNASSOCIATED, None: None}[extra]
        expected = shown(values.astype(float), kind, alpha)
        assert np.abs(pixels_of(data) - expected).max() < 2.1, (kind, planar, extra, order, tile)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("options", [{}, {"planarconfig": "separate"}, {"tile": (16, 16)}])
def test_orientation(orientation: int, options: dict) -> None:
    stored = np.ascontiguousarray(as_stored(SCENE, orientation)).astype(np.uint16) * 257
    stored = np.moveaxis(stored, -1, 0) if options.get("planarconfig") else stored
    data = written(
        stored, photometric="rgb", extratags=[(274, "H", 1, orientation, True)], compression="zlib", **options
    )
    assert np.array_equal(pixels_of(data), SCENE)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_impossible_orientation_means_upright(value: int) -> None:
    data = written(SCENE, photometric="rgb", extratags=[(274, "H", 1, value, True)])
    assert np.array_equal(pixels_of(data), SCENE)


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits", "zstd", "lzma", "webp", "jpeg2000"])
@pytest.mark.parametrize("tile", [None, (32, 32)])
def test_compressions_and_what_is_cut_off(compression: str | None, tile: tuple[int, int] | None) -> None:
    rows = None if tile else 16
    data = written(SCENE, photometric="rgb", compression=compression, tile=tile, rowsperstrip=rows)
    assert np.array_equal(pixels_of(data), SCENE)
    for share in (0.3, 0.8, 0.97):
        assert refused(data[: int(len(data) * share)])[0] == Fault.UNREADABLE


def test_big_tiff_and_predictors() -> None:
    assert np.array_equal(pixels_of(written(SCENE, photometric="rgb", bigtiff=True)), SCENE)
    for predictor, values in ((2, SCENE), (3, (SCENE / 255).astype(np.float32))):
        data = written(values, photometric="rgb", compression="zlib", predictor=predictor)
        assert np.array_equal(pixels_of(data), SCENE)


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_fax(compression: str) -> None:
    image = Image.fromarray(SCENE).convert("1")
    for kind in (image, Image.fromarray(~np.asarray(image))):
        expected = np.asarray(kind.convert("RGB"))
        assert np.array_equal(pixels_of(save(kind, "TIFF", compression=compression)), expected)


def test_a_palette_of_8_bit_entries() -> None:
    """Some writers forget that entries have 16 bits; libtiff sees it as we do: none is above 255."""
    entries = np.arange(768) % 251
    tags = _plain(PALETTE, 1) | {320: ("H", entries.tolist())}
    values = np.arange(80 * 64, dtype=np.uint8).reshape(64, 80)
    assert np.array_equal(pixels_of(tiff(tags, values.tobytes())), entries.reshape(3, 256).T[values])


def _plain(kind: int, samples: int, bits: int = 8) -> dict[int, tuple[str, Any]]:
    return {
        256: ("H", 80),
        257: ("H", 64),
        258: ("H", [bits] * samples),
        262: ("H", kind),
        277: ("H", samples),
        278: ("H", 64),
    }


@pytest.mark.parametrize("bits", [8, 16])
def test_three_bands_of_brightness_are_a_colour_picture(bits: int) -> None:
    """What GDAL writes of three bands of 16 bits."""
    values = SCENE.astype(f"<u{bits // 8}") * (257 if bits == 16 else 1)
    for extra in ({}, {338: ("H", [0, 0])}):
        data = tiff(_plain(MINISBLACK, 3, bits) | extra, values.tobytes())
        assert np.array_equal(pixels_of(data), SCENE)


@pytest.mark.parametrize(
    ("top", "brightest"), [(1.0, 255), (0.5, 128), (1.05, 255), (255.0, 255), (200.0, 200), (65535.0, 255)]
)
def test_ranges_of_floating_point(top: float, brightest: int) -> None:
    values = np.linspace(0, top, 64, dtype=np.float32)[None].repeat(8, 0)
    values[1, 1] = -3.0
    pixels = pixels_of(written(values))
    assert pixels.max() == brightest
    assert pixels[1, 1, 0] == 0
    assert abs(int(pixels[0, 32, 0]) - brightest / 2) < 10


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (written(np.full((8, 8), 9e9, np.float32)), "no known range"),
        (written(np.zeros((8, 8), np.int16)), "1 bands of 16 bits, signed"),
        (written(np.zeros((8, 8), np.complex64)), "no brightness"),
        (written(np.zeros((8, 8, 5), np.uint16), photometric="minisblack", planarconfig="contig"), "5 bands"),
        (tiff(_plain(32845, 3), bytes(80 * 64 * 3)), "LogLuv"),
        (tiff(_plain(10, 3), bytes(80 * 64 * 3)), "ITULAB"),
        (tiff(_plain(RGB, 3) | {258: ("H", [5, 6, 5])}, bytes(80 * 64 * 2)), "different bits"),
        (tiff(_plain(RGB, 3) | {339: ("H", [1, 3, 1])}, bytes(80 * 64 * 3)), "not understood"),
        (tiff(_plain(CMYK, 4) | {332: ("H", 2)}, bytes(80 * 64 * 4)), "not CMYK"),
        (written(SCENE, photometric="rgb", compression="lerc"), "compression 34887"),
        (
            written(
                np.zeros((16, 16, 16), np.uint8), volumetric=True, tile=(16, 16, 16), photometric="minisblack"
            ),
            "volume of 16",
        ),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(100), "CR2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_has_no_agreed_colours_is_named(data: bytes, reason: str) -> None:
    """Not "broken": other programs read these, and their user has to know what to do."""
    fault, text = refused(data)
    assert fault == Fault.UNSUPPORTED
    assert reason in text


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_values_that_are_none(poison: float) -> None:
    values = np.zeros((8, 8), np.float32)
    values[3, 3] = poison
    assert refused(written(values)) == (Fault.UNREADABLE, "the pixels hold NaN or infinity")


def test_lab() -> None:
    """Pillow writes CIELAB of 8 bits, whose a and b are signed; the others hold the same colours."""
    image = Image.fromarray(SCENE).convert("LAB")
    expected = np.asarray(image.convert("RGB"))
    signed = np.asarray(image)
    assert np.array_equal(pixels_of(save(image, "TIFF")), expected)
    unsigned = signed ^ np.array([0, 128, 128], np.uint8)
    wide = np.dstack(
        [
            signed[..., 0].astype(np.uint16) * 257,
            signed[..., 1:].view(np.int8).astype("<i2").view("<u2") * 256,
        ]
    )
    assert np.array_equal(pixels_of(tiff(_plain(8, 3), signed.tobytes())), expected)
    assert np.array_equal(pixels_of(tiff(_plain(9, 3), unsigned.tobytes())), expected)
    assert np.array_equal(pixels_of(tiff(_plain(8, 3, 16), wide.astype("<u2").tobytes())), expected)
    assert np.array_equal(
        pixels_of(tiff(_plain(9, 3, 16), (unsigned.astype("<u2") * 256).astype("<u2").tobytes())), expected
    )


@pytest.mark.parametrize("across", [1, 2, 4])
@pytest.mark.parametrize("down", [1, 2, 4])
@pytest.mark.parametrize("rows", [64, 16, 20])
def test_ycbcr_that_is_not_jpeg(across: int, down: int, rows: int) -> None:
    ycc = np.asarray(Image.fromarray(SCENE).convert("YCbCr"))
    strips = []
    for start in range(0, 64, rows):
        part = ycc[start : start + rows]
        part = np.pad(part, ((0, -len(part) % down), (0, 0), (0, 0)), "edge")
        units = part.reshape(len(part) // down, down, 80 // across, across, 3)
        luma = units[..., 0].transpose(0, 2, 1, 3).reshape(*units.shape[::2][:2], -1)
        strips.append(np.concatenate([luma, units[:, 0, :, 0, 1:]], axis=2).tobytes())
    tags = _plain(6, 3) | {278: ("H", rows), 530: ("H", [across, down])}
    expected = np.asarray(Image.fromarray(SCENE))
    for compression, pack in ((1, bytes), (8, zlib.compress)):
        data = tiff(tags | {259: ("H", compression)}, *map(pack, strips))
        assert np.abs(pixels_of(data).astype(int) - expected).max() <= 2
    assert refused(tiff(tags, *(strip[:-9] for strip in strips)))[0] == Fault.UNREADABLE


@pytest.mark.parametrize("mode", ["L", "RGB", "YCbCr", "CMYK"])
def test_jpeg_inside(mode: str) -> None:
    data = save(Image.fromarray(SCENE).convert(mode), "TIFF", compression="jpeg", quality=95)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.abs(pixels_of(data).astype(int) - expected).max() <= 4
    page = tifffile.TiffFile(io.BytesIO(data)).pages.first
    middle = page.dataoffsets[0] + page.databytecounts[0] // 2
    noise = np.random.default_rng(0).integers(0, 200, 100, np.uint8).tobytes()
    assert refused(data[:middle] + noise + data[middle + 100 :])[0] == Fault.UNREADABLE


def test_pages_thumbnails_and_masks() -> None:
    small = np.zeros((8, 8, 3), np.uint8)

    def pages(*written_pages: tuple[np.ndarray, dict]) -> bytes:
        file = io.BytesIO()
        with tifffile.TiffWriter(file) as writer:
            for values, options in written_pages:
                writer.write(values, **{"photometric": "rgb", "metadata": None} | options)
        return file.getvalue()

    for first in (
        pages((SCENE, {}), (small, {})),
        pages((small, {"subfiletype": 1}), (SCENE, {})),
        pages((small, {"subfiletype": 1, "subifds": 1}), (SCENE, {})),
        pages((SCENE, {}), (small, {"subfiletype": 1})),
        pages((SCENE, {"subfiletype": 1})),  # smaller than what, if there is nothing else
    ):
        assert np.array_equal(pixels_of(first), SCENE)
    raw = {"photometric": "cfa", "extratags": [(33421, "H", 2, (2, 2)), (33422, "B", 4, (0, 1, 1, 2))]}
    fault, reason = refused(
        pages((small, {"subfiletype": 1, "subifds": 1}), (SCENE[..., 0].astype(np.uint16), raw))
    )
    assert fault == Fault.UNSUPPORTED
    assert "camera's raw" in reason


def test_strips_that_were_never_written() -> None:
    """Nothing is in them, so the picture is not whole; GDAL's sparse tiles are meant to be empty."""
    strip = np.full((32, 80), 200, np.uint8).tobytes()
    tags = _plain(MINISBLACK, 1) | {278: ("H", 32)}
    fault, reason = refused(tiff(tags, strip, b""))
    assert fault == Fault.UNREADABLE
    assert "1 of 2 strips or tiles were never written" in reason
    sparse = pixels_of(tiff(tags | {42113: ("s", b"7")}, strip, b""))
    assert sparse[0, 0].tolist() == [200] * 3
    assert sparse[63, 0].tolist() == [7] * 3


def test_broken_tags_cost_their_own_meaning() -> None:
    for tag in (
        {34675: ("B", list(b"no profile"))},  # ICC
        {700: ("B", list(b"<not xmp"))},
        {34665: ("I", 2**31)},  # EXIF's directory, beyond the end
        {305: ("s", b"\xff\xfe")},
        {282: ("H", 7)},
        {330: ("I", 2**31)},  # SubIFDs
        {34377: ("B", list(b"8BIM\xff\xff\xff\xff"))},
    ):
        data = tiff(_plain(RGB, 3) | tag, SCENE.tobytes())
        assert np.array_equal(pixels_of(data), SCENE), tag


def test_samples_that_take_more_memory_than_pixels_should() -> None:
    tags = _plain(MINISBLACK, 1) | {256: ("I", 3000), 257: ("I", 3000), 258: ("H", 64), 278: ("I", 3000)}
    assert refused(tiff(tags, bytes(10)), max_pixels=8_999_999)[0] == Fault.TOO_LARGE
    many = tags | {258: ("H", [16] * 300), 277: ("H", 300), 262: ("H", RGB), 338: ("H", [0] * 297)}
    assert refused(tiff(many, bytes(10)), max_pixels=9_000_000)[0] == Fault.TOO_LARGE


def test_counts_that_are_missing_or_too_large() -> None:
    """What is not compressed tells its counts itself; and more than there is to read is no loss."""
    size = SCENE.nbytes
    whole = tiff(_plain(RGB, 3), SCENE.tobytes())
    count = struct.pack("<HHII", 279, 4, 1, size)
    assert count in whole
    for other in (0, size + 5000, 2**31):
        data = whole.replace(count, struct.pack("<HHII", 279, 4, 1, other))
        assert np.array_equal(pixels_of(data), SCENE)
    assert refused(tiff(_plain(RGB, 3), SCENE.tobytes()[:-30]))[0] == Fault.UNREADABLE
    packed = zlib.compress(SCENE.tobytes())
    deflated = tiff(_plain(RGB, 3) | {259: ("H", 8)}, packed)
    data = deflated.replace(
        struct.pack("<HHII", 279, 4, 1, len(packed)), struct.pack("<HHII", 279, 4, 1, 99_999)
    )
    assert np.array_equal(pixels_of(data), SCENE)


def test_tags_that_are_left_out() -> None:
    grey = SCENE[..., 1]
    tags = _plain(MINISBLACK, 1)
    for tag in (262, 277, 278):
        data = tiff({code: value for code, value in tags.items() if code != tag}, grey.tobytes())
        assert np.array_equal(pixels_of(data)[..., 0], grey), tag
    colour = tiff({code: value for code, value in _plain(RGB, 3).items() if code != 262}, SCENE.tobytes())
    assert np.array_equal(pixels_of(colour), SCENE)


def test_jpeg_of_more_bits_inside() -> None:
    values = (SCENE[..., 0].astype(np.uint16) << 4) | (SCENE[..., 0] >> 4)
    data = written(
        values, photometric="minisblack", compression="jpeg", compressionargs={"bitspersample": 12}
    )
    assert np.abs(pixels_of(data)[8::16, 8::16, 0].astype(int) - SCENE[8::16, 8::16, 0]).max() <= 3
