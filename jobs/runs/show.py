"""`masklake runs show`: everything about one run."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.options.command import Command
from masklake.jobs.options.declare import Options, argument, included
from masklake.jobs.options.parser import as_arguments
from masklake.jobs.options.shared import StorageOptions, json_flag, lake_argument
from masklake.jobs.runs.listing import STATE_STYLES, as_json, images_text, remark_on
from masklake.jobs.terminal import log_lines
from masklake.jobs.terminal.json import print_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from masklake.pipeline.lake.lake import Lake
    from masklake.pipeline.lake.run_record import RunRecord
    from masklake.pipeline.lake.run_summary import RunSummary
    from rich.console import Console

SUMMARY = "show one run or training of a lake in full"
DESCRIPTION = """\
Show one run: its options, where its time went, what failed and why, and how to go on if it is not complete. Or one
training: what it learnt from, its figures, and whether it was promoted and why."""
EPILOG = """\
examples:
  masklake runs show s3://lake last
  masklake runs show s3://lake 20261122T235416-3fa9c1 --json"""

_REASONS = 10
_FAILURES = """
    select status, error, count(*) as images, min(uri) as example from errors
    group by all order by images desc, status, error
"""


@dataclass(frozen=True, kw_only=True)
class RunsShowOptions(Options):
    """The options of `masklake runs show`."""

    lake: str = lake_argument()
    run: str = argument("RUN", help="the id of a run or training; `last` is the newest")
    json: bool = json_flag("one object")
    storage: StorageOptions = included(StorageOptions)


def run(options: RunsShowOptions) -> int:
    """Show a run. Raises UserError when there is no such run, or the lake cannot be read."""
    from masklake.jobs.query.database import Database
    from masklake.pipeline.lake.lake import Lake
    from masklake.pipeline.lake.run_summary import RunSummary

    lake = Lake(options.lake, options.storage.open())
    trainings = lake.training_ids()
    id_ = max([*lake.run_ids()[:1], *trainings[:1]], default=None) if options.run == "last" else options.run
    if id_ in trainings:
        _show_training(lake, id_, options)
        return ExitCode.DONE
    id_ = lake.resolve(id_ or "last")
    [run] = lake.runs([id_])
    summary = RunSummary.of(run)
    with Database(lake, run=id_) as database:
        failures = (
            database.rows(f"{_FAILURES} limit {_REASONS + 1}")
            if summary.failures or run.record is None
            else []
        )
    if options.json:
        print_json(_as_json(summary, run.record, failures))
    else:
        _print_run(lake, summary, run.record, failures, as_arguments(options.storage))
    return ExitCode.DONE


COMMAND = Command(summary=SUMMARY, description=DESCRIPTION, epilog=EPILOG, options=RunsShowOptions, run=run)


def _show_training(lake: Lake, run: str, options: RunsShowOptions) -> None:
    from masklake.jobs.runs import training_summary
    from masklake.jobs.terminal.tables import plain_console

    [summary] = training_summary.of_lake(lake, [run])
    if options.json:
        print_json({"summary": summary.as_json(), "record": summary.record and asdict(summary.record)})
        return
    console = plain_console()
    _print_facts(console, summary.facts(), summary.state)
    if line := summary.next_step(lake.uri, as_arguments(options.storage)):
        console.print(line, soft_wrap=True)


def _as_json(
    summary: RunSummary, record: RunRecord | None, failures: list[tuple[Any, ...]]
) -> dict[str, Any]:
    names = ("status", "error", "images", "example")
    return {
        "summary": as_json(summary),
        "record": record and asdict(record),
        "failures": [dict(zip(names, row, strict=True)) for row in failures],
    }


def _print_run(
    lake: Lake,
    summary: RunSummary,
    record: RunRecord | None,
    failures: list[tuple[Any, ...]],
    storage: list[str],
) -> None:
    from masklake.jobs.terminal.tables import plain_console

    console = plain_console()
    _print_facts(console, _facts(summary, record), summary.state_text)
    if record:
        _print_stages(console, record)
    if failures:
        _print_failures(console, failures)
    for line in _next_steps(lake, summary, record, storage):
        console.print(line, soft_wrap=True)


def _print_facts(console: Console, facts: Iterator[tuple[str, str]], state: str) -> None:
    from masklake.jobs.terminal.text import one_line
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(name, Text(one_line(value), STATE_STYLES.get(state, "red") if name == "state" else ""))
    console.print(table)


