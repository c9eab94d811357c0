"""The daemon of `masklake schedule serve`: the store says what is due and when, and each firing gets a thread.

The daemon reads the store each second, and when something in it comes due, so `add`, `pause` and `run-now` in another process
take effect within a second. A monotonic clock shows when the system's clock was set; that is reported.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from masklake.jobs.schedule import transitions
from masklake.jobs.schedule.runner import Runner
from masklake.jobs.schedule.serving import serving
from masklake.jobs.schedule.store import MISSED, OK, WAITING, Firing, Schedule, moment, utc
from masklake.jobs.terminal.text import printable, printable_json
from masklake.pipeline.errors import UserError

_LOOK_S = 1.0
_AT_ONCE = 64
"""Jobs that run at one time; further ones wait for a thread."""
_JUMP_S = 2.0
_AGAIN_S = 30.0


def report(**values: Any) -> None:
    """A line of `name=value` on standard output, for people and for journald."""

    def quoted(value: Any) -> str:
        text = str(value)
        plain = text and not set(text) & set(' "=\\') and text == printable(text)
        return text if plain else printable_json(json.dumps(text, ensure_ascii=False))

    line = " ".join(f"{name}={quoted(value)}" for name, value in values.items() if value is not None)
    with contextlib.suppress(OSError):  # a closed standard output does not stop the daemon
        sys.stdout.write(f"time={utc()} {line}\n")
        sys.stdout.flush()


class Daemon:
    """Serves a store until `runner.stop` is set."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._store = runner.store
        self._now = runner.now
        self._in_work: set[str] = set()
        """The ids of the work that a thread does, or will do."""

    def serve(self) -> None:
        """Serve the store. Raises UserError while another process does."""
        with serving(self._store):
            self._runner.say(
                event="serving", store=str(self._store.path), schedules=len(self._store.schedules())
            )
            self._runner.recover()
            threads = ThreadPoolExecutor(_AT_ONCE)
            try:
                self._look(threads)
            finally:
                self._runner.stop.set()
                threads.shutdown(wait=True, cancel_futures=True)
            self._runner.say(event="stopped", store=str(self._store.path))

    def _look(self, threads: ThreadPoolExecutor) -> None:
        ahead = self._ahead()
        while True:
            jumped = self._ahead() - ahead
            if abs(jumped) > _JUMP_S:
                ahead += jumped
                self._runner.say(event="clock-set", seconds=round(jumped))
            pause = _LOOK_S
            try:
                pause = self._begin(threads)
            except UserError as error:  # a full disk or a locked store may be only for a moment
                self._runner.say(event="warning", detail=str(error))
            if self._runner.stop.wait(pause):
                return

    def _ahead(self) -> float:
        """Seconds by which the system's clock is ahead of the monotonic one."""
        return self._now().timestamp() - time.monotonic()

    def _begin(self, threads: ThreadPoolExecutor) -> float:
        """Start what is due; returns the seconds until the next look. To look too often does no harm: a time is claimed once,
        and an attempt is started once."""
        now, pause = self._now(), _LOOK_S
        for id_, (due, function, argument) in self._due_work():
            if due > now:
                pause = min(pause, (due - now).total_seconds())
            elif id_ not in self._in_work:
                self._in_work.add(id_)
                threads.submit(function, argument).add_done_callback(functools.partial(self._work_ended, id_))
        return pause

    def _work_ended(self, id_: str, work: Future[Any]) -> None:
        self._in_work.discard(id_)
        if not work.cancelled() and (error := work.exception()) is not None:
            self._runner.say(event="warning", detail=f"{id_}: {error!r}")
            logging.getLogger(__name__).error("%s", id_, exc_info=error)

    def _due_work(self) -> Iterator[tuple[str, tuple[datetime.datetime, Callable[..., Any], Any]]]:
        paused = set()
        for schedule in self._store.schedules():
            if schedule.paused:
                paused.add(schedule.name)
            elif schedule.next_at:
                next_at = moment(schedule.next_at)
                yield (
                    f"time {schedule.name} {schedule.next_at} {schedule.created_at}",
                    (next_at, self._fire, schedule),
                )
        for firing in self._store.in_state(WAITING):
            if firing.manual or firing.schedule not in paused:
                yield f"attempt {firing.id}", (moment(firing.due_at), self._runner.attempt, firing.id)

    def _fire(self, schedule: Schedule) -> None:
        try:
            firing = claim(self._runner, schedule)
        except UserError as error:
            self._runner.say(event="warning", schedule=schedule.name, detail=str(error))
            self._runner.stop.wait(_AGAIN_S)  # until then it is not started again
            return
        if firing is not None and firing.state == WAITING:
            self._runner.attempt(firing.id)


def claim(runner: Runner, schedule: Schedule) -> Firing | None:
    """Record the firing that has come due and return it; one that came too late is reported as well."""
    firing = transitions.claim(runner.store, schedule, runner.now())
    if firing is not None and firing.state == MISSED:
        runner.tell(firing)
    return firing


def serve_once(runner: Runner) -> int:
    """Do what is due, one after another; returns how many firings failed. Raises UserError while another process serves."""
    bad = 0
    with serving(runner.store):
        runner.recover()
        for schedule in runner.store.schedules():
            claimed = claim(runner, schedule)
            bad += claimed is not None and claimed.state == MISSED
        paused = {schedule.name for schedule in runner.store.schedules() if schedule.paused}
        for firing in runner.store.in_state(WAITING):
            due = moment(firing.due_at) <= runner.now()
            if due and (firing.manual or firing.schedule not in paused):
                result = runner.attempt(firing.id)
                bad += result is not None and result[0] != OK
    return bad


@contextlib.contextmanager
def stopping(stop: threading.Event) -> Iterator[None]:
    """Let SIGTERM and Ctrl-C set `stop`."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda *_: stop.set()) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
