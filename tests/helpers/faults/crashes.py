"""A command's work in a process that ends, as by SIGKILL, at one of its steps (pipeline/storage/crash_points.py).

Processes are forked from one that has imported what the work needs, so that each costs some hundredths of a second.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from masklake.pipeline.storage.crash_points import on_reach

_KILLED = 137
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.helpers.faults.commands"])

Work = Callable[..., Any]


def steps(work: Work, *args: Any) -> list[str]:
    """The steps of `work(*args)`, which is done to its end: `written s3://…`."""
    with _working(work, args) as (process, reached):
        for _ in reached:
            pass
    assert process.exitcode == 0, f"{work.__name__} ended with {process.exitcode} after {reached.all[-1:]}"
    return reached.all


def crashed(work: Work, *args: Any, at: int) -> None:
    """Begin `work(*args)`, and end its process at the step of this index."""
    with _working(work, args, at) as (process, reached):
        for _ in reached:
            pass
    assert process.exitcode == _KILLED, (
        f"{work.__name__} ended with {process.exitcode} after {reached.all[-1:]}"
    )


@contextlib.contextmanager
def paused(work: Work, *args: Any, at: int) -> Iterator[None]:
    """Begin `work(*args)`, and let it stand still at the step of this index while the block lasts; then it goes on to its end,
    whatever that is."""
    with _working(work, args, at, stands=True) as (_, reached):
        for i, _ in enumerate(reached):
            if i == at:
                break
        yield
        reached.pipe.send(None)
        for _ in reached:
            pass


class _Reached:
    """The steps of a process as it reaches them."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe
        self.all: list[str] = []

    def __iter__(self) -> Iterator[str]:
        try:
            while True:
                self.all.append(self.pipe.recv())
                yield self.all[-1]
        except (EOFError, ConnectionError):
            return


@contextlib.contextmanager
def _working(
    work: Work, args: tuple[Any, ...], at: int | None = None, *, stands: bool = False
) -> Iterator[tuple[BaseProcess, _Reached]]:
    ours, theirs = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=_work, args=(work, args, at, stands, theirs, dict(os.environ)))
    process.start()
    theirs.close()
    try:
        yield process, _Reached(ours)
    finally:
        ours.close()
        process.join()


def _work(
    work: Work,
    args: tuple[Any, ...],
    at: int | None,
    stands: bool,
    pipe: Connection,
    environment: Mapping[str, str],
) -> None:
    os.environ.clear()
    os.environ.update(environment)  # that of the fork server is older
    count = 0

    def hook(point: str) -> None:
        nonlocal count
        here, count = count == at, count + 1
        pipe.send(point)
        if here and stands:
            pipe.recv()
        elif here:
            os._exit(_KILLED)

    with on_reach(hook):
        work(*args)