def _facts(summary: RunSummary, record: RunRecord | None) -> Iterator[tuple[str, str]]:
    from masklake.jobs.terminal.text import duration

    yield "run", summary.run
    yield "state", summary.state_text
    if remark := remark_on(summary):
        yield "because", remark
    if record is None:
        return
    yield "command", shlex.join(record.command)
    yield "source", record.source
    yield "model", summary.model or "-"
    classes = record.model.get("classes") or []
    yield "classes", f"{len(classes)}: {', '.join(map(str, classes))}" if classes else "-"
    yield "options", _pairs(record.options)
    yield "selection", _pairs({name: value for name, value in record.selection.items() if value})
    yield "versions", _pairs(record.versions)
    yield "where", f"{record.host}, process {record.pid}, attempt {record.attempt}"
    started = f"{summary.created_at:%Y-%m-%d %H:%M:%S} UTC" if summary.created_at else record.created_at
    yield "started", started
    yield "took", f"{duration(record.seconds)}{f' ({summary.rate:.1f} images/s)' if summary.rate else ''}"
    yield "images", images_text(summary)
    for name, text in (("covered", "covered by earlier runs"), ("ignored", "did not look like images")):
        if record.manifest.get(name):
            yield "", f"{_grouped(record.manifest[name])} {text}"
    for reason, lines in record.manifest.get("left_out", {}).items():
        yield "", f"left out {_grouped(lines)} {reason}"
    yield "by status", ", ".join(f"{status} {_grouped(n)}" for status, n in record.counts.items()) or "-"
    yield "instances", f"{record.instances:,}"
    if record.verification is not None:
        yield "proof", _pairs(record.verification)


def _grouped(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items()) or "-"


def _print_stages(console: Console, record: RunRecord) -> None:
    """Where the time went: the seconds of all workers of a stage together."""
    from masklake.jobs.terminal.tables import ruled_table
    from masklake.jobs.terminal.text import printable

    stages = {
        name: {figure: float(value) for figure, value in figures.items() if isinstance(value, int | float)}
        for name, figures in record.stages.items()
        if isinstance(figures, dict)
    }
    total = sum(figures.get("seconds", 0.0) for figures in stages.values())
    if not total:
        return
    table = ruled_table(("stage",), ("images", "worker s", "share", "CPU s", "idle s", "ms/image", "MB"))
    for name, figures in stages.items():
        seconds, images = figures.get("seconds", 0.0), figures.get("images", 0.0)
        table.add_row(
            printable(name),
            f"{images:,.0f}",
            f"{seconds:,.1f}",
            f"{seconds / total:.0%}",
            f"{figures['cpu_seconds']:,.1f}" if "cpu_seconds" in figures else "-",
            f"{figures['idle_seconds']:,.1f}" if "idle_seconds" in figures else "-",
            f"{1000 * seconds / images:,.1f}" if images else "-",
            f"{figures['bytes'] / 1e6:,.1f}" if "bytes" in figures else "-",
        )
    console.print()
    console.print(table)


def _print_failures(console: Console, failures: list[tuple[Any, ...]]) -> None:
    from masklake.jobs.terminal.tables import ruled_table
    from masklake.jobs.terminal.text import one_line

    table = ruled_table(("images", "status", "reason", "such as"), wrap=True)
    table.columns[0].justify = "right"
    for status, error, images, example in failures[:_REASONS]:
        table.add_row(f"{images:,}", one_line(status), one_line(error or "-"), one_line(example))
    console.print()
    console.print(table)
    if len(failures) > _REASONS:
        console.print("… and more reasons")


def _next_steps(
    lake: Lake, summary: RunSummary, record: RunRecord | None, storage: list[str]
) -> Iterator[str]:
    """What to do next; `storage`: the options that the lake's storage needs."""
    if record is not None and record.state != "complete" and (record.state != "running" or summary.silent_s):
        yield log_lines.go_on(["segment", record.source, lake.uri, "--resume", summary.run, *storage])
    if summary.failures:
        sql = "select uri, status, error from errors"
        query = ["masklake", "query", sql, "--lake", lake.uri, "--run", summary.run, *storage]
        yield f"all failures:  {shlex.join(query)}"
