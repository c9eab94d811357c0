"""Parquet files as single objects: written whole, read whole."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from masklake.pipeline.storage.store import Storage

ROW_GROUP_ROWS = 100_000


def encode(table: pa.Table) -> bytes:
    """`table` as a Parquet file: zstd, statistics for pruning, row groups of 100,000 rows."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", row_group_size=ROW_GROUP_ROWS, store_schema=True)
    return sink.getvalue()


def write_table(table: pa.Table, uri: str, storage: Storage) -> int:
    """Write `table` to `uri` in one atomic step. Returns the number of bytes written."""
    data = encode(table)
    storage.write(uri, data)
    return len(data)


def read_table(uri: str, storage: Storage, columns: Sequence[str] | None = None) -> pa.Table:
    """The table at `uri`, or some of its columns."""
    # `pq.read_table` goes by way of a dataset, which takes four times as long for a small part.
    return pq.ParquetFile(pa.BufferReader(storage.read(uri))).read(columns)
