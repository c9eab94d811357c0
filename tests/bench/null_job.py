"""A whole run with a predictor that costs nothing: `python -m tests.bench.null_job SOURCE LAKE ray|local`."""

from __future__ import annotations

import sys
from dataclasses import replace

from masklake.jobs.cluster.cluster import ray_cluster
from masklake.jobs.cluster.machine import machine
from masklake.model.decode import DecodeOptions
from masklake.pipeline.lake.record import new_run_id
from masklake.pipeline.lake.run_record import RunRecord
from masklake.pipeline.segment.job import Job
from masklake.pipeline.segment.local_engine import LocalEngine
from masklake.pipeline.segment.planned import Planned
from masklake.pipeline.segment.resources import Resources
from masklake.pipeline.segment.run import run
from masklake.pipeline.storage.store import Storage

from tests.helpers.predictors import VOCABULARY, ContentPredictor

TARGET = (800, 1333)


def main(source: str, lake: str, engine: str = "ray") -> int:
    record = RunRecord(
        run=new_run_id(), lake=lake, source=source, command=["bench"], options={}, selection={},
        model={"name": "content", "fingerprint": "0"}, versions={},
    )  # fmt: skip
    job = Job(
        record=record, storage=Storage(), predictor=ContentPredictor, vocabulary=VOCABULARY,
        decode=DecodeOptions(target=TARGET), max_bytes=10**9,
    )  # fmt: skip
    planned = Planned(job)
    if engine == "local":
        cpus = machine(0).cpus
        resources = replace(Resources.fitted(cpus, 0), actors=(cpus, cpus))
        final, _ = run(job, planned, resources, lambda _: None, LocalEngine)
    else:
        with ray_cluster(None, 0) as cluster:
            final, _ = run(job, planned, Resources.fitted(cluster.cpus, 0), lambda _: None)
    return 0 if final.state == "complete" else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
