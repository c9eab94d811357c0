"""`masklake jobs`: what was submitted to a cluster; follow it, stop it."""

from __future__ import annotations

import datetime
import time
from dataclasses import dataclass
from typing import Any

from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.options.command import Command, Group
from masklake.jobs.options.declare import Options, argument, flag, option
from masklake.jobs.options.shared import json_flag
from masklake.jobs.submit.job_server import ADDRESS_HELP, STOP_WAIT_S
from masklake.jobs.terminal import log_lines
from masklake.jobs.terminal.text import note

SUMMARY = "the jobs of a cluster: list, status, logs, stop"
DESCRIPTION = """\
The jobs that were submitted to a Ray cluster, by `masklake submit` or otherwise. Ray forgets them with the cluster; what
they did is in the lake (`masklake runs`)."""
EPILOG = """\
examples:
  masklake jobs --address http://head:8265
  masklake jobs logs ID -f
  masklake jobs status ID
  masklake jobs stop ID            # it stops as at Ctrl-C, and says what resumes it

exit codes: 0 · 2 a mistake that the message names · of logs -f those of `masklake submit --wait`"""

_STYLES = {"succeeded": "green", "running": "cyan", "pending": "cyan", "stopped": "yellow"}
_SLACK_S = 15


@dataclass(frozen=True, kw_only=True)
class JobsListOptions(Options):
    """The options of `masklake jobs`."""

    address: str | None = option(str, "URL", help=ADDRESS_HELP)
    json: bool = json_flag("an array with an object per job")


@dataclass(frozen=True, kw_only=True)
class JobsStatusOptions(Options):
    """The options of `masklake jobs status`."""

    job: str = argument("ID", help="the id that `masklake submit` printed")
    address: str | None = option(str, "URL", help=ADDRESS_HELP)
    json: bool = json_flag("one object")


@dataclass(frozen=True, kw_only=True)
class JobsLogsOptions(Options):
    """The options of `masklake jobs logs`."""

    job: str = argument("ID", help="the id that `masklake submit` printed")
    follow: bool = flag(
        short=("-f",), help="print new output until the job ends, and exit with its exit code"
    )
    address: str | None = option(str, "URL", help=ADDRESS_HELP)


@dataclass(frozen=True, kw_only=True)
class JobsStopOptions(Options):
    """The options of `masklake jobs stop`."""

    job: str = argument("ID", help="the id that `masklake submit` printed")
    address: str | None = option(str, "URL", help=ADDRESS_HELP)


def _facts(info: Any) -> dict[str, Any]:
    metadata = info.metadata or {}
    return {
        "job": info.submission_id,
        "state": str(info.status.value).lower(),
        "command": metadata.get("command") or info.entrypoint,
        "submitted": _iso(info.start_time),
        "ended": _iso(info.end_time),
        "seconds": _seconds(info),
        "exit_code": info.driver_exit_code,
    }


def _iso(milliseconds: int | None) -> str | None:
    if not milliseconds:
        return None
    return datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC).isoformat(timespec="seconds")


def _seconds(info: Any) -> float | None:
    if not info.start_time:
        return None
    return round((info.end_time or time.time() * 1000) / 1000 - info.start_time / 1000, 1)


def list_(options: JobsListOptions) -> int:
    """Every job, newest first."""
    from masklake.jobs.submit.job_server import JobServer
    from masklake.jobs.terminal.json import print_json
    from masklake.jobs.terminal.tables import plain_console, print_rows
    from masklake.jobs.terminal.text import duration, elide, one_line
    from rich.text import Text

    server = JobServer(options.address)

    jobs = [_facts(info) for info in server.all()]
    if options.json:
        print_json(jobs)
        return ExitCode.DONE
    console = plain_console()
    if not jobs:
        console.print(f"no jobs at {server.address}; masklake submit starts one", soft_wrap=True)
        return ExitCode.DONE
    rows = [
        (
            one_line(facts["job"]),
            Text(facts["state"], style=_STYLES.get(facts["state"], "red")),
            facts["submitted"] or "",
            duration(facts["seconds"]) if facts["seconds"] is not None else "",
            elide(one_line(facts["command"]), 120),
        )
        for facts in jobs
    ]
    columns = ("job", "state", "submitted", "time", "command")
    print_rows(console, rows, columns, dispensable=("submitted", "time", "command"), cut="command")
    return ExitCode.DONE


