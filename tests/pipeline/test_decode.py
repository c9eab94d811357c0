"""Rows with files in, rows with pixels or a reason out."""

from __future__ import annotations

import struct

import numpy as np
import pyarrow as pa
from masklake.model.decode import DecodeOptions
from masklake.pipeline.decode import DECODED, decode_rows, parts, with_pixel_bytes
from masklake.pipeline.segment.fetch import FETCHED
from PIL import Image

from tests.helpers.images import oriented, png_bomb, quadrants, save, solid

PLAIN = DecodeOptions()
SCENE = quadrants()
HEIGHT, WIDTH = SCENE.shape[:2]


def _row(image_id: int, data: bytes | None, status: str = "ok", error: str | None = None) -> dict:
    return {
        "image_id": image_id,
        "uri": f"s3://b/{image_id}",
        "etag": None,
        "size_bytes": len(data or b""),
        "last_modified": None,
        "status": status,
        "error": error,
        "data": data,
    }


def test_rows_keep_their_order_and_failures_pass_through() -> None:
    rows = pa.Table.from_pylist(
        [
            _row(4, save(SCENE, "PNG")),
            _row(5, None, "missing", "gone"),
            _row(9, b"no image at all"),
            _row(7, solid((9, 8, 7), (6, 4))),
            _row(8, png_bomb(30_000, 30_000)),
        ],
        FETCHED,
    )
    out = decode_rows(rows, PLAIN)
    assert out.schema.names == [*(n for n in FETCHED.names if n != "data"), *(f.name for f in DECODED)]
    assert out["image_id"].to_pylist() == [4, 5, 9, 7, 8]
    assert out["status"].to_pylist() == ["ok", "missing", "unsupported", "ok", "too_large"]
    assert out["error"].to_pylist()[:2] == [None, "gone"]
    assert out["width"].to_pylist() == [WIDTH, None, None, 6, 30_000]
    assert out["height"].to_pylist() == [HEIGHT, None, None, 4, 30_000]
    pixels = np.frombuffer(out["pixels"][0].as_py(), np.uint8).reshape(HEIGHT, WIDTH, 3)
    assert np.array_equal(pixels, SCENE)
    assert out["pixels"][4].as_py() is None
    turned = decode_rows(
        pa.Table.from_pylist([_row(1, save(SCENE, "PNG", exif=oriented(6)))], FETCHED), PLAIN
    )
    assert turned["width"].to_pylist() == [HEIGHT]
    upright = np.frombuffer(turned["pixels"][0].as_py(), np.uint8).reshape(WIDTH, HEIGHT, 3)
    assert np.array_equal(upright, np.rot90(SCENE, -1))


def test_a_frame_beyond_32_bits_has_no_size_in_its_row() -> None:
    header = struct.pack("<IHHIIIIHHIIiiII", 60, 0, 0, 54, 40, 2**32 - 2, 2**31 - 1, 1, 24, *[0] * 6)
    out = decode_rows(pa.Table.from_pylist([_row(0, b"BM" + header)], FETCHED), PLAIN)
    assert out["status"].to_pylist() == ["too_large"]
    assert out["width"].to_pylist() == [None]


def test_large_frames_make_small_parts() -> None:
    """8 PNGs of 48 MB of pixels, 5 to a part; a scaled JPEG of as many takes a 64th, what is broken nothing."""
    png, jpeg = (save(Image.new("RGB", (4000, 4000)), kind) for kind in ("PNG", "JPEG"))
    files = [*[png] * 6, b"", b"text", None, *[jpeg] * 9, *[png] * 2]
    table = pa.Table.from_pylist([_row(i, data) for i, data in enumerate(files)], FETCHED)
    cut = list(parts(with_pixel_bytes(table, DecodeOptions(target=(400, 500)))))
    assert [len(part) for part in cut] == [5, 15]
    assert pa.concat_tables(cut).equals(table)
    assert [len(part) for part in parts(with_pixel_bytes(table, PLAIN))] == [5, 8, 5, 2]
    measured = with_pixel_bytes(table, DecodeOptions(max_pixels=10**7))
    assert [len(part) for part in parts(measured)] == [20]
