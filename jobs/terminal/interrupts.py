"""Ctrl-C: once, and what is in flight is finished; twice, and the command ends at once.

`segment` and `train` keep to that by handlers of their own, in the floors below. Here is what the other commands need.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn, TypeVar

from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.terminal.manners import is_quiet

T = TypeVar("T")
CLEANUP_S = 5.0
"""How long what cleans up may still take after a second Ctrl-C."""


def interrupt_once() -> None:
    """Let the first Ctrl-C interrupt what runs, and no further one what cleans up after it, such as Ray's start; but after the
    second the process ends soon, whatever hangs.

    A second KeyboardInterrupt, raised while the first one passes, would end the process by the signal, without a line.
    """
    # Else the caller ignores it, as shells do for what they start in the background.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)


def _interrupted(*_: object) -> NoReturn:
    signal.signal(signal.SIGINT, _hurried)
    raise KeyboardInterrupt


def _hurried(*_: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end = threading.Timer(CLEANUP_S, _end)
    end.daemon = True
    end.start()


def _end() -> NoReturn:
    os.write(2, b"masklake: interrupted\n")
    os._exit(ExitCode.STOPPED)


@contextlib.contextmanager
def finishing(what: str) -> Iterator[Callable[[], bool]]:
    """A block that the first Ctrl-C does not interrupt: it is told, and what this gives says that it came. The second does."""
    before = signal.getsignal(signal.SIGINT)
    came = False

    def note_it(*_: object) -> None:
        nonlocal came
        came = True
        signal.signal(signal.SIGINT, before)
        if not is_quiet():
            os.write(2, f"masklake: stopping after {what} (Ctrl-C again stops at once)\n".encode())

    if threading.current_thread() is not threading.main_thread() or before in (signal.SIG_IGN, None):
        yield lambda: False
        return
    signal.signal(signal.SIGINT, note_it)
    try:
        yield lambda: came
    finally:
        if not came:
            signal.signal(signal.SIGINT, before)


def each_whole(items: Iterable[T], what: str) -> Iterator[T]:
    """`items`; a Ctrl-C ends them once the one that is worked on, `what`, is done. Raises KeyboardInterrupt then."""
    with finishing(what) as came:
        for item in items:
            yield item
            if came():
                signal.raise_signal(signal.SIGINT)
