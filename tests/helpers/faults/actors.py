"""Threads that stand still before and after each change of a storage, until they are let go: for any interleaving of commands."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from masklake.pipeline.storage.crash_points import on_reach

_PATIENCE_S = 60.0


class KilledError(BaseException):
    """Stands for SIGKILL: nothing catches it, and from now on the actor changes nothing."""


class Actor:
    """A command, in a thread that is at a step, or has ended."""

    def __init__(self, name: str, work: Callable[[Actor], object]) -> None:
        self.name = name
        self.point = "its beginning"
        self.error: Exception | None = None
        self.killed = False
        self._go, self._arrived = threading.Semaphore(0), threading.Semaphore(0)
        self._in_exchange = False
        self._thread = threading.Thread(target=self._run, args=(work,), name=name, daemon=True)
        self._thread.start()
        self._await()

    def __repr__(self) -> str:
        end = "killed" if self.killed else f"ended: {self.error or 'well'}"
        return f"{self.name} ({f'at {self.point}' if self.alive else end})"

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return not self._over

    def _run(self, work: Callable[[Actor], object]) -> None:
        _actors[threading.get_ident()] = self
        self._over = False
        try:
            self.pause("its beginning")
            work(self)
        except KilledError:
            pass
        except Exception as error:  # noqa: BLE001  # whoever started it looks at it
            self.error = error
        finally:
            del _actors[threading.get_ident()]
            self._over = True
            self._arrived.release()

    def pause(self, point: str) -> None:
        """Stand still here until the next `step`. (Not within a compare-and-set of a directory, which holds its lock.)"""
        if self.killed:
            raise KilledError
        held, self._in_exchange = self._in_exchange, point.startswith("replace ")
        if held and point.startswith("written aside"):
            return
        self.point = point
        self._arrived.release()
        self._go.acquire()
        if self.killed:
            raise KilledError

    def step(self, steps: int = 1) -> None:
        """Let it go on to the next step, or so many."""
        for _ in range(steps):
            if self.alive:
                self._go.release()
                self._await()

    def finish(self) -> None:
        """Let it go on to its end."""
        while self.alive:
            self.step()

    def kill(self) -> None:
        """End it where it stands."""
        if self.alive:
            self.killed = True
            self.finish()

    def _await(self) -> None:
        assert self._arrived.acquire(timeout=_PATIENCE_S), f"{self.name} hangs after {self.point}"


_actors: dict[int, Actor] = {}
"""By the ids of their threads."""


def current() -> Actor | None:
    """The actor whose thread this is."""
    return _actors.get(threading.get_ident())


@contextlib.contextmanager
def acting() -> Iterator[None]:
    """While this lasts, actors stand still at their steps."""

    def hook(point: str) -> None:
        if actor := current():
            actor.pause(point)

    with on_reach(hook):
        yield
