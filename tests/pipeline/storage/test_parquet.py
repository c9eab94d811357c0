"""How tables are laid out: dictionaries only where values repeat, and any value comes back as it was written."""

from __future__ import annotations

import io
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from masklake.pipeline.schema import IMAGES, INSTANCES, LABELS, MANIFEST, REPEATING
from masklake.pipeline.storage.parquet import encode

from tests.helpers.lakes import LakeBuilder, instance

TABLES = {"images": IMAGES, "instances": INSTANCES, "labels": LABELS, "manifest": MANIFEST}
RUN = "20261128T000000-aaaaaa"


def _columns(data: bytes) -> dict[str, pq.ColumnChunkMetaData]:
    group = pq.read_metadata(io.BytesIO(data)).row_group(0)
    return {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}


@pytest.fixture
def instances(tmp_path: Path) -> pa.Table:
    """500 instances of 50 images; no two scores and boxes are the same."""
    chance = np.random.default_rng(0)
    builder = LakeBuilder(str(tmp_path / "lake"))
    scores = iter(chance.permutation(500) / 500)
    builder.part(RUN, {
        f"s3://p/{i}.jpg": [
            instance(label, float(next(scores)), keypoints=None if label == "dog" else [
                {"name": name, **dict(zip(("x", "y", "score"), map(float, chance.random(3)), strict=True))}
                for name in ("nose", "left_wrist")
            ]) for label in ("person", "dog") * 5
        ] for i in range(50)
    })  # fmt: skip
    (part,) = Path(tmp_path, "lake", "instances").rglob("*.parquet")
    return pq.ParquetFile(part).read()


def test_every_repeating_column_is_one_of_a_table() -> None:
    paths = {path for schema in TABLES.values() for path in _paths(schema)}
    assert set(REPEATING) - paths == set()


def _paths(schema: pa.Schema) -> list[str]:
    file = pq.ParquetFile(io.BytesIO(encode(schema.empty_table()))).schema
    return [file.column(i).path for i in range(len(file))]


def test_dictionaries_only_where_values_repeat(instances: pa.Table) -> None:
    columns = _columns(encode(instances))
    assert {name for name, column in columns.items() if column.has_dictionary_page} == (
        set(REPEATING) & set(columns)
    )
    # Older readers know no other encodings.
    known = {"PLAIN", "RLE", "RLE_DICTIONARY", "PLAIN_DICTIONARY", "BIT_PACKED"}
    assert {encoding for column in columns.values() for encoding in column.encodings} <= known
    assert all(column.is_stats_set for column in columns.values())
    assert columns["score"].statistics.max == np.float32(499 / 500)


def test_values_and_types_come_back(instances: pa.Table) -> None:
    back = pq.ParquetFile(io.BytesIO(encode(instances))).read()
    assert back.equals(instances)
    assert back.schema.equals(instances.schema, check_metadata=True)


def test_parts_of_the_layout_before_are_read_beside_new_ones(instances: pa.Table, tmp_path: Path) -> None:
    half = len(instances) // 2
    folder = tmp_path / "parts"
    folder.mkdir()
    pq.write_table(
        instances[:half], folder / "a.parquet", compression="zstd"
    )  # dictionaries everywhere, level 1
    (folder / "b.parquet").write_bytes(encode(instances[half:]))
    whole = instances.to_pylist()
    assert pq.read_table(folder).to_pylist() == whole
    assert pl.read_parquet(folder / "*.parquet").to_dicts() == whole
    rows = duckdb.sql(
        f"select uri, score, mask.counts, keypoints from read_parquet('{folder}/*.parquet')"
    ).fetchall()
    assert rows == [(row["uri"], row["score"], row["mask"]["counts"], row["keypoints"]) for row in whole]
