"""The work of a run's stages on the rows of a packet, whichever engine carries packets from stage to stage.

Every call is metered in the ledger. What can end its process (native code, memory) is guarded: an image that kills its
worker is found and given up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from masklake.model.decode import DecodeOptions
from masklake.pipeline.decode import DECODED, decode_rows, parts, with_pixel_bytes, without_pixels
from masklake.pipeline.lake.run_record import RunFolder
from masklake.pipeline.schema import Status
from masklake.pipeline.segment import deadline
from masklake.pipeline.segment.encode import Vocabulary, encode_rows
from masklake.pipeline.segment.failure_log import log_failures
from masklake.pipeline.segment.fetch import fetch
from masklake.pipeline.segment.infer import DETECTED, PredictorFactory, infer_rows, with_detections
from masklake.pipeline.segment.ledger import CommitLedger, Meter, StageLedger, guarded
from masklake.pipeline.segment.resources import Resources
from masklake.pipeline.segment.write import write
from masklake.pipeline.storage.explain import explaining
from masklake.pipeline.streams.outcome import with_outcomes

RowWork = Callable[[pa.Table], pa.Table]
"""The work of a stage on the rows of a packet."""
Figures = Callable[[pa.Table], dict[str, float]]
"""Figures that a stage counts besides images and seconds, from the rows that it has made."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that the stages need to know about a run. Picklable."""

    folder: RunFolder
    attempt: int
    model: str
    predictor: PredictorFactory
    vocabulary: Vocabulary
    decode: DecodeOptions
    max_bytes: int
    resources: Resources


@dataclass(frozen=True)
class Steps:
    """All stages but `infer`, which needs a predictor (`Inference`), and `write` (`Commits`)."""

    plan: Plan
    ledger: StageLedger
    clock: Callable[[], float] = time.process_time
    """CPU seconds of what does the steps: of the process, or, where it does others meanwhile, of the thread."""

    def fetch(self, rows: pa.Table) -> pa.Table:
        """MANIFEST rows as FETCHED rows."""
        storage, max_bytes = self.plan.folder.storage, self.plan.max_bytes
        return self.metered("fetch", rows, lambda rows: fetch(rows, storage, max_bytes), _bytes_read)

    def decode(self, rows: pa.Table) -> Iterator[pa.Table]:
        """FETCHED rows as tables of decoded rows, which hold at most 256 MiB of pixels each."""

        def decoded(rows: pa.Table) -> pa.Table:
            return guarded(
                self.ledger, "decode", rows, lambda rows: decode_rows(rows, options), _undecoded, in_time
            )

        def in_time(rows: pa.Table) -> float:
            return deadline.of_bytes(rows["size_bytes"].to_pylist(), self.plan.resources.image_seconds)

        options = self.plan.decode
        measured = guarded(
            self.ledger,
            "decode header",
            rows,
            lambda rows: with_pixel_bytes(rows, options),
            without_pixels,
            in_time,
        )
        for part in parts(measured):
            yield self.metered("decode", part, decoded)

    def encode(self, rows: pa.Table) -> pa.Table:
        """Inferred rows as encoded rows."""

        def encoded(rows: pa.Table) -> pa.Table:
            return encode_rows(rows, self.plan.vocabulary)

        def unencoded(row: pa.Table, reason: str) -> pa.Table:
            return encoded(with_outcomes(row, [str(Status.FAILED)], [reason]))

        def in_time(rows: pa.Table) -> float:
            return deadline.of_pixels(_pixels(rows, "width", "height"), self.plan.resources.image_seconds)

        return self.metered(
            "encode", rows, lambda rows: guarded(self.ledger, "encode", rows, encoded, unencoded, in_time)
        )

    def metered(self, stage: str, rows: pa.Table, work: RowWork, figures: Figures | None = None) -> pa.Table:
        """`work(rows)`. Its time goes to the ledger, the images that failed in it to this process's log."""
        meter = Meter(self.clock)
        done = work(rows)
        self.ledger.report(stage, meter.figures(len(rows), **(figures(done) if figures else {})))
        log_failures(self.plan.folder.run, stage, rows, done)
        return done


@dataclass(frozen=True)
class Commits:
    """The stage `write`, which processes alone have that may change the lake."""

    plan: Plan
    ledger: CommitLedger

    def __call__(self, rows: pa.Table) -> int:
        """Commit encoded rows; how many images they are, 0 where the run has ended meanwhile: a resume commits them.

        Raises SupersededError when a later attempt has begun, and UserError where the lake cannot be written.
        """
        part = rows["image_id"][0].as_py()
        meter = Meter()
        try:
            if not self.ledger.begin_write(part):
                return 0
            with explaining(self.plan.folder.lake, "write to the lake"):
                written = write(rows, self.plan.folder, self.plan.attempt, self.plan.model)
        finally:
            self.ledger.end_write(part)
        self.ledger.report("write", meter.figures(written.images, bytes=written.bytes))
        self.ledger.committed(written.statuses, written.instances)
        return written.images


class Inference:
    """The stage `infer`: one predictor, and the time that it waited for images."""

    def __init__(self, steps: Steps) -> None:
        self._steps, self._ledger = steps, steps.ledger
        self._ledger.report("infer", {"workers": 1})
        self._predictor = steps.plan.predictor()
        self._redone = 0
        if precision := getattr(self._predictor, "precision", None):
            self._ledger.report("infer", {f"{precision}_workers": 1})
        self._idle_since = time.perf_counter()

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Decoded rows as inferred rows."""
        idle = time.perf_counter() - self._idle_since
        detections = self._steps.metered(
            "infer", rows, self._guarded, lambda _: {"idle_seconds": idle} | self._again()
        )
        self._idle_since = time.perf_counter()
        return detections

    def _guarded(self, rows: pa.Table) -> pa.Table:
        def in_time(rows: pa.Table) -> float:
            pixels = _pixels(rows, "pixel_width", "pixel_height")
            return deadline.of_pixels(pixels, self._steps.plan.resources.image_seconds)

        return guarded(
            self._ledger, "infer", rows, lambda rows: infer_rows(rows, self._predictor), _undetected, in_time
        )

    def _again(self) -> dict[str, float]:
        """How many of the packet's images were predicted again in float32, if any."""
        before, self._redone = self._redone, getattr(self._predictor, "redone", 0)
        return {"redone_images": self._redone - before} if self._redone > before else {}


def _pixels(rows: pa.Table, width: str, height: str) -> list[int | None]:
    """Of each image, by these columns; None where it has no size."""
    areas: list[int | None] = pc.multiply_checked(rows[width].cast(pa.int64()), rows[height]).to_pylist()
    return areas


def _bytes_read(fetched: pa.Table) -> dict[str, float]:
    return {"bytes": fetched["data"].nbytes}


def _undecoded(row: pa.Table, reason: str) -> pa.Table:
    out = with_outcomes(row.drop_columns(["data"]), [str(Status.FAILED)], [reason])
    for field in DECODED:
        out = out.append_column(field, pa.nulls(1, field.type))
    return out


def _undetected(row: pa.Table, reason: str) -> pa.Table:
    kept = row.drop_columns(["pixels", "pixel_width", "pixel_height"])
    return with_detections(kept, [str(Status.FAILED)], [reason], {field.name: [None] for field in DETECTED})
