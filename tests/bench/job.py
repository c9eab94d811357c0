"""The whole job beside the bare predictor loop on the same images.

The loop has everything its way: images decoded beforehand, no storage, no RLE, no Parquet, all CPUs. What the
job gives up against it is what its start, fetching, decoding, encoding, writing and Ray cost. The steady state is what
the further images of the larger of two jobs take. A second loop starts from nothing, as the job does: it imports, loads the weights,
reads and decodes, but has no listing, RLE or Parquet either.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from masklake.jobs.models import resolve as models
from masklake.model import scenes
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.lake.run_record import RunFolder, RunRecord
from masklake.pipeline.segment.ledger import STAGES
from masklake.pipeline.storage.store import Storage
from PIL import Image

from tests.bench.process_cpu import Used, measured
from tests.bench.start import command

SIZES = (200, 800)
ENGINES = ("local", "ray")
BATCH = 16


_predictor: Any = None
_images: list[np.ndarray] = []
_files: list[Path] = []


def _load(factory: models.PredictorFactory, files: list[Path]) -> None:
    """In a loop process: the predictor and all images, decoded; one batch to warm up."""
    global _predictor, _images  # noqa: PLW0603  # a process pool's initialiser has no other place
    _predictor = factory()
    _images = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    _predictor.predict(_images[:BATCH])


def _predict(start: int) -> tuple[int, float]:
    """Images done, and CPU seconds."""
    began = time.process_time()
    return len(_predictor.predict(_images[start : start + BATCH])), time.process_time() - began


def loop_rate(files: list[Path], factory: models.PredictorFactory, processes: int) -> tuple[float, float]:
    """Images per second of `predict` on preloaded images, in `processes` that share the batches; CPU milliseconds an image."""
    starts = range(0, len(files), BATCH)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _load, (factory, files)) as pool:
        list(pool.map(_predict, [0] * 4 * processes))  # all are up and warm
        started = time.perf_counter()
        done, cpu = (sum(column) for column in zip(*pool.map(_predict, starts), strict=True))
        return done / (time.perf_counter() - started), 1000 * cpu / done


def _start(factory: models.PredictorFactory, files: list[Path]) -> None:
    """In a process of the loop that pays for its own start: the predictor."""
    global _predictor, _files  # see `_load`
    _predictor, _files = factory(), files


def _predict_files(start: int) -> int:
    files = _files[start : start + BATCH]
    return len(_predictor.predict([np.asarray(Image.open(file).convert("RGB")) for file in files]))


def loop_from_nothing(files: list[Path], factory: models.PredictorFactory, processes: int) -> float:
    """Seconds of a loop from the start of its processes to their end: imports, weights, reading, decoding, predicting."""
    started = time.perf_counter()
    with ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), _start, (factory, files)
    ) as pool:
        assert sum(pool.map(_predict_files, range(0, len(files), BATCH))) == len(files)
    return time.perf_counter() - started


def job(source: Path, lake: str, images: int, engine: str) -> Used:
    """`masklake segment` over so many images, from its start to its end."""
    options = ["--limit", str(images), "--engine", engine, "--precision", "float32"]
    return measured(command(source, lake, *options))


def last_record(lake: str) -> RunRecord:
    (run,) = Lake(lake, Storage()).run_ids()
    return RunFolder(lake, run, Storage()).load()


def main() -> None:
    cpus = os.cpu_count() or 1
    model = models.resolve("demo", Storage())
    factory = models.PredictorFactory(
        source=model.source, fingerprint=model.fingerprint, score_threshold=0.05, max_detections=100,
        classes=None, precision="float32", threads=1,
    )  # fmt: skip
    few, many = SIZES
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "scenes")
        scenes.write(source, many, seed=11)
        files = sorted(source.glob("*.jpg"))
        loops = [loop_rate(files, factory, cpus)]
        took = {}
        for engine in ENGINES:
            took[engine] = [
                job(source, f"{scratch}/lake-{engine}-{images}", images, engine) for images in SIZES
            ]
            loops.append(loop_rate(files, factory, cpus))
        nothing = [loop_from_nothing(files, factory, cpus) for _ in range(3)]
        threaded, _ = loop_rate(files, replace(factory, threads=cpus), 1)
        stages = {engine: last_record(f"{scratch}/lake-{engine}-{many}").stages for engine in ENGINES}
    loop, loop_cpu = (statistics.median(column) for column in zip(*loops, strict=True))
    print(f"  {few} and {many} scenes, demo model in float32, {cpus} CPUs")
    each = ", ".join(f"{rate:.1f}" for rate, _ in loops)
    print(
        f"  bare loop, a process a CPU        {loop:6.1f} images/s   (before, between, after the jobs: {each})"
    )
    print(f"  bare loop, one process, {cpus} threads {threaded:6.1f} images/s")
    nothing_s = statistics.median(nothing)
    print(
        f"  loop, its start and decoding too  {many / nothing_s:6.1f} images/s   {nothing_s:.1f} s from its start to its end"
    )
    for engine, (short, long) in took.items():
        steady, whole = (many - few) / (long.seconds - short.seconds), many / long.seconds
        cpu = 1000 * (long.total - short.total) / (many - few)
        print(
            f"  the job, --engine {engine:<5}           {whole:6.1f} images/s   {long.seconds:.1f} s from command to end: "
            f"job / loop {whole / loop:.2f}; with the loop's own start {nothing_s / long.seconds:.2f}"
        )
        print(
            f"    steady, by both sizes           {steady:6.1f} images/s   job / loop {steady / loop:.2f}; "
            f"the start costs {long.seconds - many / steady:.1f} s"
        )
        print(f"    CPU of all processes, steady    {cpu:6.1f} ms an image: loop / job {loop_cpu / cpu:.2f}")
        print("    stage     CPU ms/image   worker ms/image")
        for stage in STAGES:
            figures = stages[engine][stage]
            used, wall = (1000 * figures[kind] / figures["images"] for kind in ("cpu_seconds", "seconds"))
            print(f"    {stage:<8} {used:12.2f} {wall:17.2f}")
