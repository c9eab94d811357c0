"""A terminal, for commands that run in the test's own process."""

from __future__ import annotations

import pytest
from rich.text import Text


def terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """Let what commands print go to a terminal of so many columns."""
    for name, value in {"TTY_COMPATIBLE": "1", "COLUMNS": str(columns), "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)


def lines_without_styles(output: str) -> list[str]:
    """The lines that a terminal shows for `output`."""
    return Text.from_ansi(output).plain.splitlines()
