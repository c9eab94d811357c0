"""`masklake schedule`: masklake commands at set times, on one machine and without Kubernetes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.options.command import Command, Group
from masklake.jobs.schedule.add import add
from masklake.jobs.schedule.options import (
    ScheduleAddOptions,
    ScheduleHistoryOptions,
    ScheduleListOptions,
    ScheduleNameOptions,
    ScheduleRenderOptions,
    ScheduleServeOptions,
    ScheduleShowOptions,
)
from masklake.jobs.schedule.render.kubernetes import render
from masklake.jobs.schedule.views import history, list_, local, say, show

if TYPE_CHECKING:
    from masklake.jobs.schedule.runner import Runner
    from masklake.jobs.schedule.store import Firing, Store

SUMMARY = "run commands at set times: add, list, show, pause, resume, remove, run-now, history, serve, render"
DESCRIPTION = """\
A schedule is a masklake command and when to run it: a cron expression in a time zone, or an interval. `masklake
schedule serve` is the daemon that runs them; infra/systemd/masklake-schedule.service keeps it running.

  - Schedules and their history are in one SQLite file, and logs beside it. A daemon that is killed and restarted
    loses nothing: a job that it was running is recorded as interrupted and resumed; a schedule that came due
    meanwhile runs once, however often it was missed (unless it is later than --deadline); and no time fires twice,
    even if the clock is set back.
  - A job holds a lock in its lake, LAKE/locks/COMMAND.json, while it runs. While another process, on any machine,
    holds it, a firing is refused and recorded as refused. If the holder died, the lock is free again after a minute
    without a sign of life. A job that loses its lock is stopped.
  - When the daemon ends, it sends its jobs SIGTERM; `masklake segment` then stops so that the next attempt can
    resume it.

The outcomes of a firing: ok · failed · timed-out · lost (its lock) · refused (overlap) · missed (too late) ·
coalesced (a later one stands for it) · stopped (with the daemon) · interrupted (the daemon was killed)."""
EPILOG = """\
examples:
  masklake schedule add nightly --cron "0 2 * * *" --timezone Europe/Berlin --retries 3 -- train s3://lake --promote
  masklake schedule add fresh --every 15m -- segment s3://photos/ s3://lake --model production
  masklake schedule serve
  masklake schedule history nightly
  masklake schedule render nightly --target kubernetes | kubectl apply -f -

masklake schedule ACTION --help tells more of each"""

_DESCRIPTIONS = {
    "add": """\
Add a schedule. The masklake command that it runs stands after --, and is checked now. It runs in this folder.

A cron expression has five fields (minute hour day month weekday; names and ranges, 0 and 7 are Sunday), or six with
seconds before them. Where the clock is set forward, a time that does not exist runs an hour later: 02:30 at 03:30.
Where it is set back, a job of certain hours runs once, the first time; one of every hour runs in both.""",
    "run-now": """\
Run the command once, now. If a daemon serves the store, the daemon starts it within a second; otherwise it is run here, with
its retries, and the exit code is 0 when it ended well.""",
    "serve": """\
