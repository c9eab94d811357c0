"""`masklake schedule list`, `show` and `history`."""

from __future__ import annotations

import dataclasses
import shlex
from typing import TYPE_CHECKING, Any

from masklake.jobs.exit_codes import ExitCode

if TYPE_CHECKING:
    from masklake.jobs.schedule.options import (
        ScheduleHistoryOptions,
        ScheduleListOptions,
        ScheduleShowOptions,
    )
    from masklake.jobs.schedule.store import Firing, Schedule, Store

_STYLES = {"ok": "green", "running": "cyan", "waiting": "cyan", "coalesced": ""}


def say(text: str) -> None:
    """One line for people."""
    from masklake.jobs.terminal.tables import plain_console
    from masklake.jobs.terminal.text import one_line

    plain_console().print(one_line(text), soft_wrap=True)


def local(schedule: Schedule) -> str:
    """When the schedule fires next, by its own clock."""
    from masklake.jobs.schedule.cron import zone
    from masklake.jobs.schedule.store import moment

    if schedule.paused:
        return "paused"
    if schedule.next_at is None:
        return "never again"
    return f"{moment(schedule.next_at).astimezone(zone(schedule.timezone)):%Y-%m-%d %H:%M:%S %Z}"


def when(schedule: Schedule) -> str:
    """The expression or interval."""
    if schedule.every:
        return f"every {schedule.every} s"
    return f"{schedule.cron}" + (f" {schedule.timezone}" if schedule.timezone != "UTC" else "")


def list_(options: ScheduleListOptions, store: Store) -> int:
    """Every schedule."""
    from masklake.jobs.schedule.serving import server
    from masklake.jobs.terminal.json import print_json

    schedules = store.schedules()
    last = {schedule.name: next(iter(store.history(schedule.name, 1)), None) for schedule in schedules}
    if options.json:
        print_json(
            [
                _facts(schedule) | {"last": last[schedule.name] and _firing_facts(last[schedule.name])}
                for schedule in schedules
            ]
        )
        return ExitCode.DONE
    served_by = server(store)
    if schedules:
        _table(schedules, last)
    say(f"served by {served_by}" if served_by else f"no daemon serves {store.path}: masklake schedule serve")
    return ExitCode.DONE


def _table(schedules: list[Schedule], last: dict[str, Firing | None]) -> None:
    from masklake.jobs.terminal.tables import plain_console, print_rows
    from masklake.jobs.terminal.text import printable
    from rich.text import Text

    rows = []
    for schedule in schedules:
        state = (firing := last[schedule.name]) and firing.state
        rows.append(
            (
                schedule.name,
                printable(when(schedule)),
                local(schedule),
                Text(state or "-", _STYLES.get(state or "", "red")),
                printable(shlex.join(schedule.command)),
            )
        )
    columns = ("schedule", "when", "next", "last", "command")
    print_rows(plain_console(), rows, columns, dispensable=("when", "command", "next"), cut="command")


def show(options: ScheduleShowOptions, store: Store) -> int:
    """One schedule, as JSON."""
    from masklake.jobs.schedule.command_line import lock_uri, parse
    from masklake.jobs.schedule.serving import server
    from masklake.jobs.schedule.store import moment, utc
    from masklake.jobs.terminal.json import print_json
    from masklake.pipeline.errors import UserError

    schedule = store.schedule(options.name)
    try:
        lock: str | None = lock_uri(parse(schedule.command, schedule.cwd), schedule.lock)
        problem = None
    except UserError as error:  # a command that this version has no more
        lock, problem = None, str(error)
    following: list[str] = []
    fires_at = moment(schedule.next_at) if schedule.next_at else None
    while fires_at is not None and len(following) < 3:
        following.append(utc(fires_at))
        fires_at = schedule.timing.after(fires_at)
    print_json(
        _facts(schedule)
        | {"lock": lock, "problem": problem, "next": following, "logs": str(store.logs / schedule.name)}
        | {
            "served_by": server(store),
            "history": [_firing_facts(firing) for firing in store.history(schedule.name, 5)],
        }
    )
    return ExitCode.DONE


def _facts(schedule: Schedule) -> dict[str, Any]:
    from masklake.jobs.schedule.hooks import without_path

    facts = dataclasses.asdict(schedule)
    if schedule.on_failure_webhook is not None:
        facts["on_failure_webhook"] = without_path(schedule.on_failure_webhook)
    return facts


def _firing_facts(firing: Firing | None) -> dict[str, Any]:
    facts = {} if firing is None else dataclasses.asdict(firing)
    return {name: value for name, value in facts.items() if name not in ("id", "born", "token")}


def history(options: ScheduleHistoryOptions, store: Store) -> int:
    """What became of the firings."""
    from masklake.jobs.terminal.json import print_json
    from masklake.jobs.terminal.tables import plain_console, print_rows
    from masklake.jobs.terminal.text import elide, printable
    from rich.text import Text

    firings = store.history(options.name, options.limit)
    if options.name is not None and not firings:
        store.schedule(options.name)  # of one that was removed there may be a history, of others not
    if options.json:
        print_json([_firing_facts(firing) for firing in firings])
        return ExitCode.DONE
    if not firings:
        say("nothing has fired yet")
        return ExitCode.DONE
    rows = []
    for firing in firings:
        missed = f" (+{firing.missed} missed)" if firing.missed else ""
        detail = " ".join(filter(None, (firing.detail, firing.hook and f"[{firing.hook}]")))
        rows.append(
            (
                printable(firing.schedule),
                f"{firing.scheduled_at[:19].replace('T', ' ')}{missed}",
                f"{firing.attempt}{' by hand' if firing.manual else ''}",
                Text(firing.state, _STYLES.get(firing.state, "red")),
                firing.run or "-",
                printable(elide(detail, 120)) or "-",
                "-" if firing.seconds is None else f"{firing.seconds:.1f} s",
            )
        )
    columns = ("schedule", "time (UTC)", "attempt", "outcome", "run", "detail")
    less = ("run", "took", "attempt", "detail", "time (UTC)")
    print_rows(plain_console(), rows, columns, ("took",), dispensable=less, cut="detail")
    return ExitCode.DONE
