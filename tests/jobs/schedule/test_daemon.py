"""The daemon: it follows the store, survives its clock, and is alone."""

from __future__ import annotations

import datetime
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from masklake.jobs.schedule import daemon as schedule_serve
from masklake.jobs.schedule import transitions
from masklake.jobs.schedule.daemon import Daemon, report, serve_once
from masklake.jobs.schedule.runner import Runner, utcnow
from masklake.jobs.schedule.serving import StoreServedError, server, serving
from masklake.jobs.schedule.store import MISSED, OK, REFUSED, STOPPED, WAITING, Store, utc
from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.lock import Lock
from masklake.pipeline.storage.store import Storage

from tests.helpers.schedules import Clock, Events, diary, runner, schedule, use_job, wait_until

Start = Callable[..., Runner]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    use_job(monkeypatch)
    monkeypatch.setattr(schedule_serve, "_LOOK_S", 0.05)
    return Store(tmp_path / "schedules.db")


@pytest.fixture
def start(store: Store) -> Iterator[Start]:
    """Start a daemon in a thread; all are stopped at the end."""
    running: list[tuple[Runner, threading.Thread]] = []

    def start(**more: Any) -> Runner:
        scheduler = Runner(store=store, say=Events(), **more)
        thread = threading.Thread(target=Daemon(scheduler).serve)
        thread.start()
        running.append((scheduler, thread))
        wait_until(lambda: "serving" in scheduler.say.names())  # type: ignore[attr-defined]
        return scheduler

    yield start
    for scheduler, thread in running:
        scheduler.stop.set()
        thread.join(60)
        assert not thread.is_alive()


def soon(tmp_path: Path, steps: str = "run", **values: Any) -> Any:
    """A schedule of every second."""
    return schedule(tmp_path, steps, **{"every": 1, "next_at": utc(utcnow())} | values)


def outcomes(store: Store, name: str = "s") -> list[str]:
    return [firing.state for firing in reversed(store.history(name, 1000))]


def test_schedules_that_are_added_paused_and_removed_count_at_once(
    store: Store, start: Start, tmp_path: Path
) -> None:
    start()
    store.add(soon(tmp_path))
    wait_until(lambda: outcomes(store).count(OK) >= 2)
    store.set_paused("s", True, None)
    wait_until(lambda: not {WAITING, "running"} & set(outcomes(store)))
    count = len(outcomes(store))
    store.add(soon(tmp_path, name="other", lock="other"))
    wait_until(lambda: outcomes(store, "other").count(OK) >= 2)
    assert len(outcomes(store)) == count
    store.remove("other")
    store.set_paused("s", False, utc(utcnow()))
    wait_until(lambda: len(outcomes(store)) > count)
    times = [(firing.schedule, firing.scheduled_at, firing.attempt) for firing in store.history(limit=1000)]
    assert len(times) == len(set(times))


def test_what_is_asked_for_by_hand_is_done_by_the_daemon(store: Store, start: Start, tmp_path: Path) -> None:
    store.add(soon(tmp_path, paused=True, next_at=None))
    start()
    transitions.ask(store, "s", utcnow())
    wait_until(lambda: outcomes(store) == [OK])


def test_retries_come_when_they_are_due(store: Store, start: Start, tmp_path: Path) -> None:
    store.add(soon(tmp_path, "exit=1", every=86400, retries=2, backoff=1.0))
    start()
    wait_until(lambda: outcomes(store) == ["failed"] * 3)


def test_an_overlap_is_refused_while_the_job_runs_on(store: Store, start: Start, tmp_path: Path) -> None:
    store.add(soon(tmp_path, "run,sleep=3"))
    start()
    wait_until(lambda: REFUSED in outcomes(store) and outcomes(store).count(OK) >= 1)
    entries = [text.split()[0] for text in diary(tmp_path / "lake")]
    assert entries[:2] == ["begin", "end"]  # never two at once


def test_two_schedules_of_one_lake_share_its_lock(store: Store, start: Start, tmp_path: Path) -> None:
    store.add(soon(tmp_path, "run,sleep=600", name="long", every=86400))
    start()
    wait_until(lambda: diary(tmp_path / "lake"))
    store.add(soon(tmp_path, name="short"))
    wait_until(lambda: REFUSED in outcomes(store, "short"))
    assert "held by schedule long (process" in (store.history("short")[0].detail or "")


