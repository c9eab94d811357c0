"""CPU time and memory of a command and of all its descendants, by kind of process, those that ended on the way included."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_LOOK_S = 0.05
_LOOKS_A_MEMORY = 10
_TICKS = os.sysconf("SC_CLK_TCK")
_HELPERS = re.compile(r"dashboard|agent|log_monitor|monitor\.py|runtime_env|resource_tracker")
_KINDS = {
    "gcs_server": "Ray's gcs",
    "raylet/raylet": "Ray's raylet",
    "MapWorker(": "predictors",
    "segment.local_worker": "predictors",
    "default_worker": "Ray's workers before their first task",
}
_STAGE = re.compile(r"ray::\S*?(?:MapBatches)?\(?(read|fetch|decode|encode|write)", re.IGNORECASE)


@dataclass(frozen=True)
class Used:
    """What a command used until it ended."""

    seconds: float
    cpu: Counter[str]
    """CPU seconds by kind of process."""
    processes: int
    peak_bytes: int
    """Largest sum of their proportional set sizes (PSS), looked at twice a second."""

    @property
    def total(self) -> float:
        return self.cpu.total()  # type: ignore[return-value]  # of floats it is a float


def measured(command: Sequence[str], *, kill_after_s: float | None = None) -> Used:
    """Run `command` to its end, or kill it and all its descendants after a while. Raises RuntimeError when it fails.

    Every process is looked at twenty times a second; what it used after the last look is lost. A worker of Ray changes
    its title with its task: what it used between two looks is counted for the later one.
    """
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    parents: dict[int, int] = {}
    used: dict[int, float] = {}
    cpu: Counter[str] = Counter()
    looks = peak = 0
    while process.poll() is None:
        family = _look(process.pid, parents, used, cpu)
        if looks % _LOOKS_A_MEMORY == 0:
            peak = max(peak, sum(map(_pss, family)))
        looks += 1
        if kill_after_s is not None and time.perf_counter() - began > kill_after_s:
            for member in {process.pid, *family}:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(member, signal.SIGKILL)
            process.wait()
            return Used(time.perf_counter() - began, cpu, len(used), peak)
        time.sleep(_LOOK_S)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: ended with exit code {process.returncode}")
    return Used(time.perf_counter() - began, cpu, len(used), peak)


def _pss(pid: int) -> int:
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    match = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
    return 1024 * int(match[1]) if match else 0


def _look(root: int, parents: dict[int, int], used: dict[int, float], cpu: Counter[str]) -> list[int]:
    """Count what the family used since the last look; its members."""
    present = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                stat = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            present[int(entry.name)] = (int(stat[1]), (int(stat[11]) + int(stat[12])) / _TICKS)
    for pid, (parent, _) in present.items():
        parents.setdefault(pid, parent)  # the first: an orphan is adopted
    family = [pid for pid in present if _descends(pid, root, parents)]
    for pid in family:
        seconds = present[pid][1]
        if seconds > used.get(pid, -1.0):
            cpu[_kind(pid, root)] += seconds - used.get(pid, 0.0)
            used[pid] = seconds
    return family


def _descends(pid: int, root: int, parents: dict[int, int]) -> bool:
    while pid != root:
        if pid not in parents:
            return False
        pid = parents[pid]
    return True


def _kind(pid: int, root: int) -> str:
    if pid == root:
        return "driver"
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return "ended"
    for mark, kind in _KINDS.items():
        if mark in line:
            return kind
    if stage := _STAGE.match(line):
        return f"{stage[1].lower()} tasks"
    if line.startswith("ray::"):
        return "idle workers" if "IDLE" in line else "Ray Data's and our own actors"
    return "Ray's agents" if _HELPERS.search(line) else "others"
