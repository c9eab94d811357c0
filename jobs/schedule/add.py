"""`masklake schedule add`: everything that can be wrong is told now, not at two in the morning."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from masklake.jobs.options import zero_or_more

if TYPE_CHECKING:
    from masklake.jobs.schedule.store import Store

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_MOST_S = 366 * 86400


def span(text: str) -> int:
    """A time span of whole seconds: 90, 30s, 15m, 2h, 1d."""
    match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text)
    value = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 1 <= value <= _MOST_S:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time span of up to a year; write 90, 30s, 15m, 2h or 1d"
        )
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `masklake schedule add`."""
    parser.usage = "masklake schedule add NAME (--cron EXPRESSION | --every SPAN) [options] -- COMMAND …"
    parser.add_argument("name", metavar="NAME", help="what to call it")
    parser.add_argument(
        "job", metavar="-- COMMAND", nargs="+", help="a command as after `masklake`, after --"
    )
    when = parser.add_mutually_exclusive_group(required=True)
    when.add_argument(
        "--cron", metavar="EXPRESSION", help="'0 2 * * *', '*/30 * * * * *' with seconds, @daily"
    )
    when.add_argument(
        "--every", type=span, metavar="SPAN", help="an interval, at whole multiples of it: 30s, 15m"
    )
    parser.add_argument(
        "--timezone",
        default="UTC",
        metavar="ZONE",
        help="of the expression: Europe/Berlin (default %(default)s)",
    )
    parser.add_argument(
        "--deadline",
        type=span,
        default=86400,
        metavar="SPAN",
        help="how late a time that was missed may be made up for (default 1d)",
    )
    parser.add_argument(
        "--retries",
        type=zero_or_more,
        default=0,
        metavar="N",
        help="attempts after one that failed (default 0)",
    )
    parser.add_argument(
        "--backoff",
        type=span,
        default=60,
        metavar="SPAN",
        help="wait before the first retry; it doubles with each, up to an hour (default 1m)",
    )
    parser.add_argument(
        "--timeout", type=span, metavar="SPAN", help="stop a job that runs longer (default: none)"
    )
    parser.add_argument(
        "--lock",
        metavar="NAME",
        help="the lock in the lake that the job takes (default: the command's name, as in train, labels-import)",
    )
    hook = parser.add_mutually_exclusive_group()
    hook.add_argument(
        "--on-failure-command",
        metavar="COMMAND",
        help="run when a firing did not end well and is not tried again; it finds MASKLAKE_SCHEDULE, MASKLAKE_OUTCOME, "
        "MASKLAKE_DETAIL, … in its environment. No shell: sh -c '…' for one",
    )
    hook.add_argument(
        "--on-failure-webhook",
        metavar="URL",
        help="POST the same as JSON; env:NAME takes the URL from the daemon's environment, for one that is a secret",
    )


def add(args: argparse.Namespace, store: Store) -> int:
    """Check a schedule and add it. Raises UserError for what could not work."""
    import dataclasses

    from masklake.jobs.schedule import hooks as schedule_hooks
    from masklake.jobs.schedule.command_line import lock_uri, parse
    from masklake.jobs.schedule.cron import zone
    from masklake.jobs.schedule.runner import utcnow
    from masklake.jobs.schedule.serving import server
    from masklake.jobs.schedule.store import Schedule, utc
    from masklake.jobs.schedule.views import local, say
    from masklake.pipeline.errors import UserError
    from masklake.pipeline.lake.registry import check_name

    check_name(args.name, "schedule")
    zone(args.timezone)
    if args.every and args.timezone != "UTC":
        raise UserError("--timezone: an interval has no time zone; leave it out, or write --cron")
    cwd = str(Path.cwd())
    job = parse(args.job, cwd)
    if args.lock is not None:
        check_name(args.lock, "lock")
        if job.lake is None:
            raise UserError(f"--lock {args.lock}: {job.text()} has no lake to keep a lock in; leave it out")
    schedule_hooks.check(args.on_failure_command, args.on_failure_webhook)
    schedule = Schedule(
        name=args.name,
        command=args.job,
        cron=args.cron,
        every=args.every,
        timezone=args.timezone,
        cwd=cwd,
        lock=args.lock,
        retries=args.retries,
        backoff=float(args.backoff),
        timeout=None if args.timeout is None else float(args.timeout),
        deadline=float(args.deadline),
        on_failure_command=args.on_failure_command,
        on_failure_webhook=args.on_failure_webhook,
        created_at=utc(),
    )
    following = schedule.timing.after(utcnow())
    schedule = dataclasses.replace(schedule, next_at=utc(following) if following else None)
    store.add(schedule)
    lock = lock_uri(job, args.lock)
    say(f"{args.name} added: {job.text()}, next at {local(schedule)}" + (f", under {lock}" if lock else ""))
    if server(store) is None:
        say("no daemon serves this store yet: masklake schedule serve")
    return 0
