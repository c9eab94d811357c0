"""What every lake promises to whoever reads its Parquet, checked on a lake's files with three readers.

`check_lake(path)` is called on lakes from the tests' own builder, from the real sink, and from whole runs.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from masklake.pipeline.lake.lake import SCHEMAS
from masklake.pipeline.schema import MODEL_KEY, SCHEMA_VERSION, VERSION_KEY, Status
from pycocotools import mask as coco_mask

_DUCKDB_RLE = "STRUCT(size INTEGER[], counts VARCHAR)"
_DUCKDB_KEYPOINTS = 'STRUCT("name" VARCHAR, x FLOAT, y FLOAT, {})[]'
_POLARS_RLE = pl.Struct({"size": pl.Array(pl.Int32, 2), "counts": pl.String})
_POLARS_TIME = pl.Datetime("us", "UTC")

# Written out, not derived from the schema: users' queries rely on these names and types.
DUCKDB = {
    "images": {
        "run": "VARCHAR", "image_id": "BIGINT", "uri": "VARCHAR", "etag": "VARCHAR", "size_bytes": "BIGINT",
        "last_modified": "TIMESTAMP WITH TIME ZONE", "width": "INTEGER", "height": "INTEGER", "status": "VARCHAR",
        "error": "VARCHAR", "n_instances": "INTEGER", "model": "VARCHAR", "processed_at": "TIMESTAMP WITH TIME ZONE",
    },
    "instances": {
        "run": "VARCHAR", "image_id": "BIGINT", "uri": "VARCHAR", "instance": "INTEGER", "label_id": "INTEGER",
        "label": "VARCHAR", "score": "FLOAT", "area": "INTEGER", "x": "FLOAT", "y": "FLOAT", "w": "FLOAT",
        "h": "FLOAT", "mask": _DUCKDB_RLE, "keypoints": _DUCKDB_KEYPOINTS.format("score FLOAT"), "model": "VARCHAR",
    },
    "labels": {
        "uri": "VARCHAR", "width": "INTEGER", "height": "INTEGER", "instance": "INTEGER", "label_id": "INTEGER",
        "label": "VARCHAR", "area": "INTEGER", "x": "FLOAT", "y": "FLOAT", "w": "FLOAT", "h": "FLOAT",
        "mask": _DUCKDB_RLE,
        "keypoints": _DUCKDB_KEYPOINTS.format("visibility TINYINT"), "iscrowd": "BOOLEAN", "source": "VARCHAR",
        "split": "VARCHAR", "labelled_at": "TIMESTAMP WITH TIME ZONE",
        "ignore": "BOOLEAN", "given_area": "DOUBLE", "num_keypoints": "INTEGER", "absent": "VARCHAR[]", "not_exhaustive": "VARCHAR[]",
    },
}  # fmt: skip


def _polars_keypoints(last: str, type_: Any) -> pl.List:
    return pl.List(pl.Struct({"name": pl.Categorical(), "x": pl.Float32, "y": pl.Float32, last: type_}))


POLARS = {
    "images": {
        "run": pl.Categorical(), "image_id": pl.Int64, "uri": pl.String, "etag": pl.String, "size_bytes": pl.Int64,
        "last_modified": _POLARS_TIME, "width": pl.Int32, "height": pl.Int32, "status": pl.Categorical(),
        "error": pl.String, "n_instances": pl.Int32, "model": pl.String, "processed_at": _POLARS_TIME,
    },
    "instances": {
        "run": pl.Categorical(), "image_id": pl.Int64, "uri": pl.String, "instance": pl.Int32, "label_id": pl.Int32,
        "label": pl.Categorical(), "score": pl.Float32, "area": pl.Int32, "x": pl.Float32, "y": pl.Float32,
        "w": pl.Float32, "h": pl.Float32, "mask": _POLARS_RLE, "keypoints": _polars_keypoints("score", pl.Float32),
        "model": pl.String,
    },
    "labels": {
        "uri": pl.String, "width": pl.Int32, "height": pl.Int32, "instance": pl.Int32, "label_id": pl.Int32,
        "label": pl.Categorical(), "area": pl.Int32, "x": pl.Float32, "y": pl.Float32, "w": pl.Float32,
        "h": pl.Float32, "mask": _POLARS_RLE,
        "keypoints": _polars_keypoints("visibility", pl.Int8), "iscrowd": pl.Boolean, "source": pl.String,
        "split": pl.String, "labelled_at": _POLARS_TIME,
        "ignore": pl.Boolean, "given_area": pl.Float64, "num_keypoints": pl.Int32, "absent": pl.List(pl.String),
        "not_exhaustive": pl.List(pl.String),
    },
}  # fmt: skip


def check_lake(path: Path) -> dict[str, int]:
    """Check every table of the lake at `path`; the rows of each table that were looked at."""
    counts = {}
    for table in SCHEMAS:
        files = sorted(path.glob(f"{table}/**/part-*.parquet"))
        if not files:
            continue
        for file in files:
            check_footer(file, table)
        counts[table] = check_readers(files, table)
    check_rows(path)
    check_labels(path)
    return counts


def check_footer(file: Path, table: str) -> None:
    """One file: its schema to the letter, its metadata, and how it is laid out."""
    schema = pq.read_schema(file)
    assert schema.equals(SCHEMAS[table]), f"{file}: {schema}"
    metadata = schema.metadata or {}
    assert metadata.get(VERSION_KEY) == str(SCHEMA_VERSION).encode()
    assert bool(metadata.get(MODEL_KEY)) == (table != "labels")
    _check_plain(schema)
    footer = pq.ParquetFile(file).metadata
    for group in range(footer.num_row_groups):
        for index in range(footer.num_columns):
            column = footer.row_group(group).column(index)
            assert column.compression == "ZSTD"
            if footer.num_rows and column.path_in_schema in (
                "label",
                "score",
                "uri",
                "run",
                "image_id",
                "status",
            ):
                assert column.is_stats_set, column.path_in_schema
                only_nulls = column.statistics.null_count == footer.row_group(group).num_rows
                assert column.statistics.has_min_max or only_nulls, column.path_in_schema


def _check_plain(fields: Any) -> None:
    """No extension types anywhere, and a description of every field."""
    for field in fields:
        type_ = field.type
        assert not isinstance(type_, pa.BaseExtensionType), field
        if pa.types.is_list(type_) or pa.types.is_fixed_size_list(type_):
            type_ = type_.value_type
            assert not isinstance(type_, pa.BaseExtensionType), field
        if field.name != "element":
            assert len(field.metadata[b"description"]) > 4, field
        if pa.types.is_struct(type_):
            _check_plain(list(type_))


def check_readers(files: list[Path], table: str) -> int:
    """pyarrow, DuckDB and Polars see the same names, the promised types, and the same values."""
    arrow = ds.dataset([str(file) for file in files], schema=SCHEMAS[table]).to_table()
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        relation = connection.read_parquet([str(file) for file in files], hive_partitioning=False)
        assert dict(zip(relation.columns, map(str, relation.types), strict=True)) == DUCKDB[table]
        by_duckdb = relation.to_arrow_table().to_pylist()
    frame = pl.read_parquet(files, hive_partitioning=False)
    assert dict(frame.schema) == POLARS[table]
    rows = [_plain(row) for row in arrow.to_pylist()]
    assert [_plain(row) for row in by_duckdb] == rows
    assert [_plain(row) for row in frame.to_dicts()] == rows
    return len(rows)


def _plain(value: Any) -> Any:
    """A value as every reader gives it: NaN equal to NaN, times without their zone object."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    return value.timestamp() if hasattr(value, "timestamp") else value


