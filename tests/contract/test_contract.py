"""The data contract: files that any Parquet reader reads alike."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from masklake.jobs.query.database import Database
from masklake.model.detections import Detections
from masklake.pipeline.labels import store as label_store
from masklake.pipeline.lake.lake import SCHEMAS, Lake
from masklake.pipeline.lake.run_record import RunFolder
from masklake.pipeline.schema import IMAGES, SCHEMA_VERSION
from masklake.pipeline.segment import write as sink
from masklake.pipeline.segment.encode import encode_rows
from masklake.pipeline.segment.infer import infer_rows
from masklake.pipeline.storage.store import Storage

from tests.helpers.contract import check_lake
from tests.helpers.label_sets import an_instance, label_set
from tests.helpers.lakes import WHEN, LakeBuilder, empty_label_row, image, instance, label_row
from tests.helpers.predictors import VOCABULARY, ContentPredictor

R1, R2 = "20261101T000000-aaaaaa", "20261102T000000-bbbbbb"


@pytest.fixture
def builder(tmp_path: Path) -> LakeBuilder:
    builder = LakeBuilder(str(tmp_path))
    builder.part(R1, {
        "s3://p/a.jpg": [instance("person", 0.9), instance("dog", 0.5, mask=None, keypoints=None)],
        "s3://p/ü \x1b.jpg": [],
    })  # fmt: skip
    broken = image("s3://p/c.jpg", status="unreadable", error="truncated", width=None, height=None, etag=None,
                   size_bytes=None, last_modified=None)  # fmt: skip
    builder.part(R2, [(broken, [])])
    builder.labels(
        [
            label_row("s3://p/a.jpg", "person"),
            label_row("s3://p/a.jpg", "dog", iscrowd=True, instance=1),
            empty_label_row("s3://p/nothing.jpg"),
        ]
    )
    return builder


def decoded(count: int) -> pa.Table:
    """Rows as the decode stage makes them: `count` images of several sizes, the last one missing."""
    chance = np.random.default_rng(0)
    rows = []
    for i in range(count):
        height, width = int(chance.integers(20, 90)), int(chance.integers(20, 90))
        pixels = chance.integers(0, 200, (height, width, 3), np.uint8)
        pixels[0, 0, 0] = i  # ContentPredictor finds i % 4 instances
        missing = i == count - 1
        rows.append({
            "image_id": i, "uri": f"s3://p/{i}.jpg", "etag": f"e{i}", "size_bytes": 1000 + i, "last_modified": WHEN,
            "width": None if missing else width, "height": None if missing else height,
            "status": "missing" if missing else "ok", "error": "it has gone" if missing else None,
            "pixels": None if missing else pixels.tobytes(), "pixel_width": width, "pixel_height": height,
        })  # fmt: skip
    types = {field.name: field.type for field in IMAGES} | {
        "status": pa.string(), "pixels": pa.large_binary(), "pixel_width": pa.int32(), "pixel_height": pa.int32(),
    }  # fmt: skip
    return pa.table({name: pa.array([row[name] for row in rows], types[name]) for name in rows[0]})


class BoxPredictor(ContentPredictor):
    """Finds boxes only, as a Faster R-CNN does."""

    def predict(self, *args: Any) -> list[Detections]:
        return [
            dataclasses.replace(detections, masks=None, keypoints=None)
            for detections in super().predict(*args)
        ]


@pytest.fixture
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A lake from the stages of the real pipeline, without Ray around them."""
    predictor = getattr(request, "param", ContentPredictor)()
    rows = encode_rows(infer_rows(decoded(30), predictor), VOCABULARY)
    for i, (run, offset, length) in enumerate([(R1, 0, 13), (R1, 13, 17), (R2, 0, 30)]):
        sink.write(
            rows.slice(offset, length), RunFolder(str(tmp_path), run, Storage()), i + 1, "demo@0123456789ab"
        )
    return tmp_path


def test_the_schema_keeps_the_contract(builder: LakeBuilder) -> None:
    assert check_lake(Path(builder.uri)) == {"images": 3, "instances": 2, "labels": 3}


def test_whole_tables_are_read_by_their_folders(builder: LakeBuilder) -> None:
    """`run` is in the path and in the files, and readers that take both find them equal."""
    for table, runs in {"images": [R1, R1, R2], "instances": [R1, R1]}.items():
        folder = f"{builder.uri}/{table}"
        names = list(SCHEMAS[table].names)
        arrow, frame = pq.read_table(folder), pd.read_parquet(folder)
        assert sorted(arrow.column_names) == sorted(frame.columns) == sorted(names)
        assert sorted(arrow["run"].to_pylist()) == sorted(frame["run"]) == runs
        assert sorted(pl.read_parquet(folder)["run"].to_list()) == runs
        assert pq.read_table(folder, filters=[("run", "=", R2)]).num_rows == runs.count(R2)
        hive = ds.HivePartitioning.discover(infer_dictionary=True)
        for data in (ds.dataset(folder), ds.dataset(folder, partitioning=hive)):
            assert sorted(data.to_table()["run"].to_pylist()) == runs
            assert data.count_rows(filter=ds.field("run") == R2) == runs.count(R2)
        relation = duckdb.sql(f"select run from '{folder}/*/*.parquet' order by 1")
        assert [run for (run,) in relation.fetchall()] == runs


