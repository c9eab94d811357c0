"""The ledger of a run, to which every stage reports: a small Ray actor, or an object of the driver.

It keeps the per-stage accounting for the progress display and the run record, and remembers what each worker
was doing, so that an image that kills its worker is recognised instead of being retried for ever.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa
from masklake.pipeline.segment.deadline import within

STAGES = ("fetch", "decode", "infer", "encode", "write")
_DEATHS_ALONE = 2
"""After so many workers that died over an image alone, the image is given up."""


class StageLedger(Protocol):
    """The ledger as the stages call it, from whichever process they are in."""

    def report(self, stage: str, figures: dict[str, float]) -> None:
        """Add `figures` to a stage: images, batches, seconds, cpu_seconds, bytes; for infer also idle_seconds, workers,
        <precision>_workers, and redone_images (predicted again in float32, because a lower precision overflowed)."""

    def begin(self, stage: str, ids: tuple[int, ...]) -> int:
        """A worker begins with these images. Returns how many workers began with exactly these before and never ended."""

    def end(self, stage: str, ids: tuple[int, ...]) -> None:
        """The worker is done with these images."""

    def stopping(self) -> bool:
        """Whether the run is to end: no new image is begun, and images already predicted are written."""


class CommitLedger(StageLedger, Protocol):
    """The ledger as the stage that writes calls it."""

    def begin_write(self, part: int) -> bool:
        """Whether a part, named by its first image, may be written. Once the ledger is closed none may."""

    def end_write(self, part: int) -> None:
        """The part is written, or will not be."""

    def committed(self, counts: dict[str, int], instances: int) -> None:
        """Count rows that are in the lake, by status."""


@dataclass
class Ledger(CommitLedger):
    """The ledger itself. Several threads may call it."""

    stages: dict[str, Counter] = field(default_factory=lambda: {stage: Counter() for stage in STAGES})
    counts: Counter = field(default_factory=Counter)
    instances: int = 0
    _held: Counter = field(default_factory=Counter)
    _inferred: int = 0
    _asked: bool = False
    _stopping: bool = False
    _writing: set[int] = field(default_factory=set)
    _closed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def report(self, stage: str, figures: dict[str, float]) -> None:
        with self._lock:
            self.stages[stage].update(figures)

    def committed(self, counts: dict[str, int], instances: int) -> None:
        with self._lock:
            self.counts.update(counts)
            self.instances += instances

    def begin(self, stage: str, ids: tuple[int, ...]) -> int:
        with self._lock:
            deaths = self._held[stage, ids]
            self._held[stage, ids] += 1
        return deaths

    def end(self, stage: str, ids: tuple[int, ...]) -> None:
        del self._held[stage, ids]

    def begin_write(self, part: int) -> bool:
        with self._lock:
            if not self._closed:
                self._writing.add(part)
            return not self._closed

    def end_write(self, part: int) -> None:
        with self._lock:
            self._writing.discard(part)

    def close(self) -> int:
        """From now on no write begins. Returns how many have not ended."""
        with self._lock:
            self._closed = True
            return len(self._writing)

    def stop(self) -> None:
        """From now on the run is `stopping`."""
        self._stopping = True

    def stopping(self) -> bool:
        return self._stopping

    def add_inferred(self, load: int) -> None:
        """Count images whose prediction is done, by their load (`pipeline.segment.source.load`)."""
        with self._lock:
            self._inferred += load

    def pace(self, handed_out: int) -> tuple[int, bool]:
        """The load of all images whose prediction is done, and whether the run is stopping.

        handed_out: the load that the source has handed out. A ledger that was started in place of one that was killed takes all of it for
        done: what it cannot count any more would keep the source waiting for ever.
        """
        with self._lock:
            if not self._asked:
                self._asked, self._inferred = True, max(self._inferred, handed_out)
            return self._inferred, self._stopping

    def snapshot(self) -> dict[str, Any]:
        """The figures that the driver shows and records."""
        with self._lock:
            return {
                "stages": {stage: dict(figures) for stage, figures in self.stages.items()},
                "counts": dict(self.counts),
                "instances": self.instances,
            }


class Meter:
    """Times one call of a stage: wall seconds, and CPU seconds of this process, or of another `clock`."""

    def __init__(self, clock: Callable[[], float] = time.process_time) -> None:
        self._clock = clock
        self._wall, self._cpu = time.perf_counter(), clock()

    def figures(self, images: int, **others: float) -> dict[str, float]:
        return {
            "images": images,
            "batches": 1,
            "seconds": time.perf_counter() - self._wall,
            "cpu_seconds": self._clock() - self._cpu,
            **others,
        }


def guarded(
    ledger: StageLedger,
    stage: str,
    rows: pa.Table,
    work: Callable[[pa.Table], pa.Table],
    give_up: Callable[[pa.Table, str], pa.Table],
    deadline: Callable[[pa.Table], float] | None = None,
) -> pa.Table:
    """`work(rows)`, unless a worker died over these rows: then one row at a time, giving up the row that kills.

    The engine tries the rows of a dead worker again; `ledger` knows a retry from a first try.
    `give_up(row, reason)` makes the row of an image that has killed two workers which worked on it alone.
    deadline: seconds that the work on some rows may take; then this process is ended, as if the work had killed it.
    """

    def in_time(rows: pa.Table) -> pa.Table:
        with nullcontext() if deadline is None else within(deadline(rows)):
            return work(rows)

    ids = tuple(rows["image_id"].to_pylist())
    alone, given_up = (
        f"{stage} alone",
        [],
    )  # a name of its own: else a death over a packet of one image would count twice
    if not ledger.begin(stage, ids):
        result = in_time(rows)
    else:
        results = []
        for i, image in enumerate(ids):
            deaths = ledger.begin(alone, (image,))
            row = rows.slice(i, 1)
            if deaths < _DEATHS_ALONE:
                results.append(in_time(row))
                ledger.end(alone, (image,))
            else:
                results.append(give_up(row, _reason(stage, None if deadline is None else deadline(row))))
                given_up.append(image)
        result = pa.concat_tables(results)
    # Only now: another image of the packet could have killed this worker, and then all would be tried again.
    for image in given_up:
        ledger.end(alone, (image,))
    ledger.end(stage, ids)
    return result


def _reason(stage: str, seconds: float | None) -> str:
    reason = f"its {stage} worker was killed {_DEATHS_ALONE} times over it alone"
    return reason if seconds is None else f"{reason}, or took longer than {seconds:g} s"