def test_the_second_daemon_is_refused_and_told_by_whom(store: Store, start: Start) -> None:
    start()
    assert f"process {os.getpid()} on " in (server(store) or "")
    with pytest.raises(StoreServedError, match=f"is served by process {os.getpid()} on "):
        Daemon(runner(store)).serve()
    with pytest.raises(UserError, match="is served by"):
        serve_once(runner(store))


class Shifted:
    """A clock that is ahead of the real one by `seconds`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> datetime.datetime:
        return utcnow() + datetime.timedelta(seconds=self.seconds)


def test_a_clock_that_is_set_is_noticed_and_fires_nothing_twice(
    store: Store, start: Start, tmp_path: Path
) -> None:
    clock = Shifted()
    scheduler = start(now=clock)
    store.add(soon(tmp_path))
    wait_until(lambda: outcomes(store).count(OK) >= 1)
    clock.seconds = 3600  # forward: an hour of times is one
    wait_until(lambda: "clock-set" in scheduler.say.names())  # type: ignore[attr-defined]
    wait_until(lambda: any(firing.missed == 1000 for firing in store.history(limit=1000)))
    clock.seconds = 0  # and back: all of that has been
    wait_until(lambda: scheduler.say.names().count("clock-set") == 2)  # type: ignore[attr-defined]
    times = [(firing.scheduled_at, firing.attempt) for firing in store.history(limit=1000)]
    assert len(times) == len(set(times))


def test_a_daemon_goes_on_when_the_store_fails_for_a_moment(
    store: Store, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Store.schedules
    failures = [True, True, True]

    def failing(self: Store) -> Any:
        if failures and threading.current_thread().name.startswith("Thread-"):
            failures.pop()
            raise UserError("the disk is full")
        return real(self)

    store.add(soon(tmp_path))
    monkeypatch.setattr(Store, "schedules", failing)
    monkeypatch.setattr(schedule_serve, "_AGAIN_S", 0.1)
    failures.clear()
    scheduler = start()
    failures += [True, True, True]
    wait_until(lambda: OK in outcomes(store))
    wait_until(lambda: "warning" in scheduler.say.names())  # type: ignore[attr-defined]


def test_once_does_what_is_due_and_makes_up_for_what_was_missed_once(store: Store, tmp_path: Path) -> None:
    clock = Clock()
    store.add(schedule(tmp_path, name="a", lock="a"))
    store.add(schedule(tmp_path, name="late", lock="b", every=None, cron="0 12 * * *", deadline=60.0))
    store.add(schedule(tmp_path, name="paused", paused=True))
    clock.set(601)
    assert serve_once(runner(store, clock)) == 1
    [firing] = store.history("a")
    assert (firing.state, firing.scheduled_at, firing.missed) == (OK, "2026-11-25T12:10:00+00:00", 20)
    assert [missed_firing.state for missed_firing in store.history("late")] == [MISSED]
    assert store.history("paused") == []
    assert serve_once(runner(store, clock)) == 0
    assert len(store.history(limit=100)) == 2


def test_sigterm_stops_the_job_and_the_daemon_in_order(store: Store, tmp_path: Path) -> None:
    store.add(soon(tmp_path, "run,sleep=600", every=86400))
    code = (
        "from tests.helpers.schedules import *\n"
        "from masklake.jobs.cli import main\n"
        "schedule_process._CHILD = 'tests.helpers.schedules'\n"
        f"sys.exit(main(['schedule', 'serve', '--store', {str(store.path)!r}]))"
    )
    daemon = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_until(lambda: diary(tmp_path / "lake"))
    daemon.send_signal(signal.SIGTERM)
    out, _ = daemon.communicate(timeout=60)
    assert daemon.returncode == 0
    assert [line.split()[1] for line in out.splitlines()] == [
        "event=serving",
        "event=started",
        "event=stopped",
        "event=stopped",
    ]
    assert outcomes(store) == [STOPPED, WAITING]
    assert json.loads((tmp_path / "lake" / "locks" / "segment.json").read_text())["released"]
    with Lock(str(tmp_path / "lake"), "segment", Storage()), serving(store):
        pass


def test_lines_are_names_and_values(capsys: pytest.CaptureFixture[str]) -> None:
    report(event="ok", schedule="s", run=None, seconds=1.5, detail='say "hi"\x1b[31m a=b')
    out = capsys.readouterr().out
    assert out.split(" ", 1)[1] == 'event=ok schedule=s seconds=1.5 detail="say \\"hi\\"\\u001b[31m a=b"\n'
