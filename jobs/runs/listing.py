"""`masklake runs list`: the runs and trainings of a lake."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.options.declare import Options, included
from masklake.jobs.options.shared import StorageOptions, json_flag, lake_argument

if TYPE_CHECKING:
    from masklake.jobs.runs.training_summary import TrainingSummary
    from masklake.pipeline.lake.run_summary import RunSummary
    from rich.console import Console

STATE_STYLES = {
    "complete": "green",
    "running": "cyan",
    "trained": "cyan",
    "stopped": "yellow",
    "incomplete": "yellow",
}


@dataclass(frozen=True, kw_only=True)
class RunsListOptions(Options):
    """The options of `masklake runs`."""

    lake: str = lake_argument()
    json: bool = json_flag("an array with an object per run, and per training")
    storage: StorageOptions = included(StorageOptions)


def run(options: RunsListOptions) -> int:
    """List the runs. Raises UserError when the lake cannot be read."""
    from masklake.jobs.runs import training_summary
    from masklake.jobs.terminal.tables import plain_console
    from masklake.pipeline.lake.lake import Lake
    from masklake.pipeline.lake.run_summary import RunSummary

    lake = Lake(options.lake, options.storage.open())
    lake.require()
    summaries = [RunSummary.of(run) for run in lake.runs()]
    trainings = training_summary.of_lake(lake)
    if options.json:
        from masklake.jobs.terminal.json import print_json

        print_json([as_json(summary) for summary in summaries] + [summary.as_json() for summary in trainings])
        return ExitCode.DONE
    console = plain_console()
    if summaries or not trainings:
        _print_runs(console, summaries)
    if trainings:
        _print_trainings(console, trainings)
    return ExitCode.DONE


def as_json(summary: RunSummary) -> dict[str, Any]:
    """A summary for `--json`: times in ISO 8601, durations in seconds."""
    return {
        "run": summary.run,
        "kind": "segment",
        "state": summary.state,
        "silent_seconds": summary.silent_s,
        "model": summary.model,
        "images": summary.images,
        "listed": summary.listed,
        "done": summary.done,
        "ok": summary.ok,
        "failures": summary.failures,
        "instances": summary.instances,
        "images_per_second": summary.rate,
        "seconds": summary.seconds,
        "created_at": summary.created_at and summary.created_at.isoformat(),
        "updated_at": summary.updated_at and summary.updated_at.isoformat(),
        "problem": summary.problem,
    }


def _print_trainings(console: Console, summaries: list[TrainingSummary]) -> None:
    from masklake.jobs.terminal.tables import print_rows
    from masklake.jobs.terminal.text import duration, one_line, printable
    from masklake.pipeline.lake.run_summary import moment
    from rich.text import Text

    rows = []
    for summary in summaries:
        record = summary.record
        position, started = (record.position, moment(record.created_at)) if record else ({}, None)
        ap = ((record.figures if record else {}).get("mask") or {}).get("AP")
        rows.append(
            (
                printable(summary.run),
                Text(printable(summary.state), STATE_STYLES.get(summary.state, "red")),
                printable((record and record.model) or "-"),
                summary.verdict,
                f"{position.get('step', 0):,}",
                "-" if ap is None else f"{ap:.3f}",
                "-" if started is None else f"{started:%Y-%m-%d %H:%M:%S}",
                duration(position["seconds"]) if "seconds" in position else "-",
            )
        )
    left = ("training", "state", "model", "outcome")
    right = ("steps", "mask AP", "started (UTC)", "trained for")
    less = ("started (UTC)", "trained for", "steps", "model", "mask AP", "outcome")
    print_rows(console, rows, left, right, dispensable=less)
    for summary in summaries:
        if summary.problem:
            console.print(one_line(f"{summary.run}: {summary.problem}"), soft_wrap=True)


def _print_runs(console: Console, summaries: list[RunSummary]) -> None:
    from masklake.jobs.terminal.tables import print_rows
    from masklake.jobs.terminal.text import duration, one_line, printable
    from rich.text import Text

    if not summaries:
        console.print("no runs yet")
        return
    rows = [
        (
            printable(summary.run),
            Text(printable(summary.state_text), STATE_STYLES.get(summary.state_text, "red")),
            printable(summary.model or "-"),
            images_text(summary),
            Text(f"{summary.failures:,}", "red" if summary.failures else ""),
            "-" if summary.instances is None else f"{summary.instances:,}",
            "-" if summary.rate is None else f"{summary.rate:.1f}",
            "-" if summary.created_at is None else f"{summary.created_at:%Y-%m-%d %H:%M:%S}",
            "-" if summary.seconds is None else duration(summary.seconds),
        )
        for summary in summaries
    ]
    right = ("images", "failures", "instances", "images/s", "started (UTC)", "took")
    less = ("started (UTC)", "images/s", "took", "model", "instances", "failures", "images")
    print_rows(console, rows, ("run", "state", "model"), right, dispensable=less)
    for summary in summaries:
        if remark := remark_on(summary):
            console.print(one_line(f"{summary.run}: {remark}"), soft_wrap=True)


def images_text(summary: RunSummary) -> str:
    """Images done of all, with a + while the source is still being listed."""
    if summary.images is None:
        return f"{summary.done:,}"
    return f"{summary.done:,} / {summary.images:,}{'' if summary.listed else '+'}"


def remark_on(summary: RunSummary) -> str | None:
    """What is wrong with the run, if anything is."""
    from masklake.jobs.terminal.text import duration

    if summary.silent_s is not None:
        return f"no sign of life for {duration(summary.silent_s)}"
    return summary.problem
