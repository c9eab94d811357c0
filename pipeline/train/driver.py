"""A training, from its record to its last checkpoint: Ray Train over workers that may come, go and be killed.

LAKE/runs/<run>/train.json                   model, labels, how far it is, what was decided
LAKE/runs/<run>/checkpoints/step-<n>/        network, running average, moments: safetensors, and state.json
LAKE/runs/<run>/tensorboard/                 event files
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.process import process_alive
from masklake.pipeline.lake.record import HEARTBEAT_S, now
from masklake.pipeline.lake.run_record import RunFolder, SupersededError
from masklake.pipeline.storage.store import Storage, join, redact
from masklake.pipeline.streams.driver_actor import beside_driver
from masklake.pipeline.streams.memory_kills import MemoryKills
from masklake.pipeline.train.board import Board
from masklake.pipeline.train.checkpoints import CHECKPOINTS
from masklake.pipeline.train.metrics import TrainingMetrics
from masklake.pipeline.train.record import TrainingRecord, save
from masklake.pipeline.train.worker import Work, work

EVENTS = "tensorboard"
_FORGET = {"RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S": "30"}
"""Ray Data keeps the reservation of a killed worker's stream for three minutes, and workers started again get too few
resources in that time. A living worker renews its reservation every ten seconds."""
_GRACE_S = 120.0
"""How long a training that must stop may take for its checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Crew:
    """The workers of a training: their number (least, most), the CPUs of each, whether each has a GPU, and how often
    killed workers are started again."""

    workers: tuple[int, int]
    worker_cpus: float
    gpus: bool
    max_failures: int


Watch = Callable[[dict[str, Any]], None]


class Training:
    """Runs `record`'s training on the Ray that is initialised, in the main thread.

    `make_work(board)` makes the work of the workers; it is called with the Board's actor.
    """

    def __init__(
        self,
        record: TrainingRecord,
        make_work: Callable[[Any], Work],
        crew: Crew,
        storage: Storage,
        watch: Watch,
        require_current: Callable[[], None] = lambda: None,
    ) -> None:
        self.record, self._make_work, self._crew, self._storage = record, make_work, crew, storage
        self._watch, self._require_current = watch, require_current
        self._news: dict[str, Any] = {}
        self._failure: Exception | None = None
        self._stopping = False
        self._folder = RunFolder(record.lake, record.run, storage)

    def run(self) -> TrainingRecord:
        """Train to the end. Returns the record, which is in the lake too; its state is trained, stopped, failed or diverged.

        Raises UserError when the lake cannot be written, or another driver has this training, or has taken it over since.
        """
        attempt = self._folder.take_attempt(self.record.attempt, process_alive)
        self.record = replace(self.record, attempt=attempt, state="running", error=None, finished_at=None)
        save(self.record, self._storage)
        try:
            self._require_current()
        except UserError as error:
            save(replace(self.record, state="failed", error=str(error), finished_at=now()), self._storage)
            raise
        self._board = beside_driver(Board)
        self._metrics = TrainingMetrics(self.record.run)
        thread = threading.Thread(target=self._fit, daemon=True)
        before = {s: signal.signal(s, self._stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            thread.start()
            self._wait(thread)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return self._finish()

    def _fit(self) -> None:
        try:
            self._trainer().fit()
        except Exception as error:  # noqa: BLE001  # any error that ends a training is recorded, and the caller reports it
            self._failure = error

    def _trainer(self) -> Any:
        import ray.train
        from ray.train.torch import TorchTrainer

        for name in ("ray.train", "ray.data"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        crew = self._crew
        filesystem, root = self._storage.arrow(join(self.record.lake, "runs", self.record.run))
        low, high = crew.workers
        return TorchTrainer(
            work,
            train_loop_config={"work": self._make_work(self._board)},
            scaling_config=ray.train.ScalingConfig(
                num_workers=high if low == high else (low, high),  # type: ignore[arg-type]  # Ray takes a pair: elastic
                use_gpu=crew.gpus,
                resources_per_worker={"CPU": crew.worker_cpus} | ({"GPU": 1} if crew.gpus else {}),
            ),
            run_config=ray.train.RunConfig(
                name=CHECKPOINTS,
                storage_path=root,
                storage_filesystem=filesystem,
                failure_config=ray.train.FailureConfig(max_failures=crew.max_failures),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
                worker_runtime_env={"env_vars": _FORGET},  # type: ignore[call-arg]  # Ray Train V2 has it; its stubs are of V1
            ),
        )

    def _stop(self, *_: object) -> None:
        if self._stopping:
            raise KeyboardInterrupt
        self._stopping = True
        self._board.stop.remote()

    def _wait(self, thread: threading.Thread) -> None:
        saved, asked, kills = time.monotonic(), None, MemoryKills()
        with contextlib.suppress(KeyboardInterrupt):  # the second Ctrl-C: the last checkpoint is kept
            while thread.is_alive():
                thread.join(0.5)
                self._refresh()
                if trouble := kills.trouble(self._news.get("step")):
                    self._failure = trouble
                    return
                if self._stopping:
                    asked = asked or time.monotonic()
                    if time.monotonic() - asked > _GRACE_S:
                        return
                if time.monotonic() - saved > HEARTBEAT_S:
                    saved = time.monotonic()
                    self._beat()

    def _beat(self) -> None:
        try:
            save(self._current(), self._storage)
        except SupersededError:
            raise
        except UserError:
            pass  # a missed heartbeat is no reason to stop

    def _refresh(self) -> None:
        import ray

        with contextlib.suppress(ray.exceptions.RayError):
            self._news = ray.get(self._board.read.remote(), timeout=5)
        position = (
            self.record.position | self._news
        )  # so that one whose workers never start is seen to stand still
        self._metrics.update(position.get("step", 0), position.get("images", 0), position.get("losses", {}))
        with contextlib.suppress(OSError):  # the terminal is gone; the training is not
            self._watch(self._news)

    def _current(self) -> TrainingRecord:
        news = self._news
        position: dict[str, Any] = {
            name: news[name] for name in ("step", "seconds", "images", "digest") if name in news
        }
        return replace(
            self.record,
            updated_at=now(),
            position=position or self.record.position,
            losses=news.get("losses") or self.record.losses,
            precision=news.get("precision") or self.record.precision,
            skipped=self.record.skipped | news.get("skipped", {}),
        )

    def _finish(self) -> TrainingRecord:
        self._refresh()
        record = self._current()
        if ended := self._news.get("ended"):
            state, error = ended["state"], ended["error"]
        elif self._failure is not None:
            state, error = "failed", redact(_cause(self._failure))
        elif self._stopping:
            state, error = "stopped", None
        else:
            state, error = "trained", None
        self.record = replace(record, state=state, error=error, finished_at=now())
        save(self.record, self._storage)
        self._metrics.ended(state)
        return self.record


def _cause(failure: BaseException) -> str:
    """The reason in one line: the last of a worker's traceback."""
    text = str(failure)
    for error in getattr(failure, "worker_failures", {}).values():
        text = str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else type(failure).__name__
