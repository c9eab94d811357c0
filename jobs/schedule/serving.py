"""One process at a time serves a store of schedules: it locks a file beside the store. The system frees the lock when the
process ends, for any reason."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from masklake.jobs.schedule.store import Store, utc
from masklake.pipeline.errors import UserError

_TRIES = 8
"""Tries to lock the file: a process that only asks who serves the store holds the lock for a moment."""


class StoreServedError(UserError):
    """Another process serves the store."""


@contextlib.contextmanager
def serving(store: Store) -> Iterator[None]:
    """Serve the store for the length of the block. Raises StoreServedError while another process does."""
    with store.lock.open("a+") as file:
        for tries_left in reversed(range(_TRIES)):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if not tries_left:
                    raise StoreServedError(
                        f"{store.path}: is served by {_server_line(store.lock)}; stop that one first, or give --store another PATH"
                    ) from error
            time.sleep(0.1)
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {utc()}")
        file.flush()
        yield


def server(store: Store) -> str | None:
    """The process that serves the store, in words, or None."""
    with contextlib.suppress(FileNotFoundError), store.lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return _server_line(store.lock)
    return None


def _server_line(lock: Path) -> str:
    return lock.read_text(errors="replace")[:200] or "another process"
