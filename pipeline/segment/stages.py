"""The pipeline on Ray Data: manifest → fetch → decode → infer → encode → write, each an operator of its own.

Ray fuses neighbours whose resources are equal (decode would then run inside the GPU actor), so every stage
asks for a share of CPU that no neighbour asks for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from masklake.model.decode import DecodeOptions
from masklake.model.engine.allocator import keep_freed_memory
from masklake.pipeline.decode import DECODED, DECODING_KEEPS, decode_rows, parts
from masklake.pipeline.lake.run_record import RunFolder
from masklake.pipeline.schema import Status
from masklake.pipeline.segment.encode import Vocabulary, encode_rows
from masklake.pipeline.segment.failure_log import log_failures
from masklake.pipeline.segment.fetch import fetch
from masklake.pipeline.segment.infer import DETECTED, PredictorFactory, infer_rows, with_detections
from masklake.pipeline.segment.ledger import Meter, guarded
from masklake.pipeline.segment.manifest import Manifest
from masklake.pipeline.segment.metrics import GpuMemory
from masklake.pipeline.segment.resources import READ_CPUS, Resources
from masklake.pipeline.segment.source import datasource, load, packets
from masklake.pipeline.segment.write import write
from masklake.pipeline.streams.outcome import with_outcomes
from masklake.pipeline.streams.packet import pack, packet_context, unpack

if TYPE_CHECKING:
    from ray.data import Dataset


_LOOK_AGAIN_S = 0.02
RowWork = Callable[[pa.Table], pa.Table]
"""The work of a stage on the rows of a packet."""
Figures = Callable[[pa.Table], dict[str, float]]
"""Figures that a stage counts besides images and seconds, from the rows that it has made."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that the stages need to know about a run."""

    folder: RunFolder
    attempt: int
    model: str
    predictor: PredictorFactory
    vocabulary: Vocabulary
    decode: DecodeOptions
    max_bytes: int
    resources: Resources


def dataset(plan: Plan, ledger: Any) -> Dataset:
    """The lazy dataset of a run. Reading it does the work; each of its rows stands for a committed pair of parts."""
    from ray.data import ActorPoolStrategy, read_datasource

    packet_context()
    shares = plan.resources
    plain: dict[str, Any] = {"batch_format": "pyarrow", "zero_copy_batch": True}
    manifest = Manifest(plan.folder.manifest_uri, plan.folder.storage)

    def read() -> Iterator[pa.Table]:
        import ray

        def stopped() -> bool:
            return bool(ray.get(ledger.stopping.remote()))

        handed_out = inferred = 0
        for packet in packets(manifest, plan.folder, plan.attempt, shares.packet_images, stopped):
            while True:
                if stopped():
                    return
                before, inferred = inferred, ray.get(ledger.inferred.remote())
                if inferred < before:  # the ledger was killed, and counts from 0 again
                    handed_out -= before
                if handed_out - inferred < shares.images_ahead:
                    break
                time.sleep(_LOOK_AGAIN_S)
            handed_out += load(unpack(packet))
            yield packet

    def metered(stage: str, rows: pa.Table, work: RowWork, figures: Figures = _no_figures) -> pa.Table:
        """The packet of `work(rows)`. Its time goes to the ledger, the images that failed in it to the worker's log."""
        meter = Meter()
        done = work(rows)
        ledger.report.remote(stage, meter.figures(len(rows), **figures(done)))
        log_failures(plan.folder.run, stage, rows, done)
        return pack(done)

    def fetch_packet(packet: pa.Table) -> pa.Table:
        storage = plan.folder.storage
        return metered(
            "fetch", unpack(packet), lambda rows: fetch(rows, storage, plan.max_bytes), _bytes_read
        )

    def decode_packet(packet: pa.Table) -> Iterator[pa.Table]:
        keep_freed_memory(*DECODING_KEEPS)

        def decoded(rows: pa.Table) -> pa.Table:
            return guarded(ledger, "decode", rows, lambda rows: decode_rows(rows, plan.decode), _undecoded)

        for rows in parts(unpack(packet), plan.decode):
            yield metered("decode", rows, decoded)

    def encode_packet(packet: pa.Table) -> pa.Table:
        return metered("encode", unpack(packet), lambda rows: encode_rows(rows, plan.vocabulary))

    def write_packets(batch: pa.Table) -> pa.Table:
        rows, meter = unpack(batch), Meter()
        written = write(rows, plan.folder, plan.attempt, plan.model)
        ledger.report.remote("write", meter.figures(written.images, bytes=written.bytes))
        ledger.committed.remote(written.statuses, written.instances)
        return pa.table({"images": [written.images]})

    class Infer:
        """One predictor, and the time that it waited for images."""

        def __init__(self) -> None:
            ledger.report.remote("infer", {"workers": 1})  # counted only once the cluster has room for it
            self._predictor = plan.predictor()
            self._redone = 0
            if precision := getattr(self._predictor, "precision", None):
                ledger.report.remote("infer", {f"{precision}_workers": 1})
            self._memory = GpuMemory(plan.folder.run, plan.model)
            self._idle_since = time.perf_counter()

        def __call__(self, packet: pa.Table) -> Iterator[pa.Table]:
            import ray

            if ray.get(ledger.stopping.remote()):
                return  # a resume will process these images
            idle = time.perf_counter() - self._idle_since
            rows = unpack(packet)
            detections = metered("infer", rows, self._infer, lambda _: {"idle_seconds": idle} | self._again())
            ledger.add_inferred.remote(load(rows))
            self._memory.observe()
            self._idle_since = time.perf_counter()
            yield detections

        def _again(self) -> dict[str, float]:
            """How many of the packet's images were predicted again in float32, if any."""
            before, self._redone = self._redone, getattr(self._predictor, "redone", 0)
            return {"redone_images": self._redone - before} if self._redone > before else {}

        def _infer(self, rows: pa.Table) -> pa.Table:
            return guarded(ledger, "infer", rows, lambda rows: infer_rows(rows, self._predictor), _undetected)

    ds = read_datasource(datasource(read), override_num_blocks=1, num_cpus=READ_CPUS)
    ds = ds.map_batches(fetch_packet, batch_size=None, num_cpus=shares.fetch_cpus, **plain)
    ds = ds.map_batches(decode_packet, batch_size=None, num_cpus=shares.decode_cpus, **plain)
    ds = ds.map_batches(
        Infer,
        batch_size=1,  # one packet; with GPUs, Ray requires a number
        compute=ActorPoolStrategy(min_size=shares.actors[0], max_size=shares.actors[1]),
        num_cpus=shares.infer_cpus,
        num_gpus=shares.infer_gpus or None,
        **plain,
    )
    ds = ds.map_batches(encode_packet, batch_size=None, num_cpus=shares.encode_cpus, **plain)
    commit = max(1, shares.commit_images // shares.packet_images)
    return ds.map_batches(write_packets, batch_size=commit, num_cpus=shares.write_cpus, **plain)


def _no_figures(_: pa.Table) -> dict[str, float]:
    return {}


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
