"""The pipeline on Ray Data: manifest → load (fetch, decode) → infer (→ encode) → write, each an operator of its own.

A task costs Ray and Ray Data some ten milliseconds of CPU, so what needs no resources of its own shares an operator: fetch
with decode, and encode with infer where the predictors have no GPU that it would keep waiting.

Ray fuses neighbours whose resources are equal (decode would then run inside the GPU actor), so every operator
asks for a share of CPU that no neighbour asks for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from masklake.model.engine.allocator import keep_freed_memory
from masklake.pipeline.decode import DECODING_KEEPS
from masklake.pipeline.segment.manifest import Manifest
from masklake.pipeline.segment.metrics import GpuMemory
from masklake.pipeline.segment.resources import READ_CPUS
from masklake.pipeline.segment.source import datasource, load, packets
from masklake.pipeline.segment.steps import Commits, Inference, Plan, Steps
from masklake.pipeline.streams.packet import pack, packet_context, unpack

if TYPE_CHECKING:
    from masklake.pipeline.segment.actor_ledger import ActorLedger
    from ray.data import Dataset


_LOOK_AGAIN_S = 0.1


def dataset(plan: Plan, ledger: ActorLedger) -> Dataset:
    """The lazy dataset of a run. Reading it does the work; each of its rows stands for a committed pair of parts."""
    from ray.data import ActorPoolStrategy, read_datasource

    packet_context()
    shares, steps, commit = plan.resources, Steps(plan, ledger), Commits(plan, ledger)
    plain: dict[str, Any] = {"batch_format": "pyarrow", "zero_copy_batch": True}
    manifest = Manifest(plan.folder.manifest_uri, plan.folder.storage)

    def read() -> Iterator[pa.Table]:
        handed_out = inferred = 0
        for packet in packets(manifest, plan.folder, plan.attempt, shares.packet_images, ledger.stopping):
            while True:
                before, (inferred, stopping) = inferred, ledger.pace()
                if stopping:
                    return
                if inferred < before:  # the ledger was killed, and counts from 0 again
                    handed_out -= before
                if handed_out - inferred < shares.images_ahead:
                    break
                time.sleep(_LOOK_AGAIN_S)
            handed_out += load(packet)
            yield pack(packet)

    def load_packet(packet: pa.Table) -> Iterator[pa.Table]:
        keep_freed_memory(*DECODING_KEEPS)
        for rows in steps.decode(steps.fetch(unpack(packet))):
            yield pack(rows)

    def encode_packet(packet: pa.Table) -> pa.Table:
        return pack(steps.encode(unpack(packet)))

    def write_packets(batch: pa.Table) -> pa.Table:
        return pa.table({"images": [commit(unpack(batch))]})

    class Infer:
        def __init__(self) -> None:
            self._infer = Inference(steps)
            self._memory = GpuMemory(plan.folder.run, plan.model)

        def __call__(self, packet: pa.Table) -> Iterator[pa.Table]:
            if ledger.stopping():
                return  # a resume will process these images
            rows = unpack(packet)
            detected = self._infer(rows)
            ledger.add_inferred(load(rows))
            self._memory.observe()
            yield pack(detected if shares.infer_gpus else steps.encode(detected))

    ds = read_datasource(datasource(read), override_num_blocks=1, num_cpus=READ_CPUS)
    ds = ds.map_batches(load_packet, batch_size=None, num_cpus=shares.load_cpus, **plain)
    ds = ds.map_batches(
        Infer,
        batch_size=1,  # one packet; with GPUs, Ray requires a number
        compute=ActorPoolStrategy(min_size=shares.actors[0], max_size=shares.actors[1]),
        num_cpus=shares.infer_cpus,
        num_gpus=shares.infer_gpus or None,
        **plain,
    )
    if shares.infer_gpus:
        ds = ds.map_batches(encode_packet, batch_size=None, num_cpus=shares.encode_cpus, **plain)
    packets_a_part = max(1, shares.commit_images // shares.packet_images)
    return ds.map_batches(write_packets, batch_size=packets_a_part, num_cpus=shares.write_cpus, **plain)
