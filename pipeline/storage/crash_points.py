"""The steps between which a process can be killed: before and after each change of a storage, and where work says so.

Tests list them, and end the process at each of them. Without a hook a step costs nothing that could be measured beside a write.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

_hooks: list[Callable[[str], None]] = []


def reach(*point: str) -> None:
    """The work has come to this point, which the words name."""
    for hook in _hooks:
        hook(" ".join(point))


@contextlib.contextmanager
def on_reach(hook: Callable[[str], None]) -> Iterator[None]:
    """Call `hook` at each point while this context lasts. For tests: the hook may raise, wait, or end the process."""
    _hooks.append(hook)
    try:
        yield
    finally:
        _hooks.remove(hook)
