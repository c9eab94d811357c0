"""The pipeline on Ray Data: manifest → fetch → decode → infer → encode → write, each an operator of its own.

Ray fuses neighbours whose resources are equal (decode would then run inside the GPU actor), so every stage
asks for a share of CPU that no neighbour asks for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from masklake.pipeline.decode import DECODED, DecodeOptions, decode_rows, parts
from masklake.pipeline.lake.run_record import RunFolder
from masklake.pipeline.schema import Status
from masklake.pipeline.segment.encode import Vocabulary, encode_rows
from masklake.pipeline.segment.failure_log import log_failures
from masklake.pipeline.segment.fetch import fetch
from masklake.pipeline.segment.infer import FOUND, PredictorFactory, infer_rows, with_found
from masklake.pipeline.segment.ledger import Meter, guarded
from masklake.pipeline.segment.manifest import Manifest
from masklake.pipeline.segment.metrics import GpuMemory
from masklake.pipeline.segment.source import datasource, load, packets
from masklake.pipeline.segment.write import write
from masklake.pipeline.streams.packet import pack, unpack

if TYPE_CHECKING:
    from ray.data import Dataset


_PACKETS_AHEAD = 8
"""Per actor: enough to hide a slow fetch behind the predictor."""
_LOOK_AGAIN_S = 0.02
_READ_CPUS = 0.05
_LARGE_SHARES = {"fetch_cpus": 0.5, "decode_cpus": 0.96, "encode_cpus": 0.91, "write_cpus": 0.4}
"""On machines of 8 CPUs and more."""
_ACTORS_AT_ONCE = 4
"""Actors on CPUs that a run starts with, before there is work enough to scale up for."""
_ACTOR_BYTES = 3 * 2**30
"""What torch, a ResNet-50 model and a batch take in an actor without a GPU, and some room."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What each stage asks of the cluster, and how work is cut.

    actors: least and most predictor actors. infer_gpus, infer_cpus: per actor. The other shares are logical
    CPUs per task: small on a small machine, where they only have to leave room for the actors. Neighbours must
    differ, or Ray fuses them: an actor's share is a multiple of 0.05 or less than that, decode's and encode's are neither.
    """

    actors: tuple[int, int] = (1, 1)
    infer_gpus: float = 0.0
    infer_cpus: float = 1.0
    fetch_cpus: float = 0.2
    decode_cpus: float = 0.31
    encode_cpus: float = 0.21
    write_cpus: float = 0.11
    packet_images: int = 16
    """Images in a task."""
    commit_images: int = 256
    """Images in a pair of Parquet parts; what a kill can cost."""

    @property
    def images_ahead(self) -> int:
        """How many images may be on their way to the predictors, a large one counting as several (`load`): that
        bounds memory whatever the bucket's size, where Ray Data alone fills the object store first."""
        return _PACKETS_AHEAD * self.actors[1] * self.packet_images

    @classmethod
    def fitted(
        cls,
        cpus: int,
        gpus: int,
        *,
        memory: float = math.inf,
        node_cpus: int | None = None,
        actors: tuple[int, int] | None = None,
        packet_images: int | None = None,
        commit_images: int | None = None,
    ) -> Resources:
        """Shares for a cluster of `cpus`, `gpus` and `memory` bytes: a GPU an actor, or a CPU an actor as far
        as memory goes. (An actor with several threads spends them spinning while other stages have the CPUs.)

        However many actors are asked for, half of the CPUs are left for the other stages; and where there are several
        nodes, of which the smallest has `node_cpus`, so much that this one alone has room for all actors and a task of any
        stage. When nodes go, Ray starts their actors again on those that stay, before the tasks that feed them.
        """
        node_cpus = cpus if node_cpus is None else node_cpus
        tasks = {} if node_cpus < 8 else _LARGE_SHARES
        most = gpus or max(1, int(min(cpus, memory / _ACTOR_BYTES)))
        actors = actors or (1 if gpus else min(most, _ACTORS_AT_ONCE), most)
        share = min(0.5 if gpus else 1.0, cpus / 2 / actors[1])
        if not gpus:  # which keep their actors apart
            share = min(
                share, (node_cpus - tasks.get("decode_cpus", cls.decode_cpus) - _READ_CPUS) / actors[1]
            )
        return cls(
            actors=actors,
            infer_gpus=1.0 if gpus else 0.0,
            infer_cpus=_share(share),
            packet_images=packet_images or (64 if gpus else 16),
            commit_images=commit_images or (8192 if gpus else 256),
            **tasks,
        )


