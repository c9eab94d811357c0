"""The work of each worker of a training: restore, learn step by step, make checkpoints, report progress."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masklake.pipeline.storage.explain import explaining
from masklake.pipeline.storage.store import Storage, join
from masklake.pipeline.streams.scratch import scratch_folder
from masklake.pipeline.train.batches import Batches, StepBatch, stream

if TYPE_CHECKING:
    import torch
    from masklake.model.train.learner import Learner
    from torchvision.models.detection import FasterRCNN

STATE = "state.json"
_TELL_EVERY_S = 0.5
_MOST_LOST = 0.5
_JUDGED_AFTER = 32
"""A training ends as failed when, after 32 images or more, more than half of them could not be read: it would learn
something else than was asked for."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """The settings of a worker. `network` makes the network that the training starts from.

    steps: when the training ends; None where `minutes` decides. threads: of torch, in each worker; None for its own
    choice. save_minutes: between checkpoints. truth: object reference to the TrainingSet.
    """

    network: Callable[[], FasterRCNN]
    batches: Batches
    truth: Any
    board: Any
    steps: int | None
    minutes: float | None
    save_minutes: float
    threads: int | None
    loader_cpus: float
    loaders: int
    events: str
    """URI of the folder of TensorBoard's event files."""
    storage: Storage


@dataclass
class Position:
    """Where a training is. `digest` names the images of all steps so far, in their order."""

    step: int = 0
    seconds: float = 0.0
    images: int = 0
    digest: str = ""

    def after(self, positions: bytes) -> str:
        return hashlib.sha256(self.digest.encode() + positions).hexdigest()[:16]


def work(config: dict[str, Any]) -> None:
    """The loop of a Ray Train worker; `config` holds its Work. Ends at the last step, when told to stop, or when the loss is not a number."""
    import ray
    import ray.train
    import ray.train.torch
    import torch
    from masklake.model.engine.allocator import keep_freed_memory
    from masklake.model.train.learner import Learner

    task: Work = config["work"]
    keep_freed_memory()
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    if task.threads:
        torch.set_num_threads(task.threads)
    device = ray.train.torch.get_device()
    network = task.network()
    wrapped = (lambda module: _distributed(module, device)) if workers > 1 else (lambda module: module)
    learner = Learner(network, task.batches.recipe, device, wrapped)
    position = Position()
    kept = ray.train.get_checkpoint()
    if kept is not None:
        with kept.as_directory() as folder:
            learner.restore(Path(folder))
            position = Position(**json.loads((Path(folder) / STATE).read_text()))
    _Loop(task, learner, position, -1 if kept is None else position.step, rank, workers).run()