Run every command when it is due, until SIGTERM or Ctrl-C: then running jobs are stopped, and the next daemon resumes them.
One daemon serves a store. Prints one line of name=value pairs for each event.""",
}


def pause(options: ScheduleNameOptions, store: Store) -> int:
    """`masklake schedule pause`."""
    store.schedule(options.name)
    changed = store.set_paused(options.name, True, None)
    say(f"{options.name} is paused{'' if changed else ' already'}; masklake schedule resume {options.name}")
    return ExitCode.DONE


def resume(options: ScheduleNameOptions, store: Store) -> int:
    """`masklake schedule resume`."""
    from masklake.jobs.schedule.runner import utcnow
    from masklake.jobs.schedule.store import utc

    schedule = store.schedule(options.name)
    following = schedule.timing.after(utcnow())
    store.set_paused(options.name, False, utc(following) if following else None)
    say(f"{options.name} fires next at {local(store.schedule(options.name))}")
    return ExitCode.DONE


def remove(options: ScheduleNameOptions, store: Store) -> int:
    """`masklake schedule remove`."""
    from masklake.jobs.schedule.store import RUNNING

    store.schedule(options.name)
    store.remove(options.name)
    runs = any(firing.schedule == options.name for firing in store.in_state(RUNNING))
    say(f"{options.name} is removed{'; what runs of it runs on to its end' if runs else ''}")
    return ExitCode.DONE


def run_now(options: ScheduleNameOptions, store: Store) -> int:
    """`masklake schedule run-now`."""
    from masklake.jobs.schedule.daemon import report, stopping
    from masklake.jobs.schedule.runner import Runner
    from masklake.jobs.schedule.serving import StoreServedError, server, serving
    from masklake.jobs.schedule.transitions import ask

    store.schedule(options.name)
    runner = Runner(store=store, say=report)
    try:
        with serving(store), stopping(runner.stop):
            runner.recover()
            return _through(runner, ask(store, options.name, runner.now()))
    except StoreServedError:
        ask(store, options.name, runner.now())
        say(
            f"{options.name}: asked of the daemon ({server(store) or 'which has just ended'}); masklake schedule history {options.name}"
        )
        return ExitCode.DONE


def _through(runner: Runner, firing: Firing) -> int:
    from masklake.jobs.schedule.store import OK, moment

    following: Firing | None = firing
    while following is not None:
        wait = (moment(following.due_at) - runner.now()).total_seconds()
        if runner.stop.wait(max(0.0, wait)):
            return ExitCode.STOPPED
        result = runner.attempt(following.id)
        state, following = result or ("", None)
        if state == OK:
            return ExitCode.DONE
    return ExitCode.FAILED


def serve(options: ScheduleServeOptions, store: Store) -> int:
    """`masklake schedule serve`."""
    from masklake.jobs.schedule.daemon import Daemon, report, serve_once, stopping
    from masklake.jobs.schedule.metrics import metrics_served
    from masklake.jobs.schedule.runner import Runner

    runner = Runner(store=store, say=report, ttl=float(options.lock_seconds))
    with stopping(runner.stop):
        if options.once:
            return ExitCode.FAILED if serve_once(runner) else ExitCode.DONE
        with metrics_served(store, options.metrics_host, options.metrics_port):
            Daemon(runner).serve()
    return ExitCode.DONE


def _action(
    name: str,
    action: Callable[[Any, Store], int],
    options: type[Any],
    summary: str,
    *,
    makes: bool = False,
    usage: str | None = None,
) -> Command:
    """An action on the store; with `makes` the store is created if there is none."""

    def run(options: Any) -> int:
        from masklake.jobs.schedule.store import Store, default_path

        path = options.where.store
        return action(options, Store(Path(path) if path else default_path(), make=makes))

    return Command(
        summary=summary, description=_DESCRIPTIONS.get(name), options=options, run=run, usage=usage
    )


COMMAND = Group(
    summary=SUMMARY,
    description=DESCRIPTION,
    epilog=EPILOG,
    actions={
        "add": _action(
            "add",
            add,
            ScheduleAddOptions,
            "add a schedule",
            makes=True,
            usage="NAME (--cron EXPRESSION | --every SPAN) [options] -- COMMAND …",
        ),
        "list": _action(
            "list", list_, ScheduleListOptions, "every schedule, when it fires next, and how it went"
        ),
        "show": _action("show", show, ScheduleShowOptions, "one schedule in full"),
        "pause": _action("pause", pause, ScheduleNameOptions, "fire no more until it is resumed"),
        "resume": _action("resume", resume, ScheduleNameOptions, "fire again, from the next time on"),
        "remove": _action("remove", remove, ScheduleNameOptions, "forget a schedule; its history stays"),
        "run-now": _action("run-now", run_now, ScheduleNameOptions, "fire once, now"),
        "history": _action("history", history, ScheduleHistoryOptions, "what became of the firings"),
        "serve": _action("serve", serve, ScheduleServeOptions, "the daemon: fire what comes due", makes=True),
        "render": _action(
            "render",
            render,
            ScheduleRenderOptions,
            "the schedule as a manifest for Kubernetes, or as systemd units",
        ),
    },
)
