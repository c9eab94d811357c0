"""`masklake schedule`: masklake commands at set times, on one machine and without Kubernetes."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masklake.jobs.options import positive
from masklake.jobs.schedule import add as schedule_add
from masklake.jobs.schedule import views as schedule_views
from masklake.jobs.schedule.render import kubernetes as schedule_render
from masklake.jobs.schedule.views import local, say

if TYPE_CHECKING:
    from masklake.jobs.schedule.runner import Runner
    from masklake.jobs.schedule.store import Firing, Store

SUMMARY = "run commands at set times: add, list, show, pause, resume, remove, run-now, history, serve, render"
DESCRIPTION = """\
A schedule is a masklake command and when to run it: a cron expression in a time zone, or an interval. `masklake
schedule serve` is the daemon that runs them; infra/systemd/masklake-schedule.service keeps it running.

  - Schedules and their history lie in one SQLite file, and logs beside it. A daemon that is killed and restarted
    loses nothing: what it was doing is recorded as interrupted and taken up again, what came due meanwhile is made
    up for once however often it came (unless it is later than --deadline), and no time is fired twice, even where
    the clock is set back.
  - A job takes a lock in its lake, LAKE/locks/COMMAND.json, and keeps it while it runs. A firing that finds it held,
    by whatever machine, is refused and recorded so. The lock of a holder that died is taken over once it has not
    been renewed for a minute. A job whose lock is lost is stopped.
  - With the daemon its jobs end: they are sent SIGTERM, by which `masklake segment` stops so that the next attempt
    goes on where it was.

What became of a firing: ok · failed · timed-out · lost (its lock) · refused (overlap) · missed (too late) ·
coalesced (a later one stands for it) · stopped (with the daemon) · interrupted (the daemon was killed)."""
EPILOG = """\
examples:
  masklake schedule add nightly --cron "0 2 * * *" --timezone Europe/Berlin --retries 3 -- train s3://lake --promote
  masklake schedule add fresh --every 15m -- segment s3://photos/ s3://lake --model production
  masklake schedule serve
  masklake schedule history nightly
  masklake schedule render nightly --target kubernetes | kubectl apply -f -

masklake schedule ACTION --help tells more of each"""

_ACTIONS = {
    "add": ("masklake.jobs.schedule.add", "add a schedule"),
    "list": ("masklake.jobs.schedule.views", "every schedule, when it fires next, and how it went"),
    "show": ("masklake.jobs.schedule.views", "one schedule in full"),
    "pause": ("masklake.jobs.schedule.command", "fire no more until it is resumed"),
    "resume": ("masklake.jobs.schedule.command", "fire again, from the next time on"),
    "remove": ("masklake.jobs.schedule.command", "forget a schedule; its history stays"),
    "run-now": ("masklake.jobs.schedule.command", "fire once, now"),
    "history": ("masklake.jobs.schedule.views", "what became of the firings"),
    "serve": ("masklake.jobs.schedule.command", "the daemon: fire what comes due"),
    "render": (
        "masklake.jobs.schedule.render.kubernetes",
        "the schedule as a manifest for Kubernetes, or as systemd units",
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions of `masklake schedule`."""
    arguments = {
        "add": schedule_add.add_arguments,
        "list": schedule_views.list_arguments,
        "show": _name,
        "pause": _name,
        "resume": _name,
        "remove": _name,
        "run-now": _name,
        "history": schedule_views.history_arguments,
        "serve": _serve_arguments,
        "render": schedule_render.add_arguments,
    }
    actions = parser.add_subparsers(metavar="ACTION", title="actions", dest="action", required=True)
    for name, (_, summary) in _ACTIONS.items():
        sub = actions.add_parser(
            name,
            help=summary,
            description=_DESCRIPTIONS.get(name, f"{summary[0].upper()}{summary[1:]}."),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        arguments[name](sub)
        sub.add_argument(
            "--store",
            type=Path,
            metavar="PATH",
            help="the SQLite file of the schedules (default schedules.db in $STATE_DIRECTORY, which systemd sets, or in ~/.local/state/masklake)",
        )
        sub.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
        )


_DESCRIPTIONS = {
    "add": """\
Add a schedule. The masklake command that it runs stands after --, and is checked now. It runs in this folder.

A cron expression has five fields (minute hour day month weekday; names and ranges, 0 and 7 are Sunday), or six with
seconds before them. Where the clock is set forward, a time that does not exist runs an hour later: 02:30 at 03:30.
Where it is set back, a job of certain hours runs once, the first time; one of every hour runs in both.""",
    "run-now": """\
Fire once, now. Where a daemon serves the store it does that within a second; otherwise it is done here, with its
retries, and the exit code is 0 when it ended well.""",
    "serve": """\
Fire what comes due, until SIGTERM or Ctrl-C: then running jobs are stopped, and the next daemon takes them up again.
One daemon serves a store. Prints a line of name=value an event.""",
}


