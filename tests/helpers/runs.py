"""Runs of the pipeline over small folders, with predictors that need no weights."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from masklake.model.decode import DecodeOptions
from masklake.pipeline.lake.record import new_run_id
from masklake.pipeline.lake.run_record import RunFolder, RunRecord
from masklake.pipeline.segment.engine import StartEngine
from masklake.pipeline.segment.job import Job, Progress
from masklake.pipeline.segment.planned import Planned
from masklake.pipeline.segment.ray_engine import RayEngine
from masklake.pipeline.segment.resources import Resources
from masklake.pipeline.segment.run import run
from masklake.pipeline.storage.parquet import read_table
from masklake.pipeline.storage.store import Storage, join

from tests.helpers.faults.table import counted
from tests.helpers.images import solid
from tests.helpers.predictors import VOCABULARY, ContentPredictor

SMALL = Resources.fitted(2, 0, packet_images=4, commit_images=8)


@dataclass(frozen=True)
class SlowCommits(Storage):
    """Storage that takes two seconds for the object that commits a part, which is on its way and cannot be called back."""

    def put_new(self, uri: str, data: bytes) -> bool:
        if "/images/" in uri:
            with contextlib.suppress(KeyboardInterrupt):  # with which Ray cancels a task
                time.sleep(2)
        return super().put_new(uri, data)


def make_job(
    source: str,
    lake: str,
    *,
    run_id: str | None = None,
    seconds: float = 0.0,
    limit: int | None = None,
    redo_all: bool = False,
    options: dict[str, Any] | None = None,
) -> Job:
    """A new run of the content predictor, which spends `seconds` on each image."""
    record = RunRecord(
        run=run_id or new_run_id(),
        lake=lake,
        source=source,
        command=["test"],
        options=options or {},
        selection={"limit": limit, "every_object": False, "redo_all": redo_all},
        model={"name": "content", "fingerprint": "0123456789ab"},
        versions={},
    )
    return _job(record, seconds, limit=limit, redo_all=redo_all)


def resume_job(lake: str, run_id: str, *, seconds: float = 0.0) -> Job:
    """The next attempt at a run."""
    record = RunFolder(lake, run_id, Storage()).load()
    return _job(record, seconds, resume=True, **record.selection)


def _job(record: RunRecord, seconds: float, **fields: Any) -> Job:
    return Job(
        record=record,
        storage=Storage(),
        predictor=functools.partial(ContentPredictor, seconds=seconds),
        vocabulary=VOCABULARY,
        decode=DecodeOptions(max_pixels=1_000_000),
        max_bytes=1_000_000,
        **fields,
    )


def execute(
    job: Job, resources: Resources = SMALL, engine: StartEngine = RayEngine
) -> tuple[RunRecord, Progress]:
    """Run it on the Ray that is initialised, or another engine."""
    return run(job, Planned(job), resources, lambda progress: None, engine)


def with_source(job: Job, **changes: Any) -> Job:
    """`job`, its record changed."""
    return replace(job, record=replace(job.record, **changes))


def colour(i: int) -> tuple[int, int, int]:
    """A colour by which image `i` is told, with i modulo 4 instances."""
    return (i % 256 // 4 * 4 + i % 4, i // 256, 40)


def fill(folder: Path, n: int, first: int = 0) -> None:
    """Write `n` small images."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + n):
        (folder / f"{i:05d}.png").write_bytes(solid(colour(i), (12, 8)))


def table(lake: str, name: str, run_id: str) -> pa.Table:
    """All rows of a run's `images` or `instances`."""
    uris = sorted(Storage().list(join(lake, name, f"run={run_id}")))
    return pa.concat_tables([read_table(uri, Storage()) for uri in uris])


def part_names(lake: str, name: str, run_id: str) -> set[str]:
    return {uri.rpartition("/")[2] for uri in Storage().list(join(lake, name, f"run={run_id}"))}


def assert_exactly_once(lake: str, run_id: str, uris: Sequence[str]) -> Counter[str]:
    """One row for each of `uris`, with the instances that it counts; statuses and how often they came."""
    images, instances = table(lake, "images", run_id), table(lake, "instances", run_id)
    rows_by_uri = Counter(images["uri"].to_pylist())
    doubled = [uri for uri, n in rows_by_uri.items() if n > 1]
    lacking, strange = set(uris) - set(rows_by_uri), set(rows_by_uri) - set(uris)
    counted(len(uris), len(images), lost=len(lacking), doubled=len(doubled))
    one_sided = part_names(lake, "images", run_id) ^ part_names(lake, "instances", run_id)
    assert not one_sided, f"parts without their twins: {sorted(one_sided)}"
    assert not doubled, f"{len(doubled)} images have several rows"
    assert not lacking, f"{len(lacking)} images have no row: {sorted(lacking)[:3]}"
    assert not strange, f"rows of images that were not asked for: {strange}"
    assert sorted(images["image_id"].to_pylist()) == list(range(len(uris)))
    owners = Counter(instances["uri"].to_pylist())
    for row in images.select(["uri", "n_instances", "status", "error"]).to_pylist():
        assert owners[row["uri"]] == row["n_instances"]
        assert (row["error"] is None) == (row["status"] == "ok"), row
        name = os.path.basename(row["uri"])  # noqa: PTH119  # of a URI, not of a file
        if row["status"] == "ok" and name[:5].isdigit():
            assert row["n_instances"] == int(name[:5]) % 4, "the result is another image's"
    return Counter(images["status"].to_pylist())
