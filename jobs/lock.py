"""`--lock NAME`: of all who ask for it, on whatever machine, one at a time works in a lake.

Schedules take the same locks, and on a cluster or on Kubernetes this option is how they do.
"""

from __future__ import annotations

import argparse
import functools
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable

from masklake.jobs.cluster.background import meanwhile
from masklake.jobs.options import storage_from
from masklake.jobs.terminal.text import elide, note
from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.lock import Lease, LeaseHeldError
from masklake.pipeline.lake.registry import check_name
from masklake.pipeline.storage.store import normalise_folder, redact

REFUSED = 75
"""The exit code of one who found the lock held: EX_TEMPFAIL of sysexits.h, it may work later."""
_LOOK_S = 1.0


def add_lock_option(parser: argparse._ActionsContainer, name: str) -> None:
    """--lock, whose usual value is the command's `name`."""
    parser.add_argument(
        "--lock",
        type=_lock_name,
        metavar="NAME",
        help=f"work only while nobody else holds LAKE/locks/NAME.json, and hold it; refused (exit code {REFUSED}) where "
        f"another does. Schedules of this command hold {name!r}",
    )


def _lock_name(text: str) -> str:
    try:
        check_name(text, "lock")
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def exclusively(args: argparse.Namespace, work: Callable[[], int]) -> int:
    """What `work` returns, done under `args.lock` where one is asked for; REFUSED, and why, while another holds it.

    Raises UserError where the lake cannot keep a lock.
    """
    if args.lock is None or getattr(args, "dry_run", False):
        return work()
    what = elide(redact(shlex.join(["masklake", *sys.argv[1:]])), 200)
    lease = Lease(normalise_folder(args.lake), args.lock, storage_from(args), what=what)
    try:
        lease.acquire()
    except LeaseHeldError as other:
        note(f"refused: {other}; a holder that died is forgotten after {other.holder.ttl:g} s")
        return REFUSED
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