def check_rows(path: Path) -> None:
    """What the rows of a run say of each other, and that pycocotools reads the masks."""
    images = {}
    for file in sorted(path.glob("images/run=*/part-*.parquet")):
        for row in pq.read_table(file).to_pylist():
            assert file.parent.name == f"run={row['run']}"
            assert (row["run"], row["image_id"]) not in images
            images[row["run"], row["image_id"]] = row
            assert row["status"] in set(Status)
            assert (row["error"] is None) == (row["status"] == Status.OK)
            assert row["n_instances"] == 0 or row["status"] == Status.OK
            assert "@" in row["model"]
    instances: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for file in sorted(path.glob("images/run=*/part-*.parquet")):
        part = path / "instances" / file.parent.name / file.name
        rows = pq.read_table(part).to_pylist() if part.exists() else []
        order = [(row["label"], -row["score"]) for row in rows]
        assert order == sorted(order), f"{part}: is not sorted by label and falling score"
        for row in rows:
            instances[row["run"], row["image_id"]].append(row)
    assert {key: row["n_instances"] for key, row in images.items() if row["n_instances"]} == Counter(
        {key: len(rows) for key, rows in instances.items()}
    )
    for key, rows in instances.items():
        _check_instances(images[key], sorted(rows, key=lambda row: row["instance"]))


