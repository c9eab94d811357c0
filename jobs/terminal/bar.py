"""A bar for work on many things."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from masklake.jobs.terminal.interrupts import each_whole
from masklake.jobs.terminal.manners import progress_console

T = TypeVar("T")


def with_bar(items: Iterable[T], doing: str, total: int, what: str = "this image") -> Iterator[T]:
    """`items`, `total` of them, with a bar on standard error while they are worked on, where that is a terminal. A Ctrl-C ends
    them once the one that is worked on, `what`, is done."""
    from rich.progress import track

    console = progress_console(stderr=True)
    shown = track(items, doing, total=total, console=console, disable=not console.is_terminal, transient=True)
    yield from each_whole(shown, what)
