"""Decode: from rows with an object's bytes to rows with RGB pixels, or with the reason why there are none.

It runs in CPU tasks without torch (importing it costs a worker 4 s and 800 MB).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from masklake.model.decode import DecodeOptions, UndecodableError, decode, decoded_size
from masklake.pipeline.schema import Status
from masklake.pipeline.streams.outcome import with_outcomes

DECODED = (
    pa.field("pixels", pa.large_binary()),
    pa.field("pixel_width", pa.int32()),
    pa.field("pixel_height", pa.int32()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
)
"""RGB bytes (pixel_height, pixel_width, 3); width and height are those of the original frame, after EXIF
orientation, which are larger where a JPEG was decoded at a fraction of its size."""

DECODING_KEEPS = (64 * 2**20, 128 * 2**20)
"""Memory that a process which decodes keeps when it is freed, for `keep_freed_memory`: enough for the coefficients of a
progressive JPEG of 12 megapixels, which are 36 MB; so much more stays with each such process."""
_PIXEL_BYTES = pa.field("pixel_bytes", pa.int64())
_LARGEST_SIDE = 2**31 - 1
_PART_BYTES = 256 * 2**20


def with_pixel_bytes(rows: pa.Table, options: DecodeOptions) -> pa.Table:
    """`rows` (FETCHED) with the column pixel_bytes: how much the pixels of each will be, by the file's header; 0 where it would give
    none."""
    sizes = [_pixel_bytes(data.as_buffer(), options) if data.is_valid else 0 for data in rows["data"]]
    return rows.append_column(_PIXEL_BYTES, pa.array(sizes, _PIXEL_BYTES.type))


def without_pixels(row: pa.Table, reason: str) -> pa.Table:
    """What `with_pixel_bytes` makes of an image whose header could not be read, for this reason."""
    data = row.schema.get_field_index("data")
    row = with_outcomes(row, [str(Status.FAILED)], [reason])
    row = row.set_column(data, row.schema.field(data), pa.nulls(1, row.schema.field(data).type))
    return row.append_column(_PIXEL_BYTES, pa.array([0], _PIXEL_BYTES.type))


def parts(rows: pa.Table) -> Iterator[pa.Table]:
    """Rows of `with_pixel_bytes` as FETCHED rows, cut into tables of at most 256 MiB of pixels each, so that a task and its result
    stay small even where a few kilobytes hold 64 megapixels. A single larger image is a table of its own."""
    sizes = rows[_PIXEL_BYTES.name].to_pylist()
    rows = rows.drop_columns([_PIXEL_BYTES.name])
    start = held = 0
    for i, size in enumerate(sizes):
        if i > start and held + size > _PART_BYTES:
            yield rows.slice(start, i - start)
            start, held = i, 0
        held += size
    yield rows.slice(start)


def _pixel_bytes(data: memoryview, options: DecodeOptions) -> int:
    size = decoded_size(data, options)
    return 3 * size[0] * size[1] if size else 0


def decode_rows(rows: pa.Table, options: DecodeOptions) -> pa.Table:
    """FETCHED `rows` with the bytes replaced by the DECODED columns; rows that have failed pass through."""
    statuses, errors = rows["status"].to_pylist(), rows["error"].to_pylist()
    columns: dict[str, list] = {field.name: [None] * len(rows) for field in DECODED}
    for i, data in enumerate(rows["data"]):
        if statuses[i] != Status.OK:
            continue
        size: tuple[int, int] | None
        try:
            pixels, size = decode(data.as_buffer(), options)
            columns["pixels"][i] = pixels.reshape(-1)
            columns["pixel_height"][i], columns["pixel_width"][i] = pixels.shape[:2]
        except UndecodableError as error:
            statuses[i], errors[i], size = str(Status(error.fault)), str(error), error.size
        if size is not None and max(size) <= _LARGEST_SIDE:
            columns["width"][i], columns["height"][i] = size
    out = with_outcomes(rows.drop_columns(["data"]), statuses, errors)
    for field in DECODED:
        values = columns[field.name]
        array = _binary(values) if field.name == "pixels" else pa.array(values, field.type)
        out = out.append_column(field, array)
    return out


def _binary(arrays: list[np.ndarray | None]) -> pa.Array:
    """A large_binary array of uint8 arrays. (`pa.array` over memoryviews never frees their memory, as seen in
    pyarrow 26.)"""
    lengths = [0 if array is None else len(array) for array in arrays]
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
    present = [array for array in arrays if array is not None]
    values = np.concatenate(present) if present else np.empty(0, np.uint8)
    valid = np.packbits([array is not None for array in arrays], bitorder="little")
    return pa.Array.from_buffers(
        pa.large_binary(), len(arrays), [pa.py_buffer(valid), pa.py_buffer(offsets), pa.py_buffer(values)]
    )