def _share(cpus: float) -> float:
    """The share that an actor takes of so many CPUs: at least a hundredth, with which Ray counts here."""
    steps = math.floor(cpus / 0.05)
    return round(steps * 0.05, 2) if steps else max(0.01, math.floor(100 * cpus) / 100)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that the stages need to know of a run."""

    folder: RunFolder
    attempt: int
    model: str
    predictor: PredictorFactory
    vocabulary: Vocabulary
    decode: DecodeOptions
    max_bytes: int
    resources: Resources


def dataset(plan: Plan, ledger: Any) -> Dataset:
    """The lazy dataset whose rows are what was committed (one row per pair of parts)."""
    from ray.data import ActorPoolStrategy, DataContext, read_datasource

    context = DataContext.get_current()
    context.target_max_block_size = 1  # a packet is a block: see pipeline.packet
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    shares = plan.resources
    plain: dict[str, Any] = {"batch_format": "pyarrow", "zero_copy_batch": True}
    manifest = Manifest(plan.folder.manifest_uri, plan.folder.storage)

    def read() -> Iterator[pa.Table]:
        import ray

        handed_out = inferred = 0
        for packet in packets(manifest, plan.folder, plan.attempt, shares.packet_images):
            while True:
                before, inferred = inferred, ray.get(ledger.inferred.remote())
                if inferred < before:  # the ledger was killed, and counts from nothing again
                    handed_out -= before
                if handed_out - inferred < shares.images_ahead:
                    break
                time.sleep(_LOOK_AGAIN_S)
            handed_out += load(unpack(packet))
            yield packet

    def fetch_packet(packet: pa.Table) -> pa.Table:
        rows, meter = unpack(packet), Meter()
        fetched = fetch(rows, plan.folder.storage, plan.max_bytes)
        ledger.report.remote("fetch", meter.figures(len(rows), bytes=fetched["data"].nbytes))
        log_failures(plan.folder.run, "fetch", None, fetched)
        return pack(fetched)

    def decode_packet(packet: pa.Table) -> Iterator[pa.Table]:
        for rows in parts(unpack(packet), plan.decode):
            meter = Meter()
            decoded = guarded(ledger, "decode", rows, lambda r: decode_rows(r, plan.decode), _undecoded)
            ledger.report.remote("decode", meter.figures(len(rows)))
            log_failures(plan.folder.run, "decode", rows, decoded)
            yield pack(decoded)

    def encode_packet(packet: pa.Table) -> pa.Table:
        rows, meter = unpack(packet), Meter()
        encoded = encode_rows(rows, plan.vocabulary)
        ledger.report.remote("encode", meter.figures(len(rows)))
        log_failures(plan.folder.run, "encode", rows, encoded)
        return pack(encoded)

    def write_packets(batch: pa.Table) -> pa.Table:
        rows, meter = unpack(batch), Meter()
        written = write(rows, plan.folder, plan.attempt, plan.model)
        ledger.report.remote("write", meter.figures(written.images, bytes=written.bytes))
        ledger.committed.remote(written.statuses, written.instances)
        return pa.table({"images": [written.images]})

    class Infer:
        """One predictor, and what it waited."""

        def __init__(self) -> None:
            ledger.report.remote("infer", {"workers": 1})  # not before the cluster has room for one
            self._predictor = plan.predictor()
            self._memory = GpuMemory(plan.folder.run, plan.model)
            self._idle_since = time.perf_counter()

        def __call__(self, packet: pa.Table) -> pa.Table:
            idle = time.perf_counter() - self._idle_since
            rows, meter = unpack(packet), Meter()
            found = guarded(ledger, "infer", rows, lambda r: infer_rows(r, self._predictor), _unfound)
            ledger.report.remote("infer", meter.figures(len(rows), idle_seconds=idle))
            ledger.add_inferred.remote(load(rows))
            self._memory.observe()
            log_failures(plan.folder.run, "infer", rows, found)
            self._idle_since = time.perf_counter()
            return pack(found)

    ds = read_datasource(datasource(read), override_num_blocks=1, num_cpus=_READ_CPUS)
    ds = ds.map_batches(fetch_packet, batch_size=None, num_cpus=shares.fetch_cpus, **plain)
    ds = ds.map_batches(decode_packet, batch_size=None, num_cpus=shares.decode_cpus, **plain)
    ds = ds.map_batches(
        Infer,
        batch_size=1,  # a packet; Ray wants to be told a number where there are GPUs
        compute=ActorPoolStrategy(min_size=shares.actors[0], max_size=shares.actors[1]),
        num_cpus=shares.infer_cpus,
        num_gpus=shares.infer_gpus or None,
        **plain,
    )
    ds = ds.map_batches(encode_packet, batch_size=None, num_cpus=shares.encode_cpus, **plain)
    commit = max(1, shares.commit_images // shares.packet_images)
    return ds.map_batches(write_packets, batch_size=commit, num_cpus=shares.write_cpus, **plain)


def _undecoded(row: pa.Table, reason: str) -> pa.Table:
    out = row.drop_columns(["data", "status", "error"])
    out = out.append_column("status", pa.array([str(Status.FAILED)])).append_column(
        "error", pa.array([reason])
    )
    for field in DECODED:
        out = out.append_column(field, pa.nulls(1, field.type))
    order = [name for name in row.schema.names if name != "data"]
    return out.select([*order, *(field.name for field in DECODED)])


def _unfound(row: pa.Table, reason: str) -> pa.Table:
    kept = row.drop_columns(["pixels", "pixel_width", "pixel_height"])
    return with_found(kept, [str(Status.FAILED)], [reason], {field.name: [None] for field in FOUND})
