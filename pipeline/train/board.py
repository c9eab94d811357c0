"""The messages between a training and its driver: an actor to which the first worker writes and both read."""

from __future__ import annotations

from typing import Any


class Board:
    """Lives in a Ray actor. Its methods are short."""

    def __init__(self) -> None:
        self._news: dict[str, Any] = {}
        self._skipped: dict[str, str] = {}
        self._stop = False

    def tell(self, news: dict[str, Any]) -> bool:
        """Report how far the training is. Returns whether it must stop."""
        self._news |= news
        return self._stop

    def step(self) -> int:
        """The step that the training is at; 0 before its first report."""
        return int(self._news.get("step", 0))

    def skip(self, skipped: list[tuple[str, str]]) -> None:
        """Report images that could not be used: (uri, reason)."""
        self._skipped |= dict(skipped)

    def stop(self) -> None:
        """Ask the training to make a checkpoint and end."""
        self._stop = True

    def read(self) -> dict[str, Any]:
        """Everything that was reported, and `skipped`: reasons by URI."""
        return self._news | {"skipped": dict(self._skipped)}
