"""Notes while a run or training waits because the cluster has no room for its workers: Ray itself would wait in silence."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from masklake.jobs.terminal.text import duration, say

if TYPE_CHECKING:
    from rich.console import Console

_TOLD_AFTER_S = (20.0, 60.0, 300.0, 900.0, 3600.0)

Told = TypeVar("Told")


def telling(
    watch: Callable[[Told], None],
    started: Callable[[Told], bool],
    work: str,
    needed: Mapping[str, float],
    console: Console,
) -> Callable[[Told], None]:
    """`watch`, which also prints on `console`, less and less often until it has `started`, what `work` needs and is not free.

    needed: Ray's resources of all its workers together, CPU and GPU.
    """
    ahead = list(_TOLD_AFTER_S)
    began = time.monotonic()

    def watch_and_tell(progress: Told) -> None:
        watch(progress)
        seconds = time.monotonic() - began
        if not ahead or seconds < ahead[0]:
            return
        del ahead[0]
        if started(progress):
            ahead.clear()
            return
        line = lacking(work, needed, *_resources(), seconds)
        if line is not None:
            say(console, line)

    return watch_and_tell


def _resources() -> tuple[Mapping[str, float], Mapping[str, float]]:
    import ray

    return ray.available_resources(), ray.cluster_resources()


def lacking(
    work: str,
    needed: Mapping[str, float],
    free: Mapping[str, float],
    total: Mapping[str, float],
    seconds: float,
) -> str | None:
    """A line about what the cluster has but is not free now; None if it is free. (For GPUs that no node has, see
    jobs.cluster.gpus.)"""
    short = [name for name, n in needed.items() if n > free.get(name, 0.0) + 1e-6]
    if not short or needed.get("GPU", 0.0) > total.get("GPU", 0.0):
        return None
    wants = " and ".join(f"{n:g} {name}" for name, n in needed.items() if n)
    has = ", ".join(f"{free.get(name, 0.0):g} of {total.get(name, 0.0):g} {name}s are free" for name in short)
    return (
        f"waiting for the cluster ({duration(seconds)}): {work} needs {wants}, and {has}; other jobs have them, or "
        "nodes are still to come (`masklake jobs`, `ray status`)"
    )
