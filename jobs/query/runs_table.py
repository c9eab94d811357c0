"""The table `runs` of a query: a row for each run, whatever the state of its record."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
from masklake.pipeline.lake.lake import Run
from masklake.pipeline.lake.run_summary import RunSummary

_TIME = pa.timestamp("us", "UTC")
_RUNS = pa.schema(
    [(name, pa.string()) for name in ("run", "state", "source", "model")]
    + [(name, pa.int64()) for name in ("images", "done", "ok", "failures", "instances")]
    + [("seconds", pa.float64()), ("attempt", pa.int32()), ("created_at", _TIME), ("updated_at", _TIME)]
    + [(name, pa.string()) for name in ("finished_at", "error", "record")]
)
MAKE_RUNS = """
    create table runs as
    select * replace (finished_at::timestamptz as finished_at, record::json as record) from own_rows
"""
"""Makes the table of what `runs_table` returns, registered as own_rows."""


def runs_table(runs: Iterable[Run]) -> pa.Table:
    """The rows, with the columns that DuckDB has a type of its own for as text."""
    rows = [_run_row(run) for run in runs]
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
        record and record.finished_at,
        summary.problem,
        record and json.dumps(vars(record)),
    ]
