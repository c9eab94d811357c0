"""Parquet files as single objects: written whole, read whole."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from masklake.pipeline.schema import REPEATING
from masklake.pipeline.storage.store import Storage

LAYOUT: dict[str, Any] = {
    # Rows are sorted within a part, so small groups can be passed over by their statistics: questions with a condition take 0.6 to
    # 0.9 of the CPU time that they take in groups of 100,000, for 6 per cent more bytes.
    "row_group_size": 16_384,
    "compression": "zstd",
    # With the dictionaries below, 182 bytes an instance of the demo model instead of 214; level 19 gives 177 for 40 us a row.
    "compression_level": 6,
    # Dictionaries of values that do not repeat cost their indices and gain nothing.
    "use_dictionary": list(REPEATING),
    # BYTE_STREAM_SPLIT and the delta encodings would save 3 per cent more, and shut out readers that know the old encodings only.
    "store_schema": True,
}
"""How every table is laid out, as arguments of `pyarrow.parquet.write_table`."""


def encode(table: pa.Table) -> bytes:
    """`table` as a Parquet file: zstd, statistics for pruning, row groups of 16,384 rows."""
    sink = io.BytesIO()
    pq.write_table(table, sink, **LAYOUT)
    return sink.getvalue()


def write_table(table: pa.Table, uri: str, storage: Storage) -> int:
    """Write `table` to `uri` in one atomic step. Returns the number of bytes written."""
    data = encode(table)
    storage.write(uri, data)
    return len(data)


def read_table(uri: str, storage: Storage, columns: Sequence[str] | None = None) -> pa.Table:
    """The table at `uri`, or some of its columns."""
    return decode(storage.read(uri), columns)


def decode(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """The table in the Parquet file `data`, or some of its columns. Raises pyarrow.ArrowInvalid where it is none."""
    # `pq.read_table` goes by way of a dataset, which takes four times as long for a small part.
    return pq.ParquetFile(pa.BufferReader(data)).read(columns)
