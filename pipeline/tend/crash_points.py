"""The steps between which a process can be killed, by name, so that tests can stop it at each of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

POINTS = (
    "begun",
    "part staged",
    "all staged",
    "committed",
    "waited",
    "part put in place",
    "old part removed",
    "all in place",
    "trace removed",
    "traces removed",
    "retired",
    "staging removed",
    "finished",
)
"""In the order in which they are reached; those of a part are reached for each part, and "trace removed" by `forget` only."""

_hooks: list[Callable[[str], None]] = []


def reach(point: str) -> None:
    """The work has come to this point."""
    if point not in POINTS:
        raise ValueError(f"{point!r} is not among the crash points")
    for hook in _hooks:
        hook(point)


@contextlib.contextmanager
def on_reach(hook: Callable[[str], None]) -> Iterator[None]:
    """Call `hook` at each point while this context lasts. For tests: the hook may raise, or end the process."""
    _hooks.append(hook)
    try:
        yield
    finally:
        _hooks.remove(hook)
