"""Whether a run needs Ray."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from masklake.jobs.cluster.cluster import Cluster
from masklake.jobs.segment.options import LOCAL_IMAGES, SegmentOptions
from masklake.pipeline.errors import UserError

if TYPE_CHECKING:
    from masklake.pipeline.segment.planned import Planned
    from masklake.pipeline.segment.resources import Resources

_COUNT_S = 2.0
_IMAGES_A_WORKER = 64
"""A worker costs about two seconds of CPU before its first image."""
_WORKERS_AT_ONCE, _IMAGES_AT_ONCE = 4, 4
"""So many workers have fewer images each, so that a handful of images is not done one after another."""


def local_resources(
    options: SegmentOptions, planned: Planned, machine: Cluster, sizes: Mapping[str, int]
) -> Resources | None:
    """The worker processes of this machine that do the run; None where Ray does it.

    sizes: packet_images and commit_images, where they were given. Raises UserError for options that contradict.
    """
    from masklake.pipeline.segment.resources import Resources

    if options.engine == "ray":
        return None
    if options.engine == "local" and options.cluster.address:
        raise UserError(
            "--engine local: works on this machine alone, without --address; leave one of them out"
        )
    if options.engine == "local" and machine.gpus > 1:
        raise UserError("--engine local: uses one GPU; ask for --gpus 1 or fewer, or use --engine ray")
    if options.engine == "auto" and (options.cluster.address or machine.gpus > 1):
        return None
    images = planned.count(LOCAL_IMAGES, _COUNT_S)
    if images is None and options.engine == "auto":
        return None
    fitted = Resources.fitted(
        machine.cpus,
        machine.gpus,
        memory=machine.memory,
        packet_images=sizes.get("packet_images"),
        commit_images=sizes.get("commit_images"),
        image_seconds=options.image_seconds,
    )
    workers = fitted.actors[1]
    if images is not None:
        few = min(_WORKERS_AT_ONCE, math.ceil(images / _IMAGES_AT_ONCE))
        workers = max(1, min(workers, max(few, math.ceil(images / _IMAGES_A_WORKER))))
    if options.actors:
        workers = options.actors[1]
    if images and "packet_images" not in sizes:  # none of them waits while another has a packet of all images
        fitted = replace(fitted, packet_images=min(fitted.packet_images, math.ceil(images / workers)))
    return replace(fitted, actors=(workers, workers))