def status(options: JobsStatusOptions) -> int:
    """One job. Raises UserError where there is none."""
    from masklake.jobs.submit import follow
    from masklake.jobs.submit.job_server import JobServer
    from masklake.jobs.terminal.json import print_json
    from masklake.jobs.terminal.tables import plain_console
    from masklake.jobs.terminal.text import duration, one_line

    server = JobServer(options.address)
    info = server.info(options.job)
    run_id = log_lines.run_in(server.logs(options.job))
    facts = _facts(info) | {"run": run_id}
    if options.json:
        print_json(facts)
        return ExitCode.DONE
    lines = {"job": facts["job"], "state": facts["state"], "command": facts["command"], "run": run_id}
    lines |= {"submitted": facts["submitted"], "ended": facts["ended"]}
    lines["time"] = duration(facts["seconds"]) if facts["seconds"] is not None else None
    if facts["state"] == "pending":
        lines["waiting for"] = follow.pending(info)
    elif facts["state"] == "failed":
        lines["because"] = follow.reason(info)
    console = plain_console()
    for name, value in lines.items():
        if value is not None:
            console.print(f"{name + ':':<12} {one_line(value)}", soft_wrap=True)
    return ExitCode.DONE


def logs(options: JobsLogsOptions) -> int:
    """What a job has printed; the exit code of the job where it is followed."""
    from masklake.jobs.submit import follow
    from masklake.jobs.submit.command import waited
    from masklake.jobs.submit.job_server import JobServer

    server = JobServer(options.address)
    if options.follow:
        return waited(server, options.job)
    for line in server.logs(options.job).splitlines():
        follow.show(line)
    return ExitCode.DONE


def stop(options: JobsStopOptions) -> int:
    """Ask a job to stop, and wait until it has; FAILED where it has not yet."""
    from masklake.jobs.submit import follow
    from masklake.jobs.submit.job_server import JobServer

    server = JobServer(options.address)
    before = server.info(options.job)
    if before.status in follow.ENDED:
        note(f"{options.job} has ended already: {before.status.value.lower()}")
        return ExitCode.DONE
    server.stop(options.job)
    info = follow.wait_for_end(
        server,
        options.job,
        STOP_WAIT_S + _SLACK_S,
        lambda spent: note(f"waiting for {options.job} to stop ({spent:.0f} s)"),
    )
    logs = server.logs(options.job)
    if info.status not in follow.ENDED:
        note(f"{options.job} has not stopped yet; masklake jobs status {options.job}")
        return ExitCode.FAILED
    note(f"{options.job} is {info.status.value.lower()}")
    again, run_id = log_lines.resuming_in(logs), log_lines.run_in(logs)
    if again:
        note(f"go on with: masklake submit{server.option} {again}")
    elif run_id:
        note(f"run {run_id} was killed: in a minute it can be resumed with --resume {run_id}")
    return ExitCode.DONE


COMMAND = Group(
    summary=SUMMARY,
    description=DESCRIPTION,
    epilog=EPILOG,
    actions={
        "list": Command(summary="every job, newest first", options=JobsListOptions, run=list_),
        "status": Command(
            summary="one job: its state, its command, its run", options=JobsStatusOptions, run=status
        ),
        "logs": Command(summary="what a job has printed", options=JobsLogsOptions, run=logs),
        "stop": Command(
            summary="ask a job to stop, and wait until it has", options=JobsStopOptions, run=stop
        ),
    },
    usual="list",
)
