"""The resources that the stages of a run ask of the cluster, and the size of their tasks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from masklake.pipeline.segment import deadline

_PACKETS_AHEAD = 8
"""Per actor: enough to hide a slow fetch behind the predictor."""
_LOAD_IMAGES = 256
_LOADS_A_PART = 8
_LOADS_AHEAD, _LOADS_AHEAD_GPU = 4, 8
PACKET_BYTES = 256 * 2**20
"""A task holds all objects of its packet in memory, and then all their pixels."""
ORDINARY_BYTES = 4 * 2**20
"""A larger object counts as several images: its pixels take so much more memory."""
_GPU_PACKETS = 4
"""386 photos of many sizes in packets of 64 are 129 batches on a GPU, 68 of them of one image; by fours 88 and 38."""
READ_CPUS = 0.05
"""CPUs of the task that reads the manifest."""
_LARGE_SHARES = {"load_cpus": 0.48, "encode_cpus": 0.91, "write_cpus": 0.41}
"""CPUs per task on machines with 8 CPUs or more. A task that loads waits for storage about half of its time."""
_ACTORS_AT_ONCE = 4
"""The number of CPU actors with which a run starts; more are started when there is enough work."""
_ACTOR_BYTES = 3 * 2**30
"""Memory of an actor without a GPU: torch, a ResNet-50 model, a batch, and some room."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """The resources that each stage asks of the cluster, and the size of its tasks.

    actors: the smallest and largest number of predictor actors. infer_gpus, infer_cpus: per actor. The other shares are
    logical CPUs per task: small on a small machine, where they only have to leave room for the actors. The shares of
    neighbouring stages must differ, or Ray fuses the stages: an actor's share is a multiple of 0.05 or less than that; load's, encode's and write's are neither.
    """

    actors: tuple[int, int] = (1, 1)
    infer_gpus: float = 0.0
    infer_cpus: float = 1.0
    load_cpus: float = 0.31
    encode_cpus: float = 0.21
    write_cpus: float = 0.11
    packet_images: int = 16
    """Images in a packet."""
    infer_packets: int = 1
    """Packets that Ray's predictors are given at once: images of one shape share a batch across them. For GPUs; to CPUs larger
    batches bring nothing."""
    commit_images: int = 256
    """Images in a pair of Parquet parts: at most so many have to be done again after a kill."""
    image_seconds: float = deadline.SECONDS
    """That decoding or predicting an image of usual size may take (`pipeline.segment.deadline`)."""

    @property
    def images_ahead(self) -> int:
        """How many images may be on their way to the predictors (a large one counts as several, see `load`). This bounds
        memory whatever the bucket's size; Ray Data alone would first fill the object store."""
        # Of several packets at once: those that are predicted, the next ones, and those that are loaded meanwhile.
        ahead = max(_PACKETS_AHEAD, 3 * self.infer_packets) * self.actors[1] * self.packet_images
        if self.infer_packets == 1:
            return ahead
        # A predictor that waits for its packets must get them, however large the images.
        return max(ahead, self.infer_packets * (self.packet_images + int(self.most_load)))

    @property
    def most_load(self) -> float:
        """As how many images one object counts at most: where a predictor waits for several packets, as many as a full packet's
        bytes do, so that a packet's load is at most its images and this."""
        return math.inf if self.infer_packets == 1 else PACKET_BYTES // ORDINARY_BYTES

    def load_images(self, part_images: int) -> int:
        """How many images of a manifest's part of `part_images` a task of Ray's stage `load` fetches and decodes, packet after packet.

        Ray Data looks at its tasks ten times a second, and on a small machine it runs one of this stage at a time: a task of
        one packet would feed ten packets a second at most, to however many predictors. The first parts are small, and so are their
        tasks: there are enough for all CPUs from the start.
        """
        at_once = _LOADS_AHEAD_GPU if self.infer_gpus else _LOADS_AHEAD
        images = min(_LOAD_IMAGES, self.images_ahead // at_once, part_images // _LOADS_A_PART)
        return max(1, images // self.packet_images) * self.packet_images

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
        image_seconds: float | None = None,
    ) -> Resources:
        """Shares for a cluster of `cpus`, `gpus` and `memory` bytes: one GPU per actor, or one CPU per
        actor as far as memory allows. (An actor with several threads would let them spin while other stages have the CPUs.)

        However many actors are asked for, half of the CPUs are left for the other stages. With several nodes, the shares are
        so small that the smallest node (`node_cpus`) alone has room for all actors and for a task of any stage: when nodes
        are lost, Ray starts their actors again on the others before it starts the tasks that feed them.
        """
        node_cpus = cpus if node_cpus is None else node_cpus
        tasks = {} if node_cpus < 8 else _LARGE_SHARES
        most = gpus or max(1, int(min(cpus, memory / _ACTOR_BYTES)))
        actors = actors or (1 if gpus else min(most, _ACTORS_AT_ONCE), most)
        share = min(0.5 if gpus else 1.0, cpus / 2 / actors[1])
        if not gpus:  # which keep their actors apart
            largest = max(tasks.values(), default=cls.load_cpus)
            share = min(share, (node_cpus - largest - READ_CPUS) / actors[1])
        return cls(
            actors=actors,
            infer_gpus=1.0 if gpus else 0.0,
            infer_cpus=_share(share),
            packet_images=packet_images or (64 if gpus else 16),
            infer_packets=_GPU_PACKETS if gpus else 1,
            commit_images=commit_images or (8192 if gpus else 256),
            image_seconds=image_seconds or deadline.SECONDS,
            **tasks,
        )


def _share(cpus: float) -> float:
    """The share that an actor takes of so many CPUs: at least a hundredth, with which Ray counts here."""
    steps = math.floor(cpus / 0.05)
    return round(steps * 0.05, 2) if steps else max(0.01, math.floor(100 * cpus) / 100)
