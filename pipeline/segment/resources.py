"""What the stages of a run ask of the cluster, and how their work is cut."""

from __future__ import annotations

import math
from dataclasses import dataclass

_PACKETS_AHEAD = 8
"""Per actor: enough to hide a slow fetch behind the predictor."""
READ_CPUS = 0.05
"""Of the task that hands out the manifest."""
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
                share, (node_cpus - tasks.get("decode_cpus", cls.decode_cpus) - READ_CPUS) / actors[1]
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
