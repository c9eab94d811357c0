"""What `masklake compact` and `masklake forget` share: options, the lock, and how the work is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from masklake.jobs.lock import under_lock
from masklake.jobs.options.declare import Section, flag, option
from masklake.jobs.options.kinds import Kind
from masklake.jobs.terminal.text import duration, note

if TYPE_CHECKING:
    from masklake.pipeline.storage.store import Storage
    from masklake.pipeline.tend.replacing import Tending

READERS = Section("readers")
_SAY_EVERY_S = 5.0

minutes = Kind(
    "a number of minutes, at least 0, at most 10,080 (a week)", float, lambda value: 0 <= value <= 10_080
)


def grace_option() -> Any:
    """--grace-minutes, the same in both commands."""
    return option(
        minutes, "N", default=10.0, section=READERS,
        help="how long the old files stay for readers that opened the lake before, such as a long query (default 10; 0 where nobody reads)",
    )  # fmt: skip


def no_wait_flag() -> Any:
    """--no-wait, the same in both commands."""
    return flag(
        section=READERS,
        help="do not wait for --grace-minutes to pass: end once the change is committed, and leave removing the old files to the next call",
    )


def locked(
    command: str, lake: str, storage: Storage, grace_minutes: float, work: Callable[[Tending], int]
) -> int:
    """The result of `work`, done while this process holds the lake's lock for such work; REFUSED where another does."""
    from masklake.pipeline.storage.store import normalise_folder
    from masklake.pipeline.tend.replacing import Tending
    from masklake.pipeline.tend.work import LOCK

    tending = Tending(lake=normalise_folder(lake), storage=storage, grace_s=60 * grace_minutes, say=_Teller())
    # Not the command line: the lock's object stays, and would name what is forgotten.
    return under_lock(lake, LOCK, storage, lambda: work(tending), what=f"masklake {command}")


class _Teller:
    """Notes for people; of lines that begin alike, one every few seconds, so that a log stays short."""

    def __init__(self) -> None:
        self._last: tuple[str, float] = ("", 0.0)

    def __call__(self, text: str) -> None:
        kind, now = text.partition(" ")[0], time.monotonic()
        if kind == self._last[0] and now - self._last[1] < _SAY_EVERY_S:
            return
        self._last = kind, now
        note(text)


def call_again(command: str, seconds: float) -> str:
    """What there is left to do after --no-wait."""
    return f"committed; the old files can be removed in {duration(seconds)}: call `masklake {command}` on the lake again then"


def finished_earlier(command: str) -> str:
    """What this call did first."""
    return f"finished `masklake {command}`, which an earlier call had committed"