def _distributed(module: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(module, device_ids=[device] if device.type == "cuda" else None)


class _Loop:
    def __init__(
        self, work: Work, learner: Learner, position: Position, kept: int, rank: int, workers: int
    ) -> None:
        self._work, self._learner, self._position = work, learner, position
        self._rank, self._workers = rank, workers
        self._started = self._saved = time.monotonic()
        self._before = position.seconds
        self._told_at = 0.0
        self._first = position.step
        self._kept = kept
        self._wanted = self._lost = 0
        self._events = _Events(work, position.step) if rank == 0 else None

    def run(self) -> None:
        for batch in self._stream():
            progress, save, ended, examples = self._agreed(len(batch.examples))
            # Ray Train, told twice of the checkpoint of one step, would delete it twice.
            if (save or ended) and self._position.step > self._kept:
                self._save()
            if ended or not self._learn(batch, progress, examples):
                break
        self._tell(finished=True)
        if self._events is not None:
            self._events.close()

    def _stream(self) -> Iterator[StepBatch]:
        work = self._work
        return stream(
            work.batches,
            work.truth,
            work.board,
            self._position.step,
            worker=self._rank,
            workers=self._workers,
            loader_cpus=work.loader_cpus,
            loaders=work.loaders,
        )

    def _agreed(self, mine: int) -> tuple[float, bool, bool, int]:
        """Progress (0 to 1), whether to save, whether it is over: the first worker's view, which all take; and how many
        examples of the batch all workers have, of which `mine` are here."""
        import torch

        figures = [0.0, 0.0, 0.0]
        if self._rank == 0:
            now = time.monotonic()
            self._position.seconds = self._before + now - self._started
            progress = self._progress()
            stop = self._tell() or progress >= 1 or self._lost_too_many()
            figures = [progress, float(now - self._saved >= 60 * self._work.save_minutes), float(stop)]
        if self._workers > 1:
            shared = torch.tensor([*figures, mine], dtype=torch.float64, device=self._learner.device)
            torch.distributed.all_reduce(shared)  # the other workers say nothing of the first three
            *figures, total = shared.tolist()
            return figures[0], bool(figures[1]), bool(figures[2]), round(total)
        return figures[0], bool(figures[1]), bool(figures[2]), mine

    def _progress(self) -> float:
        work = self._work
        if work.steps is not None:
            return self._position.step / work.steps
        return self._position.seconds / (60 * (work.minutes or 1.0))

    def _learn(self, batch: StepBatch, progress: float, examples: int) -> bool:
        """Take one step, for which all workers have `examples`; False where its loss is not a number, which the driver is told with the batch's images."""
        import ray
        from masklake.model.train.learner import NotFiniteError, share_of

        order = self._work.batches.order
        whole = order.of_step(batch.step)
        mine = len(order.share(batch.step, self._rank, self._workers))
        try:
            losses = self._learner.step(
                batch.examples,
                batch.step,
                progress,
                worker=self._rank,
                share=share_of(len(batch.examples), examples, self._workers),
            )
        except NotFiniteError as error:
            if self._rank == 0:
                uris = ray.get(self._work.truth).uris(whole)
                self._end("diverged", f"step {batch.step}: {error}; its images: {', '.join(uris)}")
            return False
        self._wanted += mine
        self._lost += len(batch.skipped)
        if batch.skipped:
            self._work.board.skip.remote(batch.skipped)
        self._position.step = batch.step + 1
        self._position.images += len(whole)
        self._position.digest = self._position.after(whole.tobytes())
        self._losses = losses
        if self._events is not None:
            self._events.add(self._position, losses)
        return True

    def _lost_too_many(self) -> bool:
        if self._wanted < _JUDGED_AFTER or self._lost <= _MOST_LOST * self._wanted:
            return False
        self._end("failed", f"{self._lost:,} of the first {self._wanted:,} images could not be had")
        return True

    def _end(self, state: str, error: str) -> None:
        """Tell the driver how the training ends, other than by its last step."""
        import ray

        ray.get(self._work.board.tell.remote({"ended": {"state": state, "error": error}}))

    def _tell(self, *, finished: bool = False) -> bool:
        """Tell the board, now and then; whether the driver wants the training to stop."""
        import ray

        now = time.monotonic()
        if self._rank or (not finished and now - self._told_at < _TELL_EVERY_S):
            return False
        self._told_at = now
        news = {
            **vars(self._position),
            "losses": getattr(self, "_losses", {}),
            "workers": self._workers,
            "precision": self._learner.precision,
            "first": self._first,
            "finished": finished,
        }
        return bool(ray.get(self._work.board.tell.remote(news)))

    def _save(self) -> None:
        """Make a checkpoint, all workers together; the first one's weights are everybody's."""
        import ray.train

        metrics = {"step": self._position.step}
        if self._rank:
            ray.train.report(metrics)
        else:
            with tempfile.TemporaryDirectory() as folder:
                self._learner.save(Path(folder))
                (Path(folder) / STATE).write_text(json.dumps(vars(self._position)))
                ray.train.report(
                    metrics,
                    checkpoint=ray.train.Checkpoint.from_directory(folder),
                    checkpoint_dir_name=f"step-{self._position.step:08d}",
                )
            if self._events is not None:
                self._events.upload()
        self._saved, self._kept = time.monotonic(), self._position.step


class _Events:
    """TensorBoard's event file of this attempt, written here and copied into the lake with each checkpoint."""

    def __init__(self, work: Work, step: int) -> None:
        from tensorboardX import SummaryWriter

        self._work = work
        self._folder = scratch_folder("masklake-events-")
        self._writer = SummaryWriter(str(self._folder), purge_step=step or None, max_queue=1000)

    def add(self, position: Position, losses: dict[str, float]) -> None:
        for name, value in losses.items():
            tag = "learning_rate" if name == "rate" else f"loss/{name.removeprefix('loss_')}"
            self._writer.add_scalar(tag, value, position.step)
        self._writer.add_scalar(
            "images_per_second", position.images / max(position.seconds, 1e-9), position.step
        )

    def close(self) -> None:
        self._writer.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def upload(self) -> None:
        self._writer.flush()
        for file in self._folder.iterdir():
            uri = join(self._work.events, file.name)
            with explaining(uri, "write TensorBoard's events"):
                self._work.storage.write(uri, file.read_bytes())
