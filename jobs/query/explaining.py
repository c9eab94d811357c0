"""What surrounds a query while it runs: its errors become ours, and one that takes too long ends."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from types import TracebackType

import duckdb
from masklake.jobs.query.sandbox import message
from masklake.pipeline.errors import UserError

_DUCKDBS = re.compile(r"[A-Za-z][A-Za-z ]* Error: ")


class Explaining:
    """A context that turns DuckDB's errors, and those of storage, into UserError.

    storage_failure: why a file could not be read, if that is what happened. seconds: after which the connection is
    interrupted; None for no end.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        storage_failure: Callable[[], UserError | None],
        seconds: float | None,
    ) -> None:
        self._connection = connection
        self._storage_failure = storage_failure
        self._seconds = seconds
        self._timer = threading.Timer(seconds, self._end) if seconds else None
        self._ended = False

    def _end(self) -> None:
        self._ended = True
        self._connection.interrupt()

    def __enter__(self) -> None:
        if self._timer:
            self._timer.daemon = True
            self._timer.start()

    def __exit__(
        self, type_: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer.join()
            self._timer = None  # it holds the connection
        from_duckdb = isinstance(value, duckdb.Error) or _through_arrow(value)
        interrupted = (from_duckdb or isinstance(value, RuntimeError)) and "interrupted" in str(value).lower()
        if self._ended and interrupted:
            raise UserError(
                f"it took longer than {self._seconds:g} seconds; ask for less, or give it more time with --timeout"
            ) from value
        if interrupted and not isinstance(value, duckdb.Error):
            raise KeyboardInterrupt from value  # what DuckDB makes of it
        if from_duckdb:
            raise self._storage_failure() or UserError(message(value)) from value


def _through_arrow(error: BaseException | None) -> bool:
    """Whether it is DuckDB's: what happens while a result is streamed comes as Arrow's OSError, without a number."""
    return isinstance(error, OSError) and error.errno is None and bool(_DUCKDBS.match(str(error)))
