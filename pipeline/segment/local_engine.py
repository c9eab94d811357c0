"""A run's stages in processes of this machine alone, without Ray: for jobs that would be over before Ray has started.

Each worker process (`local_worker`) takes packets, and gives encoded rows back. The driver alone writes, so a worker that
dies has written nothing: what it held is given to its successor, and the ledger finds the image that killed it.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection
from typing import IO, Any

import numpy as np
import pyarrow as pa
from masklake.pipeline.segment.ledger import Ledger
from masklake.pipeline.segment.local_worker import from_bytes, to_bytes
from masklake.pipeline.segment.manifest import Manifest
from masklake.pipeline.segment.source import packets
from masklake.pipeline.segment.steps import Commits, Plan

_FRUITLESS_LIVES = 3
"""So many processes in a row that died before they began with an image end the run."""
_ROWS_WAITING = 8
_LOOK_S = 0.5


class WorkerFailedError(Exception):
    """A worker has raised an exception, or cannot live. The text is the whole reason."""


class LocalEngine:
    """Processes with one predictor each, as many as the plan's resources have actors."""

    name = "local"

    def __init__(self, run: str, model: str) -> None:
        self.ledger = Ledger()

    def stream(self, plan: Plan) -> None:
        """Work through the manifest to its end, or until the run is stopping. Raises WorkerFailedError."""
        commit = Commits(plan, self.ledger)
        waiting: list[pa.Table] = []
        crew = _Crew(plan, self.ledger)
        try:
            for rows in crew.rows():
                waiting.append(rows)
                if sum(map(len, waiting)) >= plan.resources.commit_images:
                    commit(pa.concat_tables(waiting))
                    waiting = []
            if waiting:
                commit(pa.concat_tables(waiting))
        finally:
            crew.dismiss()

    def snapshot(self) -> dict[str, Any]:
        """The ledger's figures."""
        return self.ledger.snapshot()

    def observe(self, snapshot: Mapping[str, Any], planned: int, before: Mapping[str, int]) -> None:
        """Nothing is exported: a job of this size is over before anybody would look."""

    def trouble(self, snapshot: Mapping[str, Any]) -> None:
        """A worker that dies again and again ends the stream itself."""

    def ended(self, state: str) -> None:
        """See `observe`."""

    @staticmethod
    def cause(failure: BaseException) -> BaseException | str:
        """A worker's own reason."""
        return str(failure) if isinstance(failure, WorkerFailedError) else failure


