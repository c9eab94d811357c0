"""A job as a process: start it, watch it, end it, and recognise it after the daemon that started it has died."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from masklake.jobs.terminal import log_lines
from masklake.jobs.terminal.text import elide, one_line
from masklake.pipeline.storage.store import redact

GRACE_S = 30.0
"""Seconds that a job has to stop after SIGTERM."""
_POLL_S = 0.2
_CHILD = "masklake.jobs.schedule.child"
_TAIL = 64 * 1024
_HEAD = 1024 * 1024


class Process:
    """`masklake COMMAND` in `cwd`, its output in the file `log`. A context manager that leaves nothing running.

    Raises OSError when it cannot be started.
    """

    def __init__(self, command: list[str], cwd: str, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with log.open("wb") as output:
            self._popen = subprocess.Popen(  # noqa: S603  # our own interpreter, and arguments that were parsed
                [sys.executable, "-P", "-m", _CHILD, str(os.getpid()), *command],
                cwd=cwd,
                # So that the run's id is in the file even where the job is killed.
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        if self._popen.poll() is None:
            _end(self.pid, lambda: self._popen.poll() is None, GRACE_S)
        _signal_group(self.pid, signal.SIGKILL)  # processes that it left

    @property
    def pid(self) -> int:
        return self._popen.pid

    def wait(self, stop_reason: Callable[[], str | None]) -> tuple[int, str | None]:
        """Wait for the end. Returns the exit code, and the reason if `stop_reason` returned one and the job was stopped."""
        reason = None
        while self._popen.poll() is None:
            reason = stop_reason()
            if reason is not None:
                _end(self.pid, lambda: self._popen.poll() is None, GRACE_S)
                break
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(_POLL_S)
        return self._popen.wait(), reason


def born(pid: int) -> str | None:
    """The boot and the time in it at which the process was started: they tell it from a later process with the same id. None
    if it has ended, or the system does not say."""
    with contextlib.suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if fields[0] not in "ZX":  # the state; a zombie has ended
            return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}-{fields[19]}"
    return None


def end_orphan(pid: int, birth: str | None) -> bool:
    """End a job that outlived its daemon; returns whether there was one."""
    if birth is None or born(pid) != birth:
        return False
    _end(pid, lambda: born(pid) == birth, GRACE_S)
    _signal_group(pid, signal.SIGKILL)
    return True


def _end(pid: int, alive: Callable[[], bool], grace: float) -> None:
    """SIGTERM to the job alone, which stops its own processes; SIGKILL to all of them when that takes too long."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + grace
    while alive() and time.monotonic() < end:
        time.sleep(0.05)
    _signal_group(pid, signal.SIGKILL)
    while alive():
        time.sleep(0.05)


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def run_of(log: Path) -> str | None:
    """The id of the run, from the line `run <id>…` in the log."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        return log_lines.run_in(file.read(_HEAD).decode(errors="replace"))
    return None


def outcome_of(log: Path) -> str:
    """The line that says how the job ended, or the last one that is not empty; without credentials and control
    characters."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
        text = file.read().decode(errors="replace")
        lines = [line for line in text.splitlines() if line.strip()]
        line = log_lines.outcome_in(text) or (lines[-1] if lines else "")
        return elide(one_line(redact(line)), 300)
    return ""


def exit_code_text(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-code).name}"
    return f"killed by signal {-code}"


def prune(folder: Path, keep: int) -> None:
    """Remove all logs of a folder but the newest `keep`; their names sort by time."""
    with contextlib.suppress(OSError):
        for old in sorted(folder.glob("*.log"))[:-keep]:
            old.unlink(missing_ok=True)
