"""A driver as a child process, and every process that it starts, found again by a mark in its environment."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from tests.helpers.faults.table import struck
from tests.helpers.paths import ROOT

_MARK = "MASKLAKE_TEST_DRIVER"


class Driver:
    """`python -m MODULE ARGS`. A context manager that leaves no process behind."""

    def __init__(self, *args: str, module: str = "tests.helpers.faults.driver") -> None:
        self._mark = uuid.uuid4().hex
        # A file, not a pipe: what outlives a killed driver would hold the pipe open.
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  # closed with the driver
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *args],
            cwd=ROOT,
            env=os.environ | {_MARK: self._mark},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(self.family(), timeout=30)
        self._log.close()

    def family(self) -> list[psutil.Process]:
        """The driver, Ray's servers and workers, wherever they hang in the process tree now."""
        processes = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                if process.environ().get(_MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    processes.append(process)
        return processes

    def workers(self, title: str = "ray::") -> list[psutil.Process]:
        """Ray's worker processes whose title begins so: `ray::MapWorker(MapBatches(Infer))`, `ray::Ledger`, …"""
        processes = []
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if " ".join(process.cmdline()).startswith(title):
                    processes.append(process)
        return processes

    def wait_until(self, condition: Callable[[], Any], seconds: float = 240) -> Any:
        """What `condition` returns once that is true. Fails when the driver ends before."""
        end = time.monotonic() + seconds
        while not (value := condition()):
            if self.process.poll() is not None:
                pytest.fail(f"the driver ended before its time: {self.output()}")
            if time.monotonic() > end:
                pytest.fail(f"waited {seconds} s")
            time.sleep(0.05)
        return value

    def signal(self, signal_: int, *processes: psutil.Process) -> None:
        """Send a signal to some of the family, or to the driver; those that are gone do not mind."""
        struck()
        for process in processes or (psutil.Process(self.process.pid),):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal_)

    def output(self) -> str:
        """All that the driver printed, once it has ended."""
        self.process.wait(timeout=300)
        self._log.seek(0)
        return self._log.read()

    def result(self) -> dict[str, Any]:
        """What the driver said at its end."""
        output = self.output()
        lines = [line for line in output.splitlines() if line.startswith("{")]
        assert lines, f"the driver ended with exit code {self.process.returncode}: {output}"
        result: dict[str, Any] = json.loads(lines[-1])
        return result

    def kill(self) -> None:
        """SIGKILL, to the driver alone: its children have to notice by themselves."""
        struck()
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def driving(*args: object, module: str = "tests.helpers.faults.driver") -> Iterator[Driver]:
    with Driver(*map(str, args), module=module) as driver:
        yield driver
