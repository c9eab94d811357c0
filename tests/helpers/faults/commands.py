"""What users do in a lake, each as one call that ends as the command does, with a predictor that needs no weights."""

from __future__ import annotations

from unittest import mock

import pyarrow as pa
import pyarrow.compute as pc
from masklake.jobs.cli import main
from masklake.pipeline.labels import store as label_store
from masklake.pipeline.lake import record_pack
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.lake.process import process_alive
from masklake.pipeline.lake.registry import Registry
from masklake.pipeline.lake.run_record import RunFolder
from masklake.pipeline.segment import manifest
from masklake.pipeline.segment import run as driver
from masklake.pipeline.storage.store import Storage, join

from tests.helpers.faults.inline_engine import InlineEngine
from tests.helpers.label_sets import an_instance, label_set
from tests.helpers.runs import execute, make_job, resume_job


def segment(source: str, lake: str, run: str, *, after_silence: bool = False) -> None:
    """`masklake segment SOURCE LAKE`, or, where the lake has the run and it is not complete, `--resume RUN`.

    after_silence: a minute after the last sign of life of whoever had the run.
    """
    folder = RunFolder(lake, run, Storage())
    resumes = Storage().exists(folder.record_uri)
    if resumes and folder.load().state == "complete":
        return  # which the command says
    job = resume_job(lake, run) if resumes else make_job(source, lake, run_id=run)
    alive = (lambda _: False) if after_silence else process_alive
    with mock.patch.object(manifest, "_FIRST_PART", 8), mock.patch.object(driver, "process_alive", alive):
        record, _ = execute(job, engine=InlineEngine)
    assert record.state == "complete", record.error


def import_labels(lake: str, images: int) -> None:
    """`masklake labels import`, of an instance an image."""
    sets = [label_set(f"s3://photos/{i:03d}.png", an_instance()) for i in range(images)]
    label_store.add(Lake(lake, Storage()), sets)


def promote(lake: str, name: str, version: str) -> None:
    """`masklake models add`, and `promote` to production."""
    files = {"model.safetensors": f"weights of {version}".encode(), "model.json": b'{"name": "m"}'}
    Registry(lake, Storage()).add(name, version, files)
    assert main(["models", "promote", lake, f"{name}@{version}"]) == 0


def tend(lake: str, *command: str) -> None:
    """`masklake compact LAKE`, or `masklake forget LAKE --uri …`, without waiting for readers."""
    code = main([command[0], lake, *command[1:], "--grace-minutes", "0"])
    assert code == 0 or (code, command[0]) == (2, "forget")  # where nothing is left to forget


def pack(lake: str) -> None:
    """What a run does at its start: read the records of runs, and keep them together."""
    opened = Lake(lake, Storage())
    opened.runs()
    with mock.patch.object(record_pack, "WORTH_IT", 2):
        opened.pack_records()


def rows(lake: str) -> dict[str, pa.Table]:
    """Images and instances as a reader sees them, by URI, without the columns in which two equal runs differ."""
    opened = Lake(lake, Storage())
    tables = {name: opened.dataset(name).to_table() for name in ("images", "instances")}
    return {
        name: table.drop_columns(
            [column for column in ("run", "processed_at") if column in table.column_names]
        ).sort_by([("uri", "ascending"), *([("instance", "ascending")] if name == "instances" else [])])
        for name, table in tables.items()
    }


def assert_readable(lake: str) -> None:
    """No reader sees an image twice, or fewer instances than its row counts."""
    seen = rows(lake)
    images, instances = seen["images"], seen["instances"]
    assert len(images) == pc.count_distinct(images["uri"]).as_py()
    assert len(instances) == (pc.sum(images["n_instances"]).as_py() or 0)


def names(lake: str) -> list[str]:
    """The names of everything in a lake, below it."""
    return sorted(uri.removeprefix(join(lake, "")) for uri in Storage().list(lake))
