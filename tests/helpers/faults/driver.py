"""A driver to be killed: one run, or one attempt at one, of the content predictor in a process of its own.

    python -m tests.helpers.faults.driver SOURCE LAKE RUN [--resume] [--seconds S] [--list-seconds S] [--image-seconds S]
        [--local]

Prints one line of JSON at its end; exits as `masklake segment` does.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

from masklake.jobs.cluster.cluster import ray_cluster
from masklake.jobs.segment.command import EXIT_CODES
from masklake.pipeline.errors import UserError
from masklake.pipeline.segment import manifest, run
from masklake.pipeline.segment.listing import Listing
from masklake.pipeline.segment.local_engine import LocalEngine
from masklake.pipeline.storage.objects import ObjectInfo

from tests.helpers.runs import SMALL, execute, make_job, resume_job


def _slow_listing(seconds: float) -> None:
    listed = Listing.__iter__

    def slow(listing: Listing) -> Iterator[ObjectInfo]:
        for info in listed(listing):
            time.sleep(seconds)
            yield info

    Listing.__iter__ = slow  # type: ignore[method-assign]  # a listing that can be killed halfway


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
    args = parser.parse_args()
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # ignored where a script started the tests with &
    manifest._FIRST_PART = 8
    run.HEARTBEAT_S = 1.0  # type: ignore[attr-defined]  # not for anyone but this test
    if args.list_seconds:
        _slow_listing(args.list_seconds)
    try:
        if args.resume:
            job = resume_job(args.lake, args.run, seconds=args.seconds)
        else:
            job = make_job(args.source, args.lake, run_id=args.run, seconds=args.seconds)
        resources = replace(SMALL, image_seconds=args.image_seconds)
        if args.local:
            record, progress = execute(job, resources, LocalEngine)
        else:
            with ray_cluster(None, 0):
                record, progress = execute(job, resources)
    except UserError as error:
        print(json.dumps({"state": None, "error": str(error)}))
        return 2
    result = {
        "state": record.state,
        "error": record.error,
        "attempt": record.attempt,
        "counts": record.counts,
        "skipped": progress.skipped,
        "verification": record.verification,
    }
    print(json.dumps(result))
    return EXIT_CODES[record.state]


if __name__ == "__main__":
    sys.exit(main())