def _name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the schedule's name")


def _serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--once",
        action="store_true",
        help="fire what is due, one after another, and exit: 1 if one did not end well",
    )
    parser.add_argument(
        "--lease-seconds",
        type=positive,
        default=60,
        metavar="S",
        help="how long a lock outlives a holder that died (default %(default)s)",
    )
    parser.add_argument(
        "--metrics-port",
        type=_port,
        metavar="PORT",
        help="answer Prometheus at http://127.0.0.1:PORT/metrics (default: no port is opened)",
    )
    parser.add_argument(
        "--metrics-host",
        default="127.0.0.1",
        metavar="HOST",
        help="the address that answers; others can read schedules' names and times there (default %(default)s)",
    )


def _port(text: str) -> int:
    number = positive(text)
    if number > 65535:
        raise argparse.ArgumentTypeError(f"{text}: is no port; give 1 to 65535")
    return number


def run(args: argparse.Namespace) -> int:
    """Run the action. Raises UserError for a mistake; the exit code otherwise."""
    from masklake.jobs.schedule.store import Store, default_path

    store = Store(args.store or default_path(), make=args.action in ("add", "serve"))
    module = importlib.import_module(_ACTIONS[args.action][0])
    action: Any = getattr(module, args.action.replace("-", "_") if args.action != "list" else "list_")
    code: int = action(args, store)
    return code


def pause(args: argparse.Namespace, store: Store) -> int:
    """`masklake schedule pause`."""
    store.schedule(args.name)
    changed = store.set_paused(args.name, True, None)
    say(f"{args.name} is paused{'' if changed else ' already'}; masklake schedule resume {args.name}")
    return 0


def resume(args: argparse.Namespace, store: Store) -> int:
    """`masklake schedule resume`."""
    from masklake.jobs.schedule.runner import utcnow
    from masklake.jobs.schedule.store import utc

    schedule = store.schedule(args.name)
    following = schedule.timing.after(utcnow())
    store.set_paused(args.name, False, utc(following) if following else None)
    say(f"{args.name} fires next at {local(store.schedule(args.name))}")
    return 0


def remove(args: argparse.Namespace, store: Store) -> int:
    """`masklake schedule remove`."""
    from masklake.jobs.schedule.store import RUNNING

    store.schedule(args.name)
    store.remove(args.name)
    runs = any(firing.schedule == args.name for firing in store.in_state(RUNNING))
    say(f"{args.name} is removed{'; what runs of it runs on to its end' if runs else ''}")
    return 0


def run_now(args: argparse.Namespace, store: Store) -> int:
    """`masklake schedule run-now`."""
    from masklake.jobs.schedule.daemon import report, stopping
    from masklake.jobs.schedule.runner import Runner
    from masklake.jobs.schedule.serving import StoreServedError, server, serving
    from masklake.jobs.schedule.transitions import ask

    store.schedule(args.name)
    runner = Runner(store=store, say=report)
    try:
        with serving(store), stopping(runner.stop):
            runner.recover()
            return _through(runner, ask(store, args.name, runner.now()))
    except StoreServedError:
        ask(store, args.name, runner.now())
        say(
            f"{args.name}: asked of the daemon ({server(store) or 'which has just ended'}); masklake schedule history {args.name}"
        )
        return 0


def _through(runner: Runner, firing: Firing) -> int:
    from masklake.jobs.schedule.store import OK, moment

    following: Firing | None = firing
    while following is not None:
        wait = (moment(following.due_at) - runner.now()).total_seconds()
        if runner.stop.wait(max(0.0, wait)):
            return 130
        ended = runner.attempt(following.id)
        state, following = ended or ("", None)
        if state == OK:
            return 0
    return 1


def serve(args: argparse.Namespace, store: Store) -> int:
    """`masklake schedule serve`."""
    from masklake.jobs.schedule.daemon import Daemon, report, serve_once, stopping
    from masklake.jobs.schedule.metrics import metrics_served
    from masklake.jobs.schedule.runner import Runner

    runner = Runner(store=store, say=report, ttl=float(args.lease_seconds))
    with stopping(runner.stop):
        if args.once:
            return 1 if serve_once(runner) else 0
        with metrics_served(store, args.metrics_host, args.metrics_port):
            Daemon(runner).serve()
    return 0