def test_lakes_whose_runs_were_plain_text(builder: LakeBuilder) -> None:
    for path in Path(builder.uri).glob("i*/run=*/*.parquet"):
        table = pq.read_table(path, partitioning=None)
        field = table.schema.field("run").with_type(pa.string())
        pq.write_table(table.set_column(0, field, table["run"].cast(pa.string())), path)
    lake = Lake(builder.uri, Storage())
    assert sorted(lake.dataset("images").to_table()["run"].to_pylist()) == [R1, R1, R2]
    with Database(lake) as database:
        assert database.rows("select run, count(*) from images group by 1 order by 1") == [(R1, 2), (R2, 1)]
        assert database.rows(f"select count(*) from instances where run = '{R1}'") == [(2,)]


def test_the_label_store_keeps_the_contract(tmp_path: Path) -> None:
    first = label_set(
        "s3://p/a.jpg", an_instance("person", keypoints=True), an_instance("dog", mask=None), iscrowd=True
    )
    for sets in ([first, label_set("s3://p/ü \x1b.jpg")], [label_set("s3://p/a.jpg", split="val")]):
        label_store.add(Lake(str(tmp_path), Storage()), sets)
    assert check_lake(tmp_path) == {"labels": 4}


@pytest.mark.parametrize("written", [ContentPredictor, BoxPredictor], indirect=True)
def test_the_sink_keeps_the_contract(written: Path) -> None:
    n_instances = sum(i % 4 for i in range(29))
    assert check_lake(written) == {"images": 60, "instances": 2 * n_instances}


def test_the_sink_writes_what_was_found(written: Path) -> None:
    """The path from detections to files, against the detections."""
    rows = decoded(30)
    frames = [(h, w) for h, w in zip(rows["height"].to_pylist(), rows["width"].to_pylist(), strict=True) if h]
    pixels = [np.frombuffer(p, np.uint8).reshape(h, w, 3)
              for p, (h, w) in zip(rows["pixels"].to_pylist()[:-1], frames, strict=True)]  # fmt: skip
    detections = ContentPredictor().predict(pixels, frames)
    frame = pl.read_parquet(written / f"instances/run={R2}/*.parquet").sort("image_id", "instance")
    assert frame["image_id"].to_list() == [i for i, d in enumerate(detections) for _ in d.scores]
    boxes = np.concatenate([d.boxes for d in detections])
    extents = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    assert (frame.select("x", "y", "w", "h").to_numpy() == extents).all()
    assert (frame["score"].to_numpy() == np.concatenate([d.scores for d in detections])).all()
    assert frame["label_id"].to_list() == np.concatenate([d.labels for d in detections]).tolist()
    assert set(frame.select("label_id", "label").rows()) == {(1, "person"), (2, "square")}
    keypoints = np.concatenate([d.keypoints[d.labels == 1] for d in detections if d.keypoints is not None])
    persons = frame.filter(pl.col("label") == "person")["keypoints"].to_list()
    assert [[j["name"] for j in row] for row in persons] == [list(VOCABULARY.keypoint_names)] * len(keypoints)
    assert ([[[j["x"], j["y"], j["score"]] for j in row] for row in persons] == keypoints).all()
    assert (
        frame.filter(pl.col("label") == "square")["keypoints"].null_count()
        == (frame["label"] == "square").sum()
    )


def test_times_are_utc(written: Path) -> None:
    before = datetime.datetime.now(datetime.UTC)
    [processed] = pl.read_parquet(written / f"images/run={R1}/*.parquet")["processed_at"].dt.date().unique()
    assert abs((processed - before.date()).days) <= 1


def test_the_checks_see_a_file_that_breaks_the_contract(builder: LakeBuilder) -> None:
    """Each break alone, in the first instances file."""
    [path, *_] = sorted(Path(builder.uri).glob("instances/run=*/*.parquet"))
    good = pq.read_table(path)
    areas = pa.chunked_array([[1] * len(good)], pa.int32())
    breaks = {
        "a column is missing": good.drop_columns(["area"]),
        "a type is wider": good.set_column(
            6, good.field(6).with_type(pa.float64()), good["score"].cast(pa.float64())
        ),
        "no schema version": good.replace_schema_metadata({}),
        "another version": good.replace_schema_metadata(
            {**good.schema.metadata, b"masklake.schema_version": str(SCHEMA_VERSION + 1).encode()}
        ),
        "unsorted": good.take([1, 0]),
        "an instance too few": good.slice(1),
        "another area": good.set_column(7, good.field(7), areas),
    }
    for mistake, table in breaks.items():
        pq.write_table(table, path, compression="zstd")
        with pytest.raises(AssertionError):
            check_lake(Path(builder.uri))
            pytest.fail(f"not seen: {mistake}", pytrace=False)
    pq.write_table(good, path, compression="snappy")
    with pytest.raises(AssertionError):
        check_lake(Path(builder.uri))
    pq.write_table(good, path, compression="zstd")
    check_lake(Path(builder.uri))
