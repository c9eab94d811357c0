"""Lakes of many rows, many parts and many runs, written as finished runs would have left them."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from masklake.pipeline.lake.run_record import RunFolder, RunRecord
from masklake.pipeline.schema import IMAGES, INSTANCES, with_footer
from masklake.pipeline.segment.covered import summarise
from masklake.pipeline.segment.manifest import Manifest, ManifestTotals
from masklake.pipeline.segment.write import part_name
from masklake.pipeline.storage.objects import ObjectInfo
from masklake.pipeline.storage.parquet import encode
from masklake.pipeline.storage.store import Storage

from tests.helpers.servers.simulated_s3 import computed_etag, computed_key

MODEL = {"name": "content", "fingerprint": "0123456789ab"}
_MODEL = "content@0123456789ab"
_WHEN = datetime.datetime(2026, 11, 28, 4, 22, 34, tzinfo=datetime.UTC)


def record(run: str, lake: str, source: str, state: str, images: int) -> RunRecord:
    """A run of the content predictor over `images`, with no options."""
    return RunRecord(
        run=run, lake=lake, source=source, command=["bench"], options={},
        selection={"limit": None, "every_object": False, "redo_all": False}, model=MODEL, versions={}, state=state,
        manifest={"images": images, "complete": True}, counts={"ok": images}, instances=images, seconds=60.0,
        host="elsewhere", created_at="2026-11-28T04:22:34+00:00", updated_at="2026-11-28T05:22:34+00:00",
        finished_at="2026-11-28T05:22:34+00:00",
    )  # fmt: skip


def big_objects(numbers: Iterable[int], per_folder: int, size: int = 645) -> Iterator[ObjectInfo]:
    """Objects of the simulated bucket `big`."""
    for number in numbers:
        yield ObjectInfo(f"s3://big/{computed_key(number, per_folder)}", computed_etag(number), size, _WHEN)


def _constant(value: object, rows: int, type_: pa.DataType) -> pa.Array:
    return pa.array([value], type_).take(pa.array(np.zeros(rows, np.int32)))


def image_rows(run: str, ids: np.ndarray, objects: list[ObjectInfo]) -> pa.Table:
    """Rows of images, each with status ok and one instance."""
    n = len(ids)
    own = {
        "image_id": pa.array(ids, pa.int64()),
        "uri": pa.array([o.uri for o in objects]),
        "etag": pa.array([o.etag for o in objects]),
    }
    constant = {
        "run": run, "size_bytes": 645, "last_modified": _WHEN, "width": 32, "height": 32, "status": "ok",
        "error": None, "n_instances": 1, "model": _MODEL, "processed_at": _WHEN,
    }  # fmt: skip
    columns = [own[f.name] if f.name in own else _constant(constant[f.name], n, f.type) for f in IMAGES]
    return pa.table(columns, schema=with_footer(IMAGES, _MODEL))


def instance_rows(images: pa.Table) -> pa.Table:
    """One instance of each image."""
    constant = {
        "run": images["run"][0].as_py(), "instance": 0, "label_id": 1, "label": "person", "score": 0.9, "area": 40, "x": 1.0,
        "y": 1.0, "w": 8.0, "h": 5.0, "mask": {"size": [32, 32], "counts": "P1000"}, "keypoints": None, "model": _MODEL,
    }  # fmt: skip
    columns = [
        images[f.name] if f.name in ("image_id", "uri") else _constant(constant[f.name], len(images), f.type)
        for f in INSTANCES
    ]
    return pa.table(columns, schema=with_footer(INSTANCES, _MODEL))


def write_pair(lake: Path, run: str, images: pa.Table) -> None:
    name = part_name(1, images["image_id"].to_numpy())
    for table, rows in (("instances", instance_rows(images)), ("images", images)):
        file = lake / table / f"run={run}" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode(rows))


def tall(lake: Path, run: str, rows: int, commit: int, per_folder: int) -> int:
    """A finished run over the first `rows` objects of the bucket `big`, but for every hundredth; how many it has done.

    Its manifest holds them all, so that it can be marked as a run that was stopped.
    """
    done = np.flatnonzero(np.arange(rows) % 100 != 99)
    for start in range(0, len(done), commit):
        ids = done[start : start + commit]
        write_pair(lake, run, image_rows(run, ids, list(big_objects(ids.tolist(), per_folder))))
    folder = RunFolder(str(lake), run, Storage())
    claimed = lake / "runs" / run / "attempts" / "000001.json"
    claimed.parent.mkdir(parents=True)
    claimed.write_text('{"host": "elsewhere", "pid": 1, "at": "2026-11-28T04:22:34+00:00", "token": "0"}')
    manifest, totals = Manifest(folder.manifest_uri, Storage()), ManifestTotals()
    for _ in manifest.extend(big_objects(range(rows), per_folder), totals):
        pass
    manifest.close(totals)
    finish(folder, record(run, str(lake), "s3://big/photos/", "complete", len(done)))
    return len(done)


def mark(lake: Path, run: str, state: str) -> None:
    """Give the run this state."""
    folder = RunFolder(str(lake), run, Storage())
    folder.save(replace(folder.load(), state=state))


def wide(lake: Path, runs: int, parts: int, rows: int = 4) -> None:
    """`runs` finished runs of `parts` parts each: a run an hour, each over a prefix of its own."""
    began = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    for number in range(runs):
        hour = began + datetime.timedelta(hours=number)
        run = f"{hour:%Y%m%dT%H%M%S}-{number:06x}"
        source = f"s3://photos/{hour:%Y/%m/%d/%H}/"
        for part in range(parts):
            ids = np.arange(part * rows, (part + 1) * rows)
            objects = [ObjectInfo(f"{source}{i:06d}.jpg", computed_etag(i), 645, _WHEN) for i in ids.tolist()]
            write_pair(lake, run, image_rows(run, ids, objects))
        finish(RunFolder(str(lake), run, Storage()), record(run, str(lake), source, "complete", parts * rows))


def finish(folder: RunFolder, run_record: RunRecord) -> None:
    """Write what a run leaves at its end."""
    _, summary = summarise(folder)
    folder.save(replace(run_record, parts=asdict(summary)))
