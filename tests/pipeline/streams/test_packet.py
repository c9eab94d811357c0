"""Packets: nothing is lost, nothing is copied."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from masklake.pipeline.streams.packet import pack, unpack

ITEM = pa.struct([("name", pa.string()), ("xy", pa.list_(pa.float32(), 2))])
SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False, metadata={"description": "kept"}),
        ("data", pa.large_binary()),
        ("items", pa.large_list(ITEM)),
    ]
)


def _table(n: int, first: int = 0) -> pa.Table:
    rows = [
        {
            "image_id": i,
            "data": None if i % 3 == 1 else bytes([i % 256]) * (i % 7),
            "items": [{"name": f"{i}/{k}", "xy": [i, k]} for k in range(i % 4)] if i % 5 else None,
        }
        for i in range(first, first + n)
    ]
    return pa.Table.from_pylist(rows, SCHEMA)


@pytest.mark.parametrize("n", [1, 2, 17])
def test_a_round_trip_changes_nothing(n: int) -> None:
    packet = pack(_table(n))
    assert packet.num_rows == 1
    assert unpack(packet).equals(_table(n))


def test_the_rows_of_many_packets_come_in_order() -> None:
    packets = [pack(_table(3, first)) for first in (0, 3, 6)]
    for joined in (pa.concat_tables(packets), pa.concat_tables(packets).combine_chunks()):
        assert joined.num_rows == 3
        assert unpack(joined).equals(_table(9))


@settings(deadline=None)
@given(cuts=st.lists(st.integers(0, 30), max_size=4), start=st.integers(0, 29), length=st.integers(1, 30))
def test_slices_and_chunks_of_any_shape(cuts: list[int], start: int, length: int) -> None:
    """What `Table.slice` and `concat_tables` leave behind: offsets into larger buffers, several chunks."""
    bounds = [0, *sorted(cuts), 30]
    chunked = pa.concat_tables(_table(30).slice(a, b - a) for a, b in pairwise(bounds))
    rows = chunked.slice(start, length)
    assert unpack(pack(rows)).equals(_table(30).slice(start, length).combine_chunks())


def test_packets_of_a_slice_do_not_carry_the_whole() -> None:
    pixels = pa.array([bytes(1_000_000)] * 50, pa.large_binary())
    rows = pa.table({"pixels": pixels}).slice(10, 2).combine_chunks()
    assert pack(rows).nbytes < 2_100_000


def test_nothing_is_copied() -> None:
    pixels = pa.array([np.arange(1_000_000, dtype=np.uint8).tobytes()] * 3, pa.large_binary())
    rows = pa.table({"pixels": pixels})
    before = pa.total_allocated_bytes()
    packed = pack(rows)
    out = unpack(packed)
    assert pa.total_allocated_bytes() - before < 10_000
    address = rows["pixels"].chunk(0).buffers()[2].address
    assert out["pixels"].chunk(0).buffers()[2].address == address


def test_ray_moves_a_packet_as_one_row() -> None:
    """A packet sliced by a batcher, as Ray Data does, is still the whole packet."""
    joined = pa.concat_tables([pack(_table(4)), pack(_table(5, 4))])
    assert unpack(joined.slice(1, 1)).equals(_table(5, 4))
    assert unpack(joined.slice(0, 1)).equals(_table(4))
