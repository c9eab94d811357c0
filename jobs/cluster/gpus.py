"""Notes for a user whose command waits for GPUs: Ray itself would wait in silence."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator

from masklake.jobs.cluster.background import meanwhile
from masklake.jobs.terminal.text import note

_TOLD_AFTER_S = (0.0, 60.0, 300.0, 900.0, 3600.0)
"""When to print a note, in seconds. A GPU node takes minutes to start; a longer wait is a quota or a missing node group."""
_LOOK_S = 2.0


@contextlib.contextmanager
def noting_missing_gpus(wanted: int, count: Callable[[], int]) -> Iterator[None]:
    """Print notes on standard error, less and less often, while Ray has fewer than `wanted` GPUs; and one when it has them.

    `count` returns how many there are. The block itself does not wait: Ray starts its work when the GPUs are there.
    """
    if count() >= wanted:
        yield
        return
    with meanwhile(functools.partial(_tell, wanted, count)):
        yield


def _tell(wanted: int, count: Callable[[], int], over: threading.Event) -> None:
    began = time.monotonic()
    ahead = list(_TOLD_AFTER_S)
    while (gpus := count()) < wanted:
        waited = time.monotonic() - began
        if ahead and waited >= ahead[0]:
            del ahead[0]
            waiting = f"for {waited / 60:.0f} min " if waited >= _TOLD_AFTER_S[1] else ""
            note(
                f"--gpus {wanted}: Ray has {gpus}; waiting {waiting}until nodes with GPUs join "
                "(`ray status` tells what is asked for; is there a node group with GPUs, and quota for it?)"
            )
        if over.wait(_LOOK_S):
            return
    note(f"--gpus {wanted}: they are there")
