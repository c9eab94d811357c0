"""`masklake jobs`: what was submitted to a cluster; follow it, stop it."""

from __future__ import annotations

import argparse
import datetime
import time
from typing import TYPE_CHECKING, Any

from masklake.jobs.submit.job_server import ADDRESS_HELP, STOP_WAIT_S
from masklake.jobs.terminal.text import note

if TYPE_CHECKING:
    from masklake.jobs.submit.job_server import JobServer

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

_ACTIONS = {
    "list": "every job, newest first",
    "status": "one job: its state, its command, its run",
    "logs": "what a job has printed",
    "stop": "ask a job to stop, and wait until it has",
}
_STYLES = {"succeeded": "green", "running": "cyan", "pending": "cyan", "stopped": "yellow"}
_SLACK_S = 15


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions of `masklake jobs`."""
    parser.add_argument("--address", metavar="URL", help=ADDRESS_HELP)
    parser.add_argument("--json", action="store_true", help="the list as one JSON array")
    actions = parser.add_subparsers(metavar="ACTION", title="actions (default list)", dest="action")
    for name, summary in _ACTIONS.items():
        sub = actions.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name != "list":
            sub.add_argument("job", metavar="ID", help="the job's id")
        if name == "logs":
            sub.add_argument(
                "-f", "--follow", action="store_true", help="go on until the job ends, and exit as it does"
            )
        if name in ("list", "status"):
            sub.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="as JSON")
        sub.add_argument("--address", metavar="URL", default=argparse.SUPPRESS, help=ADDRESS_HELP)
        sub.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
        )


def run(args: argparse.Namespace) -> int:
    """Run the action. Raises UserError when the cluster or the job is not there; the exit code otherwise."""
    from masklake.jobs.submit.job_server import JobServer

    server = JobServer(args.address)
    actions = {"status": _status, "logs": _logs, "stop": _stop}
    return actions.get(args.action, _list)(args, server)


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


def _list(args: argparse.Namespace, server: JobServer) -> int:
    from masklake.jobs.terminal.json import print_json
    from masklake.jobs.terminal.tables import plain_console, ruled_table
    from masklake.jobs.terminal.text import duration, elide, one_line
    from rich.text import Text

    found = [_facts(info) for info in server.all()]
    if args.json:
        print_json(found)
        return 0
    console = plain_console()
    if not found:
        console.print(f"no jobs at {server.address}; masklake submit starts one", soft_wrap=True)
        return 0
    table = ruled_table(("job", "state", "submitted", "time", "command"))
    for facts in found:
        table.add_row(
            one_line(facts["job"]),
            Text(facts["state"], style=_STYLES.get(facts["state"], "red")),
            facts["submitted"] or "",
            duration(facts["seconds"]) if facts["seconds"] is not None else "",
            elide(one_line(facts["command"]), 120),
        )
    console.print(table)
    return 0


def _status(args: argparse.Namespace, server: JobServer) -> int:
    from masklake.jobs.submit import follow
    from masklake.jobs.terminal.json import print_json
    from masklake.jobs.terminal.tables import plain_console
    from masklake.jobs.terminal.text import duration, one_line

    info = server.info(args.job)
    run_id = follow.run_of(server.logs(args.job))
    facts = _facts(info) | {"run": run_id}
    if args.json:
        print_json(facts)
        return 0
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
    return 0


def _logs(args: argparse.Namespace, server: JobServer) -> int:
    from masklake.jobs.submit import follow
    from masklake.jobs.submit.command import waited

    if args.follow:
        return waited(server, args.job)
    for line in server.logs(args.job).splitlines():
        follow.show(line)
    return 0


def _stop(args: argparse.Namespace, server: JobServer) -> int:
    from masklake.jobs.submit import follow

    before = server.info(args.job)
    if before.status in follow.ENDED:
        note(f"{args.job} has ended already: {before.status.value.lower()}")
        return 0
    server.stop(args.job)
    info = follow.wait_for_end(
        server,
        args.job,
        STOP_WAIT_S + _SLACK_S,
        lambda spent: note(f"waiting for {args.job} to stop ({spent:.0f} s)"),
    )
    logs = server.logs(args.job)
    if info.status not in follow.ENDED:
        note(f"{args.job} has not stopped yet; masklake jobs status {args.job}")
        return 1
    note(f"{args.job} is {info.status.value.lower()}")
    again, run_id = follow.resuming(logs), follow.run_of(logs)
    if again:
        note(f"go on with: masklake submit{server.option} {again}")
    elif run_id:
        note(f"run {run_id} was killed: in a minute it can be resumed with --resume {run_id}")
    return 0
