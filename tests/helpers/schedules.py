"""Schedules for tests, and a job that does as its arguments say: `python -m tests.helpers.schedules PARENT segment WHAT LAKE`.

WHAT is a list of steps parted by commas: run (say a run id), sleep=SECONDS, deaf (to SIGTERM), exit=CODE, say=TEXT, leak (a secret). The
job writes `begin PID`, and at its end `end PID`, to LAKE/diary.
"""

from __future__ import annotations

import datetime
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from masklake.jobs.schedule import child as schedule_child
from masklake.jobs.schedule import process as schedule_process
from masklake.jobs.schedule.runner import Runner
from masklake.jobs.schedule.store import Schedule, Store, utc

from tests.helpers.paths import ROOT

RUN = "20261125T020000-abcdef"
NOON = datetime.datetime(2026, 11, 25, 12, 0, 0, tzinfo=datetime.UTC)


def use_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let jobs be this module's."""
    monkeypatch.setattr(schedule_process, "_CHILD", "tests.helpers.schedules")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def schedule(folder: Path, steps: str = "run", **values: Any) -> Schedule:
    """A schedule of that job, in the lake `folder`/lake, that was due at noon."""
    (folder / "lake").mkdir(exist_ok=True)
    command = ["segment", steps, str(folder / "lake")]
    fields = {"name": "s", "command": command, "every": 30, "cwd": str(folder), "next_at": utc(NOON)} | values
    return Schedule(**fields, created_at=utc(NOON))


class Events:
    """What a runner says."""

    def __init__(self) -> None:
        self.all: list[dict[str, Any]] = []

    def __call__(self, **values: Any) -> None:
        self.all.append({name: value for name, value in values.items() if value is not None})

    def names(self) -> list[str]:
        return [event["event"] for event in self.all]


class Clock:
    """A clock that tests set."""

    def __init__(self, time: datetime.datetime = NOON) -> None:
        self.time = time

    def __call__(self) -> datetime.datetime:
        return self.time

    def set(self, seconds: float) -> None:
        """That many seconds after noon."""
        self.time = NOON + datetime.timedelta(seconds=seconds)


def runner(store: Store, clock: Callable[[], datetime.datetime] | None = None, **more: Any) -> Runner:
    """A runner whose events are in `.say.all`."""
    return Runner(store=store, say=Events(), now=clock or Clock(), **more)


def wait_until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """What `condition` returns once that is true."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            pytest.fail(f"waited {seconds} s")
        time.sleep(0.02)
    return value


def in_thread(function: Callable[[], Any]) -> Iterator[threading.Thread]:
    """A thread that runs `function`; it is joined at the end."""
    thread = threading.Thread(target=function)
    thread.start()
    yield thread
    thread.join(60)
    assert not thread.is_alive()


def diary(lake: Path) -> list[str]:
    """What jobs wrote."""
    file = lake / "diary"
    return file.read_text().splitlines() if file.exists() else []


def _write(lake: str, text: str) -> None:
    with (Path(lake) / "diary").open("a") as file:
        file.write(f"{text}\n")


def _job(steps: str, lake: str) -> int:
    _write(lake, f"begin {os.getpid()}")
    code = 0
    for step in steps.split(","):
        name, _, value = step.partition("=")
        if name == "run":
            print(f"run {RUN}: demo over {steps}", flush=True)
        elif name == "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        elif name == "sleep":
            time.sleep(float(value))
        elif name == "say":
            print(value, flush=True)
        elif name == "leak":
            print("masklake: error: token=abc is wrong", flush=True)
        elif name == "exit":
            code = int(value)
    _write(lake, f"end {os.getpid()}")
    return code


if __name__ == "__main__":
    schedule_child._end_with(int(sys.argv[1]))
    print("arguments", *sys.argv[2:], flush=True)
    sys.exit(_job(sys.argv[3], sys.argv[4]))
