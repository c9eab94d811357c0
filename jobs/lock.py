"""`--lock NAME`: of all who ask for it, on whatever machine, one at a time works in a lake.

Schedules take the same locks, and on a cluster or on Kubernetes this option is how they do.
"""

from __future__ import annotations

import functools
import os
import shlex
import signal
import threading
from collections.abc import Callable

from masklake.jobs.cluster.background import meanwhile
from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.options.parser import typed
from masklake.jobs.terminal.text import elide, note
from masklake.pipeline.lake.lock import Lease, LeaseHeldError
from masklake.pipeline.storage.store import Storage, normalise_folder, redact

_LOOK_S = 1.0


def exclusively(lake: str, lock: str | None, storage: Storage, work: Callable[[], int]) -> int:
    """What `work` returns, done under the lake's `lock` where one is asked for; REFUSED, and why, while another holds it.

    Raises UserError where the lake cannot keep a lock.
    """
    if lock is None:
        return work()
    what = elide(redact(shlex.join(typed())), 200)
    lease = Lease(normalise_folder(lake), lock, storage, what=what)
    try:
        lease.acquire()
    except LeaseHeldError as other:
        note(f"refused: {other}; a holder that died is forgotten after {other.holder.ttl:g} s")
        return ExitCode.REFUSED
    try:
        with meanwhile(functools.partial(_watch, lease)):
            return work()
    finally:
        lease.release()


def _watch(lease: Lease, over: threading.Event) -> None:
    """Stop this process, as SIGTERM does, when the lease is lost."""
    while not over.wait(_LOOK_S):
        if lease.lost:
            note(f"stopping: the lock {lease.uri} could not be kept, and another may hold it")
            os.kill(os.getpid(), signal.SIGTERM)
            return
