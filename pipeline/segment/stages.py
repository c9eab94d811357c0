"""The pipeline on Ray Data: manifest → load (fetch, decode) → infer (→ encode) → write, each an operator of its own.

A task costs Ray and Ray Data some ten milliseconds of CPU, so what needs no resources of its own shares an operator: fetch
with decode, and encode with infer where the predictors have no GPU that it would keep waiting. A task of `load` has several packets,
since Ray Data notices only ten times a second that one has ended.

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
from masklake.pipeline.segment.ahead import Ahead
from masklake.pipeline.segment.manifest import Manifest
from masklake.pipeline.segment.metrics import GpuMemory
from masklake.pipeline.segment.resources import READ_CPUS
from masklake.pipeline.segment.source import cut, datasource, load, to_do
from masklake.pipeline.segment.steps import Commits, Inference, Plan, Steps
from masklake.pipeline.streams.context import packet_context
from masklake.pipeline.streams.packet import pack, unpack

if TYPE_CHECKING:
    from masklake.pipeline.segment.actor_ledger import ActorLedger
    from ray.data import Dataset


_LOOK_AGAIN_S = 0.1
_UNTAKEN = 16
_IN_FLIGHT = 4
"""Packets that wait at a predictor, the one it is at included: two would be over before Ray Data looks again, where a GPU is fast."""


def dataset(plan: Plan, ledger: ActorLedger) -> Dataset:
    """The lazy dataset of a run. Reading it does the work; each of its rows stands for a committed pair of parts."""
    from ray.data import ActorPoolStrategy, read_datasource

    # How many packets are on their way is bounded by `read`; a task of many need not wait until each is taken.
    packet_context()._max_num_blocks_in_streaming_gen_buffer = _UNTAKEN
    shares, steps, commit = plan.resources, Steps(plan, ledger), Commits(plan, ledger)
    plain: dict[str, Any] = {"batch_format": "pyarrow", "zero_copy_batch": True}
    manifest = Manifest(plan.folder.manifest_uri, plan.folder.storage)

    def read() -> Iterator[pa.Table]:
        ahead = Ahead(shares.images_ahead)
        for images, rows in to_do(manifest, plan.folder, plan.attempt, ledger.stopping):
            for loaded in cut(rows, shares.load_images(images)):
                while True:
                    inferred, stopping = ledger.pace(ahead.handed_out)
                    if stopping:
                        return
                    if ahead.has_room(inferred, time.monotonic()):
                        break
                    time.sleep(_LOOK_AGAIN_S)
                ahead.hand_out(load(loaded, shares.most_load))
                yield pack(loaded)

    def load_packets(loaded: pa.Table) -> Iterator[pa.Table]:
        keep_freed_memory(*DECODING_KEEPS)
        for packet in cut(unpack(loaded), shares.packet_images):
            if ledger.stopping():
                return
            for rows in steps.decode(steps.fetch(packet)):
                yield pack(rows)

    def encode_packet(packet: pa.Table) -> pa.Table:
        return pack(steps.encode(unpack(packet)))

    def write_packets(batch: pa.Table) -> pa.Table:
        return pa.table({"images": [commit(unpack(batch))]})

    class Infer:
        def __init__(self) -> None:
            self._infer = Inference(steps)
            self._memory = GpuMemory(plan.folder.run, plan.model)

        def __call__(self, several: pa.Table) -> Iterator[pa.Table]:
            if ledger.stopping():
                return  # a resume will process these images
            rows = unpack(several)
            detected = self._infer(rows)
            ledger.add_inferred(load(rows, shares.most_load))
            self._memory.observe()
            for start in range(0, len(detected), shares.packet_images):
                part = detected.slice(start, shares.packet_images)
                yield pack(part if shares.infer_gpus else steps.encode(part))

    ds = read_datasource(datasource(read), override_num_blocks=1, num_cpus=READ_CPUS)
    ds = ds.map_batches(load_packets, batch_size=None, num_cpus=shares.load_cpus, **plain)
    ds = ds.map_batches(
        Infer,
        batch_size=shares.infer_packets,  # with GPUs, Ray requires a number
        compute=ActorPoolStrategy(
            min_size=shares.actors[0], max_size=shares.actors[1], max_tasks_in_flight_per_actor=_IN_FLIGHT
        ),
        num_cpus=shares.infer_cpus,
        num_gpus=shares.infer_gpus or None,
        **plain,
    )
    if shares.infer_gpus:
        ds = ds.map_batches(encode_packet, batch_size=None, num_cpus=shares.encode_cpus, **plain)
    packets_a_part = max(1, shares.commit_images // shares.packet_images)
    return ds.map_batches(write_packets, batch_size=packets_a_part, num_cpus=shares.write_cpus, **plain)