class _Crew:
    """The worker processes, each with a thread here that starts it, and starts it again when it dies."""

    def __init__(self, plan: Plan, ledger: Ledger) -> None:
        self.ledger = ledger
        self.over = threading.Event()
        self._start = pickle.dumps(plan)
        self.environment = dict(os.environ)
        if not plan.resources.infer_gpus:
            self.environment["CUDA_VISIBLE_DEVICES"] = ""
        folder = plan.folder
        manifest = Manifest(folder.manifest_uri, folder.storage)
        self._packets = packets(manifest, folder, plan.attempt, plan.resources.packet_images, self._stopped)
        self._taking, self._starting = threading.Lock(), threading.Lock()
        self._again: deque[pa.Table] = deque()
        self._lives: set[_Life] = set()
        self._encoded: queue.Queue[pa.Table | Exception | None] = queue.Queue(_ROWS_WAITING)
        workers = plan.resources.actors[1]
        self._threads = [threading.Thread(target=self._tend, daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def rows(self) -> Iterator[pa.Table]:
        """Encoded rows as they come, until every worker is done."""
        working = len(self._threads)
        while working:
            rows = self._encoded.get()
            if isinstance(rows, Exception):
                raise rows
            if rows is None:
                working -= 1
            else:
                yield rows

    def dismiss(self) -> None:
        """End all processes."""
        with self._starting:
            self.over.set()
            for life in self._lives:
                life.kill()
        for thread in self._threads:
            thread.join()

    def _stopped(self) -> bool:
        return self.over.is_set() or self.ledger.stopping()

    def take(self) -> tuple[pa.Table | None, bool]:
        """The next packet, and whether a process that has died had its images; None when there is no more, or the run is stopping."""
        with self._taking:
            if self._stopped():
                return None, False
            if self._again:
                return self._again.popleft(), True
            return next(self._packets, None), False

    def put(self, rows: pa.Table | Exception | None) -> None:
        """Hand something to `rows`, or nothing when the crew is dismissed."""
        while not self.over.is_set():
            try:
                self._encoded.put(rows, timeout=_LOOK_S)
            except queue.Full:
                continue
            return

    def _tend(self) -> None:
        fruitless = 0
        while True:
            with tempfile.TemporaryFile() as log:
                with self._starting:
                    if self.over.is_set():
                        return
                    life = _Life(self, self._start, log)
                    self._lives.add(life)
                code = life.lived()
                self._lives.discard(life)
                if life.done or life.failure is not None:
                    self.put(WorkerFailedError(life.failure) if life.failure is not None else None)
                    return
                fruitless = 0 if life.begun else fruitless + 1
                if fruitless == _FRUITLESS_LIVES:
                    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                    self.put(
                        WorkerFailedError(
                            f"the predictor's process ended {fruitless} times before it began with an image ({how}"
                            f"{_last_line(log)}); is there memory enough?"
                        )
                    )
                    return
            with self._taking:
                self._again.extend(life.undelivered())


class _Life:
    """One process of a worker, from its start to its end."""

    def __init__(self, crew: _Crew, start: bytes, log: IO[bytes]) -> None:
        self._crew = crew
        self._packets: list[pa.Table] = []
        self._delivered: set[int] = set()
        self.begun = self.done = False
        self.failure: str | None = None
        pairs = [socket.socketpair() for _ in range(2)]
        theirs = [pair[1].fileno() for pair in pairs]
        self._process = subprocess.Popen(  # noqa: S603  # our own interpreter and module
            [sys.executable, "-P", "-m", "masklake.pipeline.segment.local_worker", *map(str, theirs)],
            pass_fds=theirs,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=crew.environment,
            start_new_session=True,  # Ctrl-C is for the driver, which lets the worker end its packet
        )
        for _, end in pairs:
            end.close()
        self._feed, self._line = (Connection(pair[0].detach()) for pair in pairs)
        self._start = start

    def lived(self) -> int:
        """Answer the process until it ends; its exit code."""
        feed = threading.Thread(target=self._answer, args=(self._feed,), daemon=True)
        try:
            self._line.send(sys.path)
            self._line.send_bytes(self._start)
        except ConnectionError:
            pass  # it has died at once
        feed.start()
        self._answer(self._line)
        code = self._process.wait()
        feed.join()
        self._feed.close()
        self._line.close()
        return code

    def undelivered(self) -> Iterator[pa.Table]:
        """Of the packets that the process has taken, the rows that it has not given back."""
        for packet in self._packets:
            rest = packet.filter(pa.array(~np.isin(packet["image_id"].to_numpy(), list(self._delivered))))
            if len(rest):
                yield rest

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()

    def _answer(self, connection: Connection) -> None:
        """Carry out the calls that come by `connection`, until the process closes it."""
        try:
            while True:
                method, arguments, wanted = connection.recv()
                result = getattr(self, method)(*arguments)
                if wanted:
                    connection.send(result)
        except (EOFError, ConnectionError):
            return

    # ---- the process calls these by name ----

    def report(self, stage: str, figures: dict[str, float]) -> None:
        self._crew.ledger.report(stage, figures)

    def begin(self, stage: str, ids: tuple[int, ...]) -> int:
        self.begun = True
        return self._crew.ledger.begin(stage, ids)

    def end(self, stage: str, ids: tuple[int, ...]) -> None:
        self._crew.ledger.end(stage, ids)

    def stopping(self) -> bool:
        return self._crew.ledger.stopping()

    def next_packet(self) -> tuple[bytes, bool] | None:
        try:
            packet, again = self._crew.take()
        except Exception as error:  # noqa: BLE001  # the main thread raises it
            self._crew.put(error)
            return None
        if packet is None:
            return None
        self._packets.append(packet)
        return to_bytes(packet), again

    def deliver(self, data: bytes) -> None:
        rows = from_bytes(data)
        self._delivered.update(rows["image_id"].to_pylist())
        self._crew.put(rows)

    def fail(self, reason: str) -> None:
        self.failure = reason

    def finish(self) -> None:
        self.done = True


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    return f"; its last words: {lines[-1]}" if lines else ""
