"""What became of each image, as the columns `status` and `error` of the rows that travel between stages."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa


def with_outcomes(rows: pa.Table, statuses: Sequence[str], errors: Sequence[str | None]) -> pa.Table:
    """`rows` with other values in `status` and `error`; the columns stay where they are."""
    for name, values in (("status", statuses), ("error", errors)):
        column = rows.schema.get_field_index(name)
        rows = rows.set_column(column, rows.schema.field(column), pa.array(values, pa.string()))
    return rows
