"""A command's work in a process that ends, as by SIGKILL, at one of its steps (pipeline/storage/crash_points.py).

Processes are forked from one that has imported what the work needs, so that each costs some hundredths of a second.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

from masklake.pipeline.storage.crash_points import on_reach

_KILLED = 137
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.helpers.faults.commands"])

Work = Callable[..., Any]


def steps(work: Work, *args: Any) -> list[str]:
    """The steps of `work(*args)`, which is done to its end: `written s3://…`."""
    reached, code = _run(work, args, at=None)
    assert code == 0, f"{work.__name__} ended with {code} after {reached[-1:]}"
    return reached


def crashed(work: Work, *args: Any, at: int) -> list[str]:
    """Begin `work(*args)`, and end its process at the step of this index. The steps that were reached, that one included."""
    reached, code = _run(work, args, at)
    assert code == _KILLED, f"{work.__name__} ended with {code} after {reached[-1:]}"
    return reached


def _run(work: Work, args: tuple[Any, ...], at: int | None) -> tuple[list[str], int]:
    ours, theirs = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_work, args=(work, args, at, theirs, dict(os.environ)))
    process.start()
    theirs.close()
    reached = []
    try:
        while True:
            reached.append(ours.recv())
    except EOFError:
        pass
    process.join()
    return reached, process.exitcode or 0


def _work(
    work: Work, args: tuple[Any, ...], at: int | None, tell: Connection, environment: Mapping[str, str]
) -> None:
    os.environ.clear()
    os.environ.update(environment)  # that of the fork server is older
    count = 0

    def hook(point: str) -> None:
        nonlocal count
        tell.send(point)
        if count == at:
            os._exit(_KILLED)
        count += 1

    with on_reach(hook):
        work(*args)
