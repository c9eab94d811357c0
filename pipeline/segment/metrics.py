"""Prometheus metrics of runs, through Ray: each node's agent exports them, as `ray_masklake_…`.

Only gauges have the label `run`, so that the number of series stays bounded however many runs a cluster has: Ray forgets
a gauge some 20 s after it was last set. Counters have the model and labels of few values. The driver sets them twice a
second from the figures that it shows anyway; they cost no image and no stage any time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from masklake.pipeline.schema import Status
from masklake.pipeline.segment.ledger import STAGES

_RUN = ("run", "model")
_FIGURES = {
    "images": "images that a stage is through with",
    "batches": "calls of a stage, with a packet of images each",
    "seconds": "seconds that a stage's workers were at work, waits for storage included",
    "cpu_seconds": "CPU seconds of a stage's workers",
    "idle_seconds": "seconds that predictors waited for images",
    "bytes": "bytes that a stage read from or wrote to storage",
}
"""Figures of the ledger's stages, with their descriptions; the metric is named `masklake_stage_` and the figure."""


class RunMetrics:
    """The metrics that the driver of a run exports. `model` is name@fingerprint. Ray must be initialised."""

    def __init__(self, run: str, model: str) -> None:
        from ray.util.metrics import Counter, Gauge

        self._labels = {"run": run, "model": model}
        self._model = {"model": model}
        self._last: dict[tuple[str, str], float] = {}
        self._planned = Gauge("masklake_run_planned_images", "images that the run is to process", _RUN)
        self._rows = Gauge("masklake_run_images", "rows of the run in the lake, by status", (*_RUN, "status"))
        self._done = Gauge(
            "masklake_run_stage_images", "images a stage is through with in this attempt", (*_RUN, "stage")
        )
        self._queue = Gauge(
            "masklake_run_queue_images",
            "images that wait for a stage or are in it, since the stage before it is through with them",
            (*_RUN, "stage"),
        )
        self._images = Counter("masklake_images", "rows committed to a lake", ("model", "status"))
        self._instances = Counter("masklake_instances", "instances committed to a lake", ("model",))
        self._runs = Counter("masklake_runs", "attempts at runs that have ended", ("model", "state"))
        self._stages = {
            figure: Counter(f"masklake_stage_{figure}", description, ("model", "stage"))
            for figure, description in _FIGURES.items()
        }

    def update(self, snapshot: Mapping[str, Any], planned: int, before: Mapping[str, int]) -> None:
        """Export the ledger's `snapshot`; `before` counts, by status, the rows that earlier attempts have committed."""
        counts = snapshot.get("counts", {})
        self._planned.set(planned, self._labels)
        for status in Status:
            rows = before.get(status, 0) + counts.get(status, 0)
            self._rows.set(rows, self._labels | {"status": str(status)})
            self._add(self._images, counts.get(status, 0), status=str(status))
        self._add(self._instances, snapshot.get("instances", 0))
        stages = snapshot.get("stages", {})
        through = 0.0
        for position, stage in enumerate(STAGES):
            figures = stages.get(stage, {})
            for figure, counter in self._stages.items():
                self._add(counter, figures.get(figure, 0), stage=stage)
            came, through = through, figures.get("images", 0)
            self._done.set(through, self._labels | {"stage": stage})
            if position:  # for the first stage, this would be all images that are not done
                self._queue.set(max(0, came - through), self._labels | {"stage": stage})

    def ended(self, state: str) -> None:
        """Count the end of the attempt, by its state."""
        self._runs.inc(1, self._model | {"state": state})

    def _add(self, counter: Any, total: float, **labels: str) -> None:
        """Raise `counter` to the ledger's `total`; a ledger that was killed counts from 0 again."""
        key = (counter.info["name"], "".join(labels.values()))
        last = self._last.get(key, 0)
        more = total - last if total >= last else total
        self._last[key] = total
        if more > 0:
            counter.inc(more, self._model | labels)


def _reserved() -> int | None:
    """Bytes of GPU memory that torch holds in this process; None where it uses no GPU."""
    torch = sys.modules.get(
        "torch"
    )  # the pipeline does not import it; the predictor has, or nothing uses a GPU
    if torch is None or not torch.cuda.is_initialized():
        return None
    held: int = torch.cuda.memory_reserved()
    return held


class GpuMemory:
    """The metric of a predictor's actor: the GPU memory that it holds. `read` returns bytes, or None without a GPU."""

    def __init__(self, run: str, model: str, read: Callable[[], int | None] = _reserved) -> None:
        from ray.util.metrics import Gauge

        self._labels = {"run": run, "model": model}
        self._read = read
        self._gauge = Gauge("masklake_gpu_memory_bytes", "GPU memory that a predictor's process holds", _RUN)

    def observe(self) -> None:
        """Export the present value."""
        held = self._read()
        if held is not None:
            self._gauge.set(held, self._labels)
