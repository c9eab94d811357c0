"""A training, from its record to its last checkpoint: Ray Train over workers that may come, go and be killed.

LAKE/runs/<run>/train.json                   what is trained, on which labels, how far it came, what it decided
LAKE/runs/<run>/checkpoints/step-<n>/        network, running average, moments: safetensors, and state.json
LAKE/runs/<run>/tensorboard/                 event files
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.lake.run_record import HEARTBEAT_S, RunFolder, now, silence
from masklake.pipeline.schema import SCHEMA_VERSION
from masklake.pipeline.storage.objects import Fetched
from masklake.pipeline.storage.store import Storage, explain, join, redact
from masklake.pipeline.streams.driver_actor import beside_driver
from masklake.pipeline.train.board import Board
from masklake.pipeline.train.metrics import TrainingMetrics
from masklake.pipeline.train.worker import STATE, Work, work

RECORD = "train.json"
CHECKPOINTS = "checkpoints"
EVENTS = "tensorboard"
_FORGET = {"RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S": "30"}
"""Ray Data keeps what a killed worker's stream had reserved for three minutes, in which those that were started again
get too little to go on; a living one renews it every ten seconds."""
_GRACE_S = 120.0
"""How long a training that was told to stop has for its checkpoint."""


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """What train.json says. No field holds a credential."""

    run: str
    lake: str
    command: list[str]
    options: dict[str, Any]
    """What decides the result; a resumed training has them from here."""
    start: dict[str, Any]
    """What the training started from."""
    data: dict[str, Any]
    versions: dict[str, str]
    state: str = "running"
    attempt: int = 1
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    created_at: str = field(default_factory=now)
    updated_at: str = field(default_factory=now)
    finished_at: str | None = None
    position: dict[str, Any] = field(default_factory=dict)
    """step, seconds, images, and digest, which names the images of all steps in their order."""
    losses: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    error: str | None = None
    model: str | None = None
    """name@version of the result in the lake's registry."""
    figures: dict[str, Any] = field(default_factory=dict)
    decision: dict[str, Any] | None = None
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False).encode("utf-8", "surrogatepass")


def record_uri(lake: str, run: str) -> str:
    return join(lake, "runs", run, RECORD)


def save(record: TrainingRecord, storage: Storage) -> None:
    """Write the record. Raises UserError when that is not possible."""
    uri = record_uri(record.lake, record.run)
    try:
        storage.write(uri, record.to_json())
    except OSError as error:
        raise explain(error, uri, "write the training's record") from error


def trainings(lake: str, storage: Storage) -> list[str]:
    """The ids of the lake's trainings, newest first."""
    return Lake(lake, storage).training_ids()


def load(lake: str, run: str, storage: Storage) -> TrainingRecord:
    """The record of a training: an id, or `last`. Raises UserError when there is none, or it is broken."""
    if run == "last":
        ids = trainings(lake, storage)
        if not ids:
            raise UserError(f"{lake}: has no training yet; `masklake train {lake}` makes one")
        run = ids[0]
    [found] = load_many(lake, [run], storage)
    if isinstance(found, UserError):
        raise found
    return found


def load_many(lake: str, runs: list[str], storage: Storage) -> list[TrainingRecord | UserError]:
    """The records of trainings, all fetched at once; for one that is missing or broken, what is wrong with it."""
    uris = [record_uri(lake, run) for run in runs]
    return [
        _parse(lake, run, uri, found)
        for run, uri, found in zip(runs, uris, storage.get_many(uris), strict=True)
    ]


def _parse(lake: str, run: str, uri: str, found: Fetched | Exception) -> TrainingRecord | UserError:
    if isinstance(found, FileNotFoundError):
        return UserError(f"{lake}: has no training {run!r}; `masklake runs {lake}` lists them")
    if isinstance(found, Exception):
        return explain(found, uri, "read the training's record")
    try:
        content = json.loads(found.data)
        if content["schema_version"] > SCHEMA_VERSION:
            return UserError(f"{uri}: was written by a newer Masklake; upgrade this one")
        known = {one.name for one in fields(TrainingRecord)}
        return TrainingRecord(**{name: value for name, value in content.items() if name in known})
    except (ValueError, KeyError, TypeError) as error:
        return UserError(f"{uri}: is not the record of a training ({error!r}); start a new one")


def next_attempt(record: TrainingRecord, alive: Callable[[int], bool]) -> TrainingRecord:
    """`record` as the next attempt at it starts. Raises UserError when a driver is, or may be, at it."""
    silent = silence(record.host, record.pid, record.updated_at, alive)
    if record.state in ("running", "trained") and silent is not None:
        doing = "running" if record.state == "running" else "being measured"
        raise UserError(
            f"training {record.run}: is {doing} (process {record.pid} on {record.host}, last heard of "
            f"{silent:.0f} s ago); let it finish, or stop it first"
        )
    return replace(
        record, attempt=record.attempt + 1, host=socket.gethostname(), pid=os.getpid(), updated_at=now()
    )


