"""What travels between stages: a packet, one Ray Data row that holds the rows of a few images.

Ray Data shapes blocks by bytes: it would merge the small tables of one stage (so that nothing streams until
there are 128 MB) and cut the large ones of the next. A packet is a single row, so it can be neither merged nor cut. With
`target_max_block_size=1` each packet is a block, and so a task, of its own. Packing and unpacking copy nothing.
"""

from __future__ import annotations

import pyarrow as pa

_COLUMN = "packet"


def pack(rows: pa.Table) -> pa.Table:
    """`rows` as a table of one row."""
    struct = rows.to_struct_array()
    if isinstance(struct, pa.ChunkedArray):
        struct = pa.concat_arrays(struct.chunks) if struct.num_chunks != 1 else struct.chunk(0)
    return pa.table({_COLUMN: pa.LargeListArray.from_arrays([0, len(struct)], struct)})


def unpack(packets: pa.Table) -> pa.Table:
    """The rows of all packets in `packets`."""
    return pa.Table.from_batches(
        [pa.RecordBatch.from_struct_array(chunk.flatten()) for chunk in packets[_COLUMN].chunks]
    )
