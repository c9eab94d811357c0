"""What this machine has, as far as can be seen without Ray or torch."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

from masklake.jobs.cluster.cluster import Cluster

_CGROUP = Path("/sys/fs/cgroup")
_MEMORY_SHARE = 0.7
"""Of the memory that is available, as Ray counts it for workers."""


def machine(gpus: int | None) -> Cluster:
    """This machine as a cluster of one node. `gpus`: how many to use, or None for all that there are."""
    cpus = _cpus()
    present = _gpus()
    return Cluster(
        cpus=cpus,
        gpus=present if gpus is None else min(gpus, present),
        memory=_memory() * _MEMORY_SHARE,
        node_cpus=cpus,
    )


def _cpus() -> int:
    """CPUs that this process may use, a container's quota included."""
    with contextlib.suppress(AttributeError):  # not on macOS
        return max(1, int(min(len(os.sched_getaffinity(0)), _limit("cpu.max"))))
    return os.cpu_count() or 1


def _limit(file: str) -> float:
    """A limit of this container's cgroup (version 2): CPUs or bytes; infinite where there is none."""
    try:
        quota, *period = (_CGROUP / file).read_text().split()
    except OSError:
        return math.inf
    return math.inf if quota == "max" else int(quota) / int(period[0] if period else 1)


def _memory() -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return min(available, _limit("memory.max"))


def _gpus() -> int:
    """NVIDIA GPUs that a process started here would see."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([gpu for gpu in visible.split(",") if gpu.strip() not in ("", "-1", "NoDevFiles")])
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
