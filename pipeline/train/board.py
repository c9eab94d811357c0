"""What a training tells its driver, and the driver its workers: an actor on which the first worker writes."""

from __future__ import annotations

from typing import Any


class Board:
    """Lives in a Ray actor. Its methods are short."""

    def __init__(self) -> None:
        self._news: dict[str, Any] = {}
        self._skipped: dict[str, str] = {}
        self._stop = False

    def tell(self, news: dict[str, Any]) -> bool:
        """Say how far the training is; whether it is to stop."""
        self._news |= news
        return self._stop

    def step(self) -> int:
        """The step that the training is at; 0 before it has told."""
        return int(self._news.get("step", 0))

    def skip(self, skipped: list[tuple[str, str]]) -> None:
        """Images that could not be learnt from, and why."""
        self._skipped |= dict(skipped)

    def stop(self) -> None:
        """Ask the training to make a checkpoint and end."""
        self._stop = True

    def read(self) -> dict[str, Any]:
        """Everything that was told."""
        return self._news | {"skipped": dict(self._skipped)}
