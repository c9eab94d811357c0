"""1 … 64 predictors that only sleep, 20 ms an image: how far one driver feeds them, and what driver and scheduler cost an image.

    python -m tests.bench scaleout                       # 1, 2, 4, 8, 16 actors
    python -m tests.bench.scaleout --actors 32,64        # 64 take 5 GB

Images are tiny files of a directory, so that what is left is the pipeline itself. Each size is a job of its own, in a process of its own. The
rate is that of the time after all predictors have begun, when the job is stopped; CPU seconds are of the same time, of all processes
of the job by what they are. Efficiency is the rate beside that of as many predictors alone: 50 images a second each.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

import psutil

SECONDS = 0.02
SETTLING_S = 8.0
IMAGES, PER_FOLDER = 300_000, 10_000
KINDS = ("driver", "scheduler", "predictors", "other stages")


def kind(process: psutil.Process, driver: int) -> str:
    """What a process of the job is: Ray's own processes are all counted to the scheduler."""
    if process.pid == driver:
        return "driver"
    title = " ".join(process.cmdline()[:1])
    if title.startswith("ray::"):
        return "predictors" if "Infer" in title or "MapWorker" in title else "other stages"
    return "scheduler"


def cpu_by_kind() -> Counter[str]:
    """CPU seconds so far of this process and its descendants."""
    seconds: Counter[str] = Counter()
    driver = psutil.Process()
    for process in [driver, *driver.children(recursive=True)]:
        try:
            times = process.cpu_times()
            seconds[kind(process, driver.pid)] += times.user + times.system
        except psutil.NoSuchProcess:
            continue
    return seconds


def job(source: str, actors: int, packet_images: int, seconds: int) -> None:
    """One job; prints its line of the table."""
    from masklake.jobs.cluster.cluster import ray_cluster
    from masklake.model.decode import DecodeOptions
    from masklake.pipeline.lake.record import new_run_id
    from masklake.pipeline.lake.run_record import RunRecord
    from masklake.pipeline.segment.planned import Planned
    from masklake.pipeline.segment.resources import Resources
    from masklake.pipeline.segment.run import Job, Progress, run
    from masklake.pipeline.storage.store import Storage

    from tests.helpers.predictors import VOCABULARY, ContentPredictor

    samples: list[tuple[float, int, Counter[str]]] = []

    def over(samples: list[tuple[float, int, Counter[str]]]) -> bool:
        return bool(samples) and samples[-1][0] - samples[0][0] > SETTLING_S + seconds

    def watch(progress: Progress) -> None:
        figures = progress.snapshot.get("stages", {}).get("infer", {})
        if figures.get("workers", 0) < actors or over(samples):
            return
        samples.append((time.perf_counter(), int(figures.get("images", 0)), cpu_by_kind()))
        if over(samples):
            os.kill(os.getpid(), signal.SIGTERM)

    with tempfile.TemporaryDirectory() as lake:
        record = RunRecord(
            run=new_run_id(), lake=lake, source=source, command=["bench"], options={},
            selection={}, model={"name": "sleeping", "fingerprint": "0"}, versions={},
        )  # fmt: skip
        this = Job(
            record=record, storage=Storage(), predictor=partial(ContentPredictor, seconds=SECONDS), vocabulary=VOCABULARY,
            decode=DecodeOptions(), max_bytes=10**9,
        )  # fmt: skip
        with ray_cluster(None, 0) as cluster:
            resources = Resources.fitted(
                cluster.cpus, 0, actors=(actors, actors), packet_images=packet_images, commit_images=1024
            )
            final, _ = run(this, Planned(this), resources, watch)
    if final.state != "stopped":
        raise RuntimeError(f"the job ended {final.state}, before its rate was known: {final.error}")
    began = next(sample for sample in samples if sample[0] - samples[0][0] >= SETTLING_S)
    ended = samples[-1]
    done, wall, cpu = ended[1] - began[1], ended[0] - began[0], ended[2] - began[2]
    rate = done / wall
    costs = "".join(f"{1000 * cpu[name] / done:13.2f}" for name in KINDS)
    print(
        f"  {actors:6} {packet_images:7} {rate:9.1f} {rate * SECONDS / actors:11.2f}{costs}"
        f"{cpu.total() / wall:11.2f}",
        flush=True,
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--actors", default="1,2,4,8,16")
    parser.add_argument(
        "--packets", default="16,64", help="images in a task: 16 is what CPUs get, 64 what GPUs get"
    )
    parser.add_argument(
        "--seconds", type=int, default=15, help="of each job, while all its predictors are at work"
    )
    options = parser.parse_args([] if arguments is None else arguments)
    from tests.helpers.images import solid

    head = "".join(f"{name:>13}" for name in KINDS)
    print("                                          CPU milliseconds an image")
    print(f"  actors  packet  images/s  efficiency{head}  CPUs busy")
    with tempfile.TemporaryDirectory() as source:
        content = solid((201, 40, 40), (32, 32))
        for folder in range(IMAGES // PER_FOLDER):
            Path(source, f"{folder:03d}").mkdir()
            first = Path(source, f"{folder:03d}", "000000.jpg")
            first.write_bytes(content)
            for number in range(1, PER_FOLDER):
                os.link(first, first.with_name(f"{number:06d}.jpg"))  # the same bytes by another name
        for packet in options.packets.split(","):
            for actors in options.actors.split(","):
                command = [
                    sys.executable,
                    "-m",
                    "tests.bench.scaleout",
                    "job",
                    source,
                    actors,
                    packet,
                    options.seconds,
                ]
                subprocess.run([*map(str, command)], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["job"]:
        job(sys.argv[2], *map(int, sys.argv[3:]))
    else:
        main(sys.argv[1:])