@dataclass(frozen=True, kw_only=True)
class Crew:
    """Who trains: `workers` (least, most), the CPUs of each, whether each has a GPU; how often what is killed is
    started again."""

    workers: tuple[int, int]
    worker_cpus: float
    gpus: bool
    max_failures: int


Watch = Callable[[dict[str, Any]], None]


class Training:
    """Runs `record`'s training on the Ray that is initialised, in the main thread.

    `given` makes the work from the board: (board, truth) are set here.
    """

    def __init__(
        self, record: TrainingRecord, given: Callable[[Any], Work], crew: Crew, storage: Storage, watch: Watch
    ) -> None:
        self.record, self._given, self._crew, self._storage = record, given, crew, storage
        self._watch = watch
        self._told: dict[str, Any] = {}
        self._failure: Exception | None = None
        self._stopping = False
        self._folder = RunFolder(record.lake, record.run, storage)

    def run(self) -> TrainingRecord:
        """Train to the end: the record, whose state is trained, stopped, failed or diverged; it is in the lake too.

        Raises UserError when the lake cannot be written, or another driver has this training.
        """
        from masklake.pipeline.segment.run import process_alive

        attempt = self._folder.take_attempt(self.record.attempt, process_alive)
        self.record = replace(self.record, attempt=attempt, state="running", error=None, finished_at=None)
        save(self.record, self._storage)
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
        except Exception as error:  # noqa: BLE001  # whatever ends a training is recorded, and told by the caller
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
            train_loop_config={"work": self._given(self._board)},
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
        saved, asked = time.monotonic(), None
        with contextlib.suppress(KeyboardInterrupt):  # the second time: what the last checkpoint has is kept
            while thread.is_alive():
                thread.join(0.5)
                self._refresh()
                if self._stopping:
                    asked = asked or time.monotonic()
                    if time.monotonic() - asked > _GRACE_S:
                        return
                if time.monotonic() - saved > HEARTBEAT_S:
                    saved = time.monotonic()
                    with contextlib.suppress(UserError):  # a heartbeat missed is no reason to stop
                        save(self._current(), self._storage)

    def _refresh(self) -> None:
        import ray

        with contextlib.suppress(ray.exceptions.RayError):
            self._told = ray.get(self._board.read.remote(), timeout=5)
        at = self.record.position | self._told  # so that one whose workers never start is seen to stand still
        self._metrics.update(at.get("step", 0), at.get("images", 0), at.get("losses", {}))
        with contextlib.suppress(OSError):  # the terminal is gone; the training is not
            self._watch(self._told)

    def _current(self) -> TrainingRecord:
        told = self._told
        position: dict[str, Any] = {
            name: told[name] for name in ("step", "seconds", "images", "digest") if name in told
        }
        return replace(
            self.record,
            updated_at=now(),
            position=position or self.record.position,
            losses=told.get("losses") or self.record.losses,
            skipped=self.record.skipped | told.get("skipped", {}),
        )

    def _finish(self) -> TrainingRecord:
        self._refresh()
        record = self._current()
        if ended := self._told.get("ended"):
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
    for one in getattr(failure, "worker_failures", {}).values():
        text = str(one)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else type(failure).__name__


def last_step(record: TrainingRecord, storage: Storage) -> int:
    """The step of the newest whole checkpoint, from which the training would go on; 0 where there is none."""
    found = _whole_checkpoints(record, storage)
    return int(found[0][0].rpartition("-")[2]) if found else 0


def last_checkpoint(record: TrainingRecord, storage: Storage, into: Path) -> dict[str, Any] | None:
    """Copy the newest whole checkpoint into the local folder `into`; its state, or None where there is none."""
    found = _whole_checkpoints(record, storage)
    if not found:
        return None
    folder, names = found[0]
    for name in names:
        (into / name).write_bytes(storage.read(join(folder, name)))
    state: dict[str, Any] = json.loads((into / STATE).read_text())
    return state


def _whole_checkpoints(record: TrainingRecord, storage: Storage) -> list[tuple[str, set[str]]]:
    """(folder, names of its files), newest first."""
    root = join(record.lake, "runs", record.run, CHECKPOINTS)
    found: dict[str, set[str]] = {}
    for uri in storage.list(root):
        folder, _, name = uri.rpartition("/")
        # Arrow marks a folder in S3 by an object without a name.
        if folder.startswith(f"{root}/step-") and name:
            found.setdefault(folder, set()).add(name)
    whole = {STATE, "optimizer.safetensors"}
    return [(folder, found[folder]) for folder in sorted(found, reverse=True) if whole <= found[folder]]
