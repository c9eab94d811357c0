"""Planning, resume and reading of lakes at scale: first image, memory of the driver, seconds.

    python -m tests.bench scale                                              # a million keys
    python -m tests.bench.scale --keys 10000000 --parts first,plan,resume          # ten million
    python -m tests.bench.scale --runs 10000 --run-parts 10 --parts read

The bucket is simulated (tests/helpers/servers/simulated_s3.py): an S3 server that computes its listing. The lake is a directory, or the
same server's bucket with --latency seconds before each answer. Each measurement is a process of its own, `python -m tests.bench.scale
STEP …`, whose memory is its own too; "driver" is that process alone.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from tests.bench.scaleout import cpu_by_kind
from tests.helpers.servers import simulated_s3

RUN = "20261127T000000-aaaaaa"
PER_FOLDER = 100_000
QUERIES = (
    "select count(*) from runs",
    "select count(*) from images",
    "select count(*) from images where run = (select max(run) from runs)",
    "select status, count(*) from images group by 1",
    "select label, count(*) from instances group by 1",
)


def _step(name: str, *arguments: object, env: dict[str, str] | None = None) -> None:
    command = [sys.executable, "-m", "tests.bench.scale", name, *map(str, arguments)]
    subprocess.run(command, check=True, env=os.environ | (env or {}))


def timed(what: str, work: Callable[[], Any]) -> Any:
    """`work()`, its seconds, and the memory of this process so far."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"  {what:<66}{wall:9.2f} s {cpu:9.2f} CPU s {peak:7.0f} MB at most so far", flush=True)
    return result


@dataclass
class Watched:
    """The largest resident memory of this process, looked at twice a second, and when the first image was predicted."""

    started: float
    note: Path
    first: float | None = None
    cpu: float = 0.0
    """Of all processes of the job, until then."""
    peak: int = 0

    def watch(self, ended: threading.Event) -> None:
        process = psutil.Process()
        while not ended.wait(0.2):
            self.peak = max(self.peak, process.memory_info().rss)
            if self.first is None and self.note.exists():
                self.first = self.note.stat().st_mtime - self.started
                self.cpu = cpu_by_kind().total()


@dataclass(frozen=True)
class FirstImage:
    """A predictor that finds nothing, and leaves a file at its first call."""

    note: str

    def __call__(self) -> Any:
        from tests.helpers.predictors import ContentPredictor

        note = Path(self.note)

        class Noting(ContentPredictor):
            def predict(self, images: Any, frames: Any = None) -> Any:
                note.touch()
                return super().predict(images, frames)

        return Noting()


def drive(lake: str, note: str, resume: str, until_first: str = "") -> None:
    """A run over the bucket `big` until its listing is complete, or until its first image is predicted, and then a stop; what it
    took is printed."""
    started = time.time()
    from masklake.jobs.cluster.cluster import ray_cluster
    from masklake.model.decode import DecodeOptions
    from masklake.pipeline.lake.record import new_run_id
    from masklake.pipeline.lake.run_record import RunFolder
    from masklake.pipeline.segment.planned import Planned
    from masklake.pipeline.segment.resources import Resources
    from masklake.pipeline.segment.run import Job, Progress, run
    from masklake.pipeline.storage.store import Storage

    from tests.bench.scale_lakes import record
    from tests.helpers.predictors import VOCABULARY

    storage = Storage()
    new = replace(
        record(new_run_id(), lake, "s3://big/photos/", "running", 0), manifest={}, counts={}, instances=0
    )
    job = Job(
        record=RunFolder(lake, resume, storage).load() if resume else new, storage=storage, predictor=FirstImage(note),
        vocabulary=VOCABULARY, decode=DecodeOptions(), max_bytes=10**9, resume=bool(resume),
    )  # fmt: skip
    ended, watched = threading.Event(), Watched(started, Path(note))
    thread = threading.Thread(target=watched.watch, args=(ended,), daemon=True)
    thread.start()
    listed: float | None = None

    def watch(progress: Progress) -> None:
        nonlocal listed
        if (progress.totals.complete or until_first) and watched.first is not None and listed is None:
            listed = time.time() - started
            os.kill(os.getpid(), signal.SIGTERM)

    cpu = time.process_time()
    with ray_cluster(None, 0) as cluster:
        ready = time.time()
        print(f"  {'imports, Ray':<66}{ready - started:9.2f} s", flush=True)
        planned = Planned(job)
        print(f"  {'from there: first object known':<66}{time.time() - ready:9.2f} s", flush=True)
        final, progress = run(job, planned, Resources.fitted(cluster.cpus, 0, memory=cluster.memory), watch)
    ended.set()
    thread.join()
    totals = progress.totals
    times = {"first image in the model": watched.first} | (
        {} if until_first else {"source listed to its end": listed}
    )
    print(f"  CPU seconds of all processes of the job until its first image   {watched.cpu:9.2f}")
    for what, seconds in times.items():
        print(f"  {what:<66}" + ("        -" if seconds is None else f"{seconds:9.2f} s"), flush=True)
    print(
        f"  {totals.images:,} to do, {totals.covered:,} covered, {progress.skipped:,} done before, ended {final.state}: driver "
        f"{watched.peak / 2**20:.0f} MB at most, {time.process_time() - cpu:.1f} CPU s",
        flush=True,
    )


