"""Lakes of many small parts, and every kind of reader that counts their rows."""

from __future__ import annotations

import datetime
import io
from collections.abc import Callable, Container, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from masklake.jobs.library.lake import open_lake
from masklake.jobs.query import published
from masklake.jobs.query.database import Database
from masklake.pipeline.labels import store as label_store
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.lake.run_record import RunFolder
from masklake.pipeline.schema import IMAGES, INSTANCES, MANIFEST, with_footer
from masklake.pipeline.segment.covered import covering_runs, summarise
from masklake.pipeline.segment.write import part_name
from masklake.pipeline.storage.parquet import encode, write_table
from masklake.pipeline.storage.store import Storage, join

from tests.helpers.lakes import MODEL, WHEN, LakeBuilder, image, instance, label_row, record

R1, R2, STOPPED = "20261101T000000-aaaaaa", "20261102T000000-bbbbbb", "20261103T000000-cccccc"
LABELS = ("dog", "person", "cat")

Counts = tuple[int, int]
"""Rows of images, and of instances."""


def uri_of(number: int) -> str:
    return f"s3://p/{'ab'[number % 2]}/{number:04d}.jpg"


def run_with_parts(
    lake: str,
    run: str,
    storage: Storage,
    *,
    first: int = 0,
    parts: int = 6,
    each: int = 4,
    state: str = "complete",
) -> None:
    """A run with a manifest and `parts` pairs of parts, as a driver leaves it; image n has n % 3 instances."""
    folder = RunFolder(lake, run, storage)
    numbers = range(parts * each)
    manifest = [
        {
            "image_id": i,
            "uri": uri_of(first + i),
            "etag": f"e{first + i}",
            "size_bytes": 9,
            "last_modified": WHEN,
        }
        for i in numbers
    ]
    write_table(
        pa.Table.from_pylist(manifest, schema=MANIFEST),
        join(folder.manifest_uri, "part-000000.parquet"),
        storage,
    )
    totals = f'{{"parts": 1, "images": {len(manifest)}, "bytes": 9, "complete": true}}'
    storage.write(join(folder.manifest_uri, "complete.json"), totals.encode())
    for part in range(parts):
        ids = range(part * each, (part + 1) * each)
        images, instances = [], []
        for i in ids:
            row = image(uri_of(first + i), etag=f"e{first + i}") | {"run": run, "image_id": i, "model": MODEL}
            images.append(row | {"n_instances": i % 3})
            instances += [
                instance(LABELS[(i + k) % 3], 0.9 - 0.1 * k)
                | {"run": run, "image_id": i, "model": MODEL, "uri": row["uri"], "instance": k}
                for k in range(i % 3)
            ]
        instances.sort(key=lambda row: (row["label"], -row["score"], row["image_id"]))
        name = part_name(1, np.array(ids))
        for table, schema, rows in (("instances", INSTANCES, instances), ("images", IMAGES, images)):
            data = encode(pa.Table.from_pylist(rows, schema=with_footer(schema, MODEL)))
            storage.write(join(folder.table_uri(table), name), data)
    run_record = record(run, lake, state=state, manifest={"images": len(manifest), "complete": True})
    if state == "complete":
        tally, summary = summarise(folder)
        run_record = replace(
            run_record, parts=asdict(summary), counts=dict(tally.counts), instances=tally.instances
        )
    folder.save(run_record)


def small_parts(lake: str, storage: Storage | None = None) -> Counts:
    """A lake with two complete runs of 24 images each and a stopped one of 8, and labels in 3 parts; its counts."""
    storage = storage or Storage()
    run_with_parts(lake, R1, storage)
    run_with_parts(lake, R2, storage, first=24)
    run_with_parts(lake, STOPPED, storage, first=48, parts=2, state="stopped")
    builder = LakeBuilder(lake, storage)
    for day in range(3):
        when = WHEN + datetime.timedelta(days=day)
        builder.labels([label_row(uri_of(n), "dog", labelled_at=when) for n in range(day, day + 4)])
    return 56, 16 * 3 + 7


def by_dataset(lake: str, storage: Storage) -> Counts:
    opened = Lake(lake, storage)
    return opened.dataset("images").count_rows(), opened.dataset("instances").count_rows()


def by_query(lake: str, storage: Storage) -> Counts:
    with Database(Lake(lake, storage)) as database:
        [(images,)] = database.rows("select count(*) from images")
        [(instances,)] = database.rows("select count(*) from instances")
    return images, instances


def by_library(lake: str, storage: Storage) -> Counts:
    opened = open_lake(lake, endpoint_url=storage.endpoint_url)
    counts = [
        relation.aggregate("count(*)").fetchall()[0][0] for relation in (opened.images(), opened.instances())
    ]
    return counts[0], counts[1]


def by_published_views(lake: str, storage: Storage) -> Counts:
    """In one query, which lists both tables."""
    with duckdb.connect() as connection:
        connection.execute(published.script(lake, labels=False))
        [counts] = connection.sql(
            "select (select count(*) from images), (select count(*) from instances)"
        ).fetchall()
    return counts


def by_read_table(lake: str, storage: Storage) -> Counts:
    """A plain reader, which takes every file that is there."""
    return pq.read_table(f"{lake}/images").num_rows, pq.read_table(f"{lake}/instances").num_rows


def covered(lake: str, storage: Storage) -> int:
    """Images that an incremental run of the same options would skip."""
    run_record = record("20261201T000000-ffffff", lake)
    from masklake.pipeline.segment.covered import Covered
    from masklake.pipeline.storage.objects import ObjectInfo

    known = Covered(covering_runs(Lake(lake, storage), run_record.covers, ""), storage)
    listed = [ObjectInfo(uri_of(n), f"e{n}", 9, WHEN) for n in range(60)]
    return sum(is_covered for _, is_covered in known.marked(listed))


def labelled(lake: str, storage: Storage) -> int:
    """Images with labels, as training reads them."""
    return len(label_store.newest(Lake(lake, storage)))


EXACT: dict[str, Callable[[str, Storage], Counts]] = {
    "dataset": by_dataset,
    "query": by_query,
    "open_lake": by_library,
}
"""Readers that count every row once at any time."""


def some_slow(values: Iterable[Any], quick: Container[Any]) -> list[Any]:
    """`values` for parametrize, of which only `quick` are in the quick suite."""
    return [
        value if value in quick else pytest.param(*_tuple(value), marks=pytest.mark.slow) for value in values
    ]


def _tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def all_bytes(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, tables as text, so that what is compressed can be searched."""
    contents = {}
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            if path.suffix == ".parquet":
                table = pq.read_table(io.BytesIO(data))
                data = repr([table.schema.metadata, table.to_pylist()]).encode() if table.num_rows else b""
            contents[str(path.relative_to(folder))] = data
    return contents
