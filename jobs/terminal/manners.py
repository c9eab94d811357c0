"""How much a command says: -q leaves its result and its errors. Colours go where NO_COLOR is set, which is rich's own rule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")
_quiet = False


def be_quiet(wanted: bool) -> None:
    """Set for this process: each command line sets it once."""
    global _quiet  # noqa: PLW0603  # a process has one terminal
    _quiet = wanted


def is_quiet() -> bool:
    return _quiet


def progress_console(*, stderr: bool = False) -> Console:
    """The console for headings, progress and closing words of long work; it prints nothing after -q."""
    from rich.console import Console

    return Console(stderr=stderr, quiet=_quiet)


def with_bar(items: Iterable[T], doing: str, total: int) -> Iterator[T]:
    """`items`, `total` of them, with a bar on standard error while they are worked on, where that is a terminal."""
    from rich.progress import track

    console = progress_console(stderr=True)
    yield from track(
        items, doing, total=total, console=console, disable=not console.is_terminal, transient=True
    )
