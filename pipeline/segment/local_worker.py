"""A worker of the local engine: a process that takes packets from the driver and gives encoded rows back.

    python -P -m masklake.pipeline.segment.local_worker FEED WORK    # two connections of the driver's

It fetches one packet ahead in a thread; all else is done in the main thread, so that no stage competes with the model. It
never writes to the lake, and ends when its driver does.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Iterator, Set
from multiprocessing.connection import Connection
from typing import Any

import pyarrow as pa


def to_bytes(rows: pa.Table) -> bytes:
    """`rows` as an Arrow stream, which holds no more than these rows (a pickled slice would hold the whole)."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return sink.getvalue().to_pybytes()


def from_bytes(data: bytes) -> pa.Table:
    """The table that `to_bytes` has written."""
    return pa.ipc.open_stream(data).read_all()


class Calls:
    """Calls of the driver's methods, by name, over a connection that one thread has for itself."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def tell(self, method: str, *arguments: Any) -> None:
        """Call a method that returns nothing."""
        self._connection.send((method, arguments, False))

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method and wait for what it returns."""
        self._connection.send((method, arguments, True))
        return self._connection.recv()


class CallingLedger:
    """The ledger, which is in the driver: a `StageLedger`.

    `suspects`: images over which another process may have died. Of others the driver is only told that they are begun with: an answer
    takes milliseconds where every CPU is at work.
    """

    def __init__(self, line: Calls, suspects: Set[int] = frozenset()) -> None:
        self._line, self._suspects = line, suspects

    def report(self, stage: str, figures: dict[str, float]) -> None:
        self._line.tell("report", stage, figures)

    def begin(self, stage: str, ids: tuple[int, ...]) -> int:
        if self._suspects.isdisjoint(ids):
            self._line.tell("begin", stage, ids)
            return 0
        return int(self._line.ask("begin", stage, ids))

    def end(self, stage: str, ids: tuple[int, ...]) -> None:
        self._line.tell("end", stage, ids)

    def stopping(self) -> bool:
        return bool(self._line.ask("stopping"))


def work(plan: Any, feed: Calls, line: Calls) -> None:
    """Work through the packets that the driver has, to the last one."""
    from masklake.model.engine.allocator import keep_freed_memory
    from masklake.pipeline.decode import DECODING_KEEPS
    from masklake.pipeline.segment.steps import Inference, Steps

    keep_freed_memory(*DECODING_KEEPS)  # a predictor may keep more
    fetched: queue.Queue[pa.Table | Exception | None] = queue.Queue(1)
    suspects: set[int] = set()
    threading.Thread(target=_fetch, args=(plan, feed, fetched, suspects), daemon=True).start()
    steps = Steps(plan, CallingLedger(line, suspects))
    inference = Inference(steps)  # the first packet comes meanwhile
    for rows in _taken(fetched):
        for decoded in steps.decode(rows):
            if line.ask("stopping"):
                return  # a resume will process these images
            line.tell("deliver", to_bytes(steps.encode(inference(decoded))))


def _taken(fetched: queue.Queue[pa.Table | Exception | None]) -> Iterator[pa.Table]:
    while (rows := fetched.get()) is not None:
        if isinstance(rows, Exception):
            raise rows
        yield rows


def _fetch(
    plan: Any, feed: Calls, fetched: queue.Queue[pa.Table | Exception | None], suspects: set[int]
) -> None:
    from masklake.pipeline.segment.steps import Steps

    steps = Steps(plan, CallingLedger(feed), time.thread_time)
    try:
        while (answer := feed.ask("next_packet")) is not None:
            data, again = answer
            packet = from_bytes(data)
            if again:
                suspects.update(packet["image_id"].to_pylist())
            fetched.put(steps.fetch(packet))
        fetched.put(None)
    except (EOFError, ConnectionError):
        os._exit(1)  # the driver is dead
    except Exception as error:  # noqa: BLE001  # the main thread raises it
        fetched.put(error)


def main() -> None:
    feed, connection = (Connection(int(number)) for number in sys.argv[1:])
    sys.path[:] = (
        connection.recv()
    )  # first: what follows may be defined anywhere that the driver imports from
    plan, line = connection.recv(), Calls(connection)
    try:
        work(plan, Calls(feed), line)
        line.ask("finish")
    except (EOFError, ConnectionError):
        pass  # the driver is dead
    except Exception as error:  # noqa: BLE001  # the driver raises it
        from masklake.pipeline.errors import UserError

        lines = [text.strip() for text in str(error).splitlines() if text.strip()]
        reason = f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"
        line.ask("fail", str(error) if isinstance(error, UserError) else reason)
    os._exit(
        0
    )  # nothing is open that an orderly end would have to close, and torch takes half a second for it


if __name__ == "__main__":
    main()
