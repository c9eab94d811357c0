"""`--lock NAME`: of all who ask for it, on any machine, one at a time works in a lake.

Schedules take the same locks, and on a cluster or on Kubernetes this option is how they do.
"""

from __future__ import annotations

import functools
import os
import shlex
import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from masklake.jobs.cluster.background import meanwhile
from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.options.parser import typed
from masklake.jobs.terminal.text import elide, note
from masklake.pipeline.storage.store import Storage, normalise_folder, redact

if TYPE_CHECKING:
    from masklake.pipeline.lake.lock import Lock

_LOOK_S = 1.0


def under_lock(
    lake: str, name: str | None, storage: Storage, work: Callable[[], int], *, what: str | None = None
) -> int:
    """The result of `work`, done while this process holds the lake's lock `name`, or without a lock where that is None.

    `what` the work is, for others who want the lock; None: the command line.

    Prints why and returns REFUSED while another process holds the lock. Raises UserError where the lake cannot keep a lock.
    """
    if name is None:
        return work()
    from masklake.pipeline.lake.lock import Lock, LockHeldError  # it imports Arrow, which help does not need

    holder = elide(redact(shlex.join(typed())), 200) if what is None else what
    lock = Lock(normalise_folder(lake), name, storage, what=holder)
    try:
        lock.acquire()
    except LockHeldError as other:
        note(f"refused: {other}; a holder that died is forgotten after {other.holder.ttl:g} s")
        return ExitCode.REFUSED
    try:
        with meanwhile(functools.partial(_watch, lock)):
            return work()
    finally:
        lock.release()


def _watch(lock: Lock, over: threading.Event) -> None:
    """Stop this process, as SIGTERM does, when the lock is lost."""
    while not over.wait(_LOOK_S):
        if lock.lost:
            note(f"stopping: the lock {lock.uri} could not be kept, and another may hold it")
            os.kill(os.getpid(), signal.SIGTERM)
            return
