"""How much a command says: -q leaves its result and its errors. Colours go where NO_COLOR is set, which is rich's own rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

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