def check_labels(path: Path) -> None:
    """What the rows of a label set say of each other; the newest set of an image is all rows of its newest time."""
    sets: dict[tuple[str, Any], list[dict[str, Any]]] = defaultdict(list)
    for file in sorted(path.glob("labels/part-*.parquet")):
        for row in pq.read_table(file).to_pylist():
            sets[row["uri"], row["labelled_at"]].append(row)
    for rows in sets.values():
        of_set = {tuple(row[name] for name in ("width", "height", "source", "split")) for row in rows}
        assert len(of_set) == 1
        assert rows[0]["split"] in ("train", "val")
        positions = sorted(row["instance"] for row in rows)
        assert positions in ([-1], list(range(len(rows))))
        for row in rows:
            own = ("label_id", "label", "area", "x", "y", "w", "h", "iscrowd")
            assert {row[name] is None for name in own} == {row["instance"] == -1}
            if row["mask"] is not None:
                check_mask(row, row)
            for keypoint in row["keypoints"] or ():
                assert keypoint["visibility"] in (0, 1, 2)
                assert keypoint["visibility"] or keypoint["x"] == keypoint["y"] == 0
            assert row["keypoints"] is None or any(keypoint["visibility"] for keypoint in row["keypoints"])


def _check_instances(image: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    assert [row["instance"] for row in rows] == list(range(len(rows)))
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    for row in rows:
        assert (row["uri"], row["model"]) == (image["uri"], image["model"])
        assert 0 <= row["score"] <= 1
        assert 0 <= row["x"] <= row["x"] + row["w"] <= image["width"] + 1e-3
        assert 0 <= row["y"] <= row["y"] + row["h"] <= image["height"] + 1e-3
        if row["mask"] is not None:
            check_mask(row, image)
        if row["keypoints"] is not None:
            assert len({keypoint["name"] for keypoint in row["keypoints"]}) == len(row["keypoints"]) > 0
            assert all(keypoint["name"] and keypoint["score"] is not None for keypoint in row["keypoints"])


def check_mask(row: dict[str, Any], image: dict[str, Any]) -> None:
    """The mask decodes with pycocotools, has the image's size and the row's area, and is pycocotools' own RLE."""
    rle = {"size": row["mask"]["size"], "counts": row["mask"]["counts"].encode("ascii")}
    assert rle["size"] == [image["height"], image["width"]]
    pixels = coco_mask.decode(rle)
    assert pixels.shape == (image["height"], image["width"])
    assert set(np.unique(pixels)) <= {0, 1}
    assert int(pixels.sum()) == row["area"] == int(coco_mask.area(rle))
    assert coco_mask.encode(np.asfortranarray(pixels))["counts"] == rle["counts"]
