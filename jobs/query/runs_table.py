"""The table `runs` of a query: a row for each run, whatever the state of its record."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
from masklake.pipeline.lake.lake import Run
from masklake.pipeline.lake.run_summary import RunSummary, moment

_TIME = pa.timestamp("us", "UTC")
_RUNS = pa.schema(
    [(name, pa.string()) for name in ("run", "state", "source", "model")]
    + [(name, pa.int64()) for name in ("images", "done", "ok", "failures", "instances")]
    + [("seconds", pa.float64()), ("attempt", pa.int32())]
    + [(name, _TIME) for name in ("created_at", "updated_at", "finished_at")]
    + [(name, pa.string()) for name in ("error", "record")]
)
MAKE_RUNS = "create table runs as select * replace (record::json as record) from own_rows"
"""Makes the table of what `runs_table` returns, registered as own_rows."""


def runs_table(runs: Iterable[Run]) -> pa.Table:
    """The rows; the record is JSON as text."""
    rows = [[_storable(value) for value in _run_row(run)] for run in runs]
    columns = zip(zip(*rows, strict=True) if rows else [()] * len(_RUNS), _RUNS, strict=True)
    return pa.table([pa.array(values, field.type) for values, field in columns], schema=_RUNS)


def _run_row(run: Run) -> list[Any]:
    summary = RunSummary.of(run)
    record = run.record
    return [
        summary.run,
        summary.state,
        record and record.source,
        summary.model,
        summary.images,
        summary.done,
        summary.ok,
        summary.failures,
        summary.instances,
        summary.seconds,
        record and record.attempt,
        summary.created_at,
        summary.updated_at,
        record and record.finished_at and moment(record.finished_at),
        summary.problem,
        record and json.dumps(vars(record), ensure_ascii=False),
    ]


def _storable(value: Any) -> Any:
    """`value` as Arrow and DuckDB can hold it: in records, bytes of names that are not UTF-8 stand as halves of characters."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
