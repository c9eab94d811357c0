"""A driver to be killed: one run, or one attempt at one, of the content predictor in a process of its own.

    python -m tests.helpers.faults.driver SOURCE LAKE RUN [--resume] [--seconds S] [--list-seconds S] [--image-seconds S]
        [--local] [--store-bytes N] [--packet-images N] [--commit-images N]

Prints one line of JSON at its end; exits as `masklake segment` does.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from masklake.jobs.cluster import cluster
from masklake.jobs.segment.command import EXIT_CODES
from masklake.pipeline.errors import OutageError, UserError
from masklake.pipeline.segment import manifest, run
from masklake.pipeline.segment.listing import Listing
from masklake.pipeline.segment.local_engine import LocalEngine
from masklake.pipeline.storage.objects import ObjectInfo
from masklake.pipeline.streams import memory_kills

from tests.helpers.runs import SMALL, execute, make_job, resume_job


def _slow_listing(seconds: float) -> None:
    listed = Listing.__iter__

    def slow(listing: Listing) -> Iterator[ObjectInfo]:
        for info in listed(listing):
            time.sleep(seconds)
            yield info

    Listing.__iter__ = slow  # type: ignore[method-assign]  # a listing that can be killed halfway


def _take(store_bytes: int) -> list[Any]:
    """Fill most of an object store of so many bytes: what the run puts there has to push this out to the disk."""
    import ray

    return [ray.put(np.ones(store_bytes // 10, np.uint8)) for _ in range(8 if store_bytes else 0)]


def _spilled() -> float:
    """MiB that Ray has moved from its object store to the disk."""
    import ray
    from ray._private.internal_api import memory_summary

    summary = memory_summary(ray.get_runtime_context().gcs_address, stats_only=True)
    said = re.search(r"Spilled (\d+) MiB", summary)
    return float(said[1]) if said else 0.0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("source")
    parser.add_argument("lake")
    parser.add_argument("run")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--list-seconds", type=float, default=0.0)
    parser.add_argument("--image-seconds", type=float, default=300.0)
    parser.add_argument("--local", action="store_true")
    parser.add_argument("--store-bytes", type=int)
    parser.add_argument("--packet-images", type=int, default=SMALL.packet_images)
    parser.add_argument("--commit-images", type=int, default=SMALL.commit_images)
    args = parser.parse_args()
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # ignored where a script started the tests with &
    manifest._FIRST_PART = 8
    memory_kills.PATIENCE_S = 30.0
    run.HEARTBEAT_S = 1.0  # type: ignore[attr-defined]  # not for anyone but this test
    if args.list_seconds:
        _slow_listing(args.list_seconds)
    spilled = 0.0
    try:
        if args.resume:
            job = resume_job(args.lake, args.run, seconds=args.seconds)
        else:
            job = make_job(args.source, args.lake, run_id=args.run, seconds=args.seconds)
        resources = replace(
            SMALL,
            image_seconds=args.image_seconds,
            packet_images=args.packet_images,
            commit_images=args.commit_images,
        )
        if args.local:
            record, progress = execute(job, resources, LocalEngine)
        else:
            if args.store_bytes:
                cluster._OBJECT_STORE_BYTES = args.store_bytes
            with cluster.ray_cluster(None, 0):
                taken = _take(args.store_bytes or 0)
                record, progress = execute(job, resources)
                spilled = _spilled() if taken else 0.0
    except (UserError, OutageError) as error:
        print(json.dumps({"state": None, "error": str(error)}))
        return 2
    result = {
        "state": record.state,
        "error": record.error,
        "attempt": record.attempt,
        "counts": record.counts,
        "skipped": progress.skipped,
        "verification": record.verification,
        "spilled": spilled,
    }
    print(json.dumps(result), flush=True)  # Ray may end the process as it is finalised
    return EXIT_CODES[record.state]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # a second one, after the run had ended
        sys.exit(130)