def listing(keys: int) -> None:
    from masklake.pipeline.segment.listing import Listing
    from masklake.pipeline.storage.store import Storage

    listed = Listing("s3://big/photos/", Storage())
    number = timed(f"list {keys:,} keys", lambda: sum(1 for _ in listed))
    if number != keys:
        raise RuntimeError(f"{number:,} were listed")


def proof(lake: str, rows: int) -> None:
    from masklake.pipeline.lake.run_record import RunFolder
    from masklake.pipeline.segment.covered import summarise
    from masklake.pipeline.segment.proof import done_ids, tally, verify
    from masklake.pipeline.storage.store import Storage

    folder = RunFolder(lake, RUN, Storage())
    timed("resume: tally of what is committed", lambda: tally(folder))
    timed("resume: which images are done", lambda: done_ids(folder, 2))
    proven = timed("end of a run: proof", lambda: verify(folder, rows, 1))
    if (proven.missing, proven.mismatched) != (rows // 100, 0):
        raise RuntimeError(f"the lake is not as it was written: {proven}")
    timed("end of a run: digests and summary", lambda: summarise(folder))


def reading(lake: str, unpacked: bool) -> None:
    """What `runs`, `query` and `view` do, each time with a lake that is opened anew."""
    from masklake.jobs.query.database import Database
    from masklake.pipeline.lake.lake import Lake
    from masklake.pipeline.lake.row_pack import pack_rows
    from masklake.pipeline.lake.run_summary import RunSummary
    from masklake.pipeline.storage.store import Storage

    def runs() -> Lake:
        opened = Lake(lake, Storage())
        opened.require()
        for run in opened.runs():
            RunSummary.of(run)
        return opened

    opened = timed("runs, each record by itself", runs)
    timed("the plan of the next run packs the records", opened.pack_records)
    timed("runs, packed", runs)

    def query(sql: str) -> list[tuple[Any, ...]]:
        with Database(Lake(lake, Storage())) as database:
            return database.rows(sql)

    if unpacked:
        print("every part by itself")
        for sql in QUERIES:
            timed(f"query {sql}"[:65], functools.partial(query, sql))
    print(
        f"  packed {timed('the ends of runs pack the rows', lambda: sum(iter(lambda: pack_rows(opened), 0))):,} runs"
    )
    for sql in QUERIES:
        timed(f"query {sql}"[:65], functools.partial(query, sql))
    viewing(lake)


def viewing(lake: str) -> None:
    """What `view` does until its first page is there, and when a filter is set."""
    from masklake.jobs.query.database import Database
    from masklake.jobs.view.gallery import LakeGallery
    from masklake.jobs.view.selection import GalleryFilter
    from masklake.pipeline.lake.lake import Lake
    from masklake.pipeline.storage.store import Storage

    def page(gallery: LakeGallery, **choice: Any) -> LakeGallery:
        chosen = GalleryFilter(**choice)
        gallery.count(chosen)
        gallery.instances(gallery.page(chosen, 0, 60), "", 200)
        return gallery

    def opened() -> LakeGallery:
        gallery = LakeGallery(Database(Lake(lake, Storage())))
        _ = gallery.summary
        return page(gallery)

    gallery = timed("view, its first page", opened)
    timed("view, images by status", lambda: page(gallery, status="ok"))


@contextlib.contextmanager
def _lake(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """(the lake's URI, the environment) with the simulated server."""
    in_s3 = options.latency > 0
    with simulated_s3.running(options.keys, PER_FOLDER, folder if in_s3 else None, options.latency) as server:
        yield ("s3://lake" if in_s3 else str(folder)), server.env


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--commit", type=int, default=256, help="images in a part")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--run-parts", type=int, default=10)
    parser.add_argument(
        "--latency",
        type=float,
        default=0.0,
        help="of the S3 that then holds the lake as well; 0: a directory",
    )
    parser.add_argument(
        "--unpacked", action="store_true", help="query every part by itself too, which takes minutes"
    )
    parser.add_argument("--parts", default="list,first,plan,resume,read")
    parser.add_argument(
        "--until-first",
        action="store_const",
        const="until-first",
        default="",
        help="end the first run when its first image is predicted",
    )
    parser.add_argument("--scratch", help="keep the lakes here, and take those that are there")
    options = parser.parse_args([] if arguments is None else arguments)
    from tests.bench import scale_lakes

    keys, parts = options.keys, options.parts.split(",")
    with contextlib.ExitStack() as stack:
        scratch = Path(options.scratch or stack.enter_context(tempfile.TemporaryDirectory()))

        def lake(name: str, write: Callable[[Path], None]) -> Path:
            folder = scratch / name
            if not folder.exists():
                write(folder)
            return folder

        if "list" in parts:
            with _lake(options, scratch) as (_, env):
                print("the listing alone")
                _step("listing", keys, env=env)
        if "first" in parts:
            empty = lake("empty", Path.mkdir)
            with _lake(options, empty) as (uri, env):
                print(f"a first run over {keys:,} keys")
                _step("drive", uri, scratch / f"note-first-{time.time()}", "", options.until_first, env=env)
        if {"plan", "resume"} & set(parts):
            tall = lake(
                f"tall-{keys}-{options.commit}",
                lambda to: print(
                    f"{scale_lakes.tall(to, RUN, keys, options.commit, PER_FOLDER):,} rows written"
                ),
            )
        if "plan" in parts:
            scale_lakes.mark(tall, RUN, "complete")
            with _lake(options, tall) as (uri, env):
                print(
                    f"the next run, all but every hundredth of {keys:,} keys covered, in parts of {options.commit}"
                )
                _step("drive", uri, scratch / f"note-next-{time.time()}", "", env=env)
        if "resume" in parts:
            scale_lakes.mark(tall, RUN, "stopped")
            with _lake(options, tall) as (uri, env):
                print(
                    f"a run goes on, all but every hundredth of {keys:,} images done, in parts of {options.commit}"
                )
                _step("proof", uri, keys, env=env)
                _step("drive", uri, scratch / f"note-resume-{time.time()}", RUN, env=env)
        if "read" in parts:
            name = f"wide-{options.runs}-{options.run_parts}"
            wide = lake(name, lambda to: scale_lakes.wide(to, options.runs, options.run_parts))
            with _lake(options, wide) as (uri, env):
                print(f"a lake of {options.runs:,} runs and {options.runs * options.run_parts:,} parts")
                _step("reading", uri, "unpacked" if options.unpacked else "", env=env)


STEPS: dict[str, Callable[..., None]] = {
    "listing": lambda keys: listing(int(keys)),
    "drive": drive,
    "proof": lambda lake, rows: proof(lake, int(rows)),
    "reading": lambda lake, unpacked: reading(lake, bool(unpacked)),
}

if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in STEPS:
        STEPS[sys.argv[1]](*sys.argv[2:])
    else:
        main(sys.argv[1:])
