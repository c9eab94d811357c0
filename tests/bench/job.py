"""The whole job beside the bare predictor loop on the same images.

The loop has everything its way: images decoded beforehand, no storage, no RLE, no Parquet, all CPUs. What the
job gives up against it is what fetching, decoding, encoding, writing and Ray cost.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from masklake.jobs.cluster.cluster import ray_cluster
from masklake.jobs.models import resolve as models
from masklake.model import scenes
from masklake.model.decode import DecodeOptions
from masklake.pipeline.lake.record import new_run_id
from masklake.pipeline.lake.run_record import RunRecord
from masklake.pipeline.segment.ledger import STAGES
from masklake.pipeline.segment.resources import Resources
from masklake.pipeline.segment.run import Job, Planned, run
from masklake.pipeline.storage.store import Storage
from PIL import Image

IMAGES = 800
BATCH = 16


_predictor: Any = None
_images: list[np.ndarray] = []


def _load(factory: models.PredictorFactory, files: list[Path]) -> None:
    """In a loop process: the predictor and all images, decoded; one batch to warm up."""
    global _predictor, _images  # noqa: PLW0603  # a process pool's initialiser has no other place
    _predictor = factory()
    _images = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    _predictor.predict(_images[:BATCH])


def _predict(start: int) -> int:
    return len(_predictor.predict(_images[start : start + BATCH]))


def loop_rate(files: list[Path], factory: models.PredictorFactory, processes: int) -> float:
    """Images per second of `predict` on preloaded images, in `processes` that share the batches."""
    starts = range(0, len(files), BATCH)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _load, (factory, files)) as pool:
        list(pool.map(_predict, [0] * 4 * processes))  # all are up and warm
        started = time.perf_counter()
        done = sum(pool.map(_predict, starts))
        return done / (time.perf_counter() - started)


def job_record(source: str, lake: str, factory: models.PredictorFactory, model: models.Resolved) -> RunRecord:
    """The record of a run over `source`, on a Ray started for it."""
    record = RunRecord(
        run=new_run_id(), lake=lake, source=source, command=["bench"], options={}, selection={},
        model=model.record(), versions={},
    )  # fmt: skip
    job = Job(
        record=record, storage=Storage(), predictor=factory, vocabulary=model.vocabulary(),
        decode=DecodeOptions(), max_bytes=10**9,
    )  # fmt: skip
    with ray_cluster(None, 0) as cluster:
        return run(
            job, Planned(job), Resources.fitted(cluster.cpus, 0, memory=cluster.memory), lambda _: None
        )[0]


def main() -> None:
    cpus = os.cpu_count() or 1
    model = models.resolve("demo", Storage())
    factory = models.PredictorFactory(
        source=model.source, fingerprint=model.fingerprint, score_threshold=0.05, max_detections=100,
        classes=None, precision="float32", threads=1,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "scenes")
        scenes.write(source, IMAGES, seed=11)
        (source / "annotations.json").unlink()
        files = sorted(source.iterdir())
        before = loop_rate(files, factory, cpus)
        record = job_record(f"{source}/", f"{scratch}/lake", factory, model)
        after = loop_rate(files, factory, cpus)
        threaded = loop_rate(files, replace(factory, threads=cpus), 1)
    if record.state != "complete":
        raise RuntimeError(f"the job ended {record.state}: {record.error}")
    loop, job = (before + after) / 2, IMAGES / record.seconds
    print(f"  {IMAGES} scenes, demo model, {cpus} CPUs")
    print(
        f"  bare loop, a process a CPU        {loop:6.1f} images/s   (before the job {before:.1f}, after it {after:.1f})"
    )
    print(f"  bare loop, one process, {cpus} threads {threaded:6.1f} images/s")
    print(f"  the job                           {job:6.1f} images/s   from first listing to verified lake")
    print(f"  job / loop of a process a CPU     {job / loop:6.2f}")
    print("  stage     CPU ms/image   worker ms/image")
    for stage in STAGES:
        figures = record.stages[stage]
        cpu, wall = (1000 * figures[kind] / figures["images"] for kind in ("cpu_seconds", "seconds"))
        print(f"  {stage:<8} {cpu:12.2f} {wall:17.2f}")
    waited = record.stages["infer"]["idle_seconds"]
    print(
        f"  the predictors waited {waited:.1f} s for images; the job took {record.seconds:.1f} s, the actors' start included"
    )
