"""`masklake query --views`: what is printed makes the same tables in any DuckDB."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from masklake.jobs.query.database import Database
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.storage.store import Storage

from tests.helpers.lakes import LakeBuilder, empty_label_row, image, instance, label_row

Run = Callable[..., tuple[int, str, str]]
R1, R2 = "20261101T000000-aaaaaa", "20261102T000000-bbbbbb"
VIEWS = ("all_images", "all_instances", "images", "instances", "errors", "all_labels", "labels", "labelled")


@pytest.mark.parametrize("name", ["a 'lake' [1]*\nof two lines?", "year=2026/run=5/lake"])
def test_the_same_rows_as_ours(tmp_path: Path, masklake: Run, name: str) -> None:
    builder = LakeBuilder(str(tmp_path / name))
    broken = image("s3://p/c.jpg", status="unreadable", error="truncated", width=None, height=None)
    builder.part(
        R1,
        {
            "s3://p/a.jpg": [instance("person", 0.9), instance("dog", 0.7)],
            "s3://p/b.jpg": [instance("dog", 0.4)],
        },
    )
    builder.part(R1, [(broken, [])])
    builder.part(R2, {"s3://p/a.jpg": [instance("cat", 0.8)]})
    builder.part(R2, {"s3://p/d.jpg": [instance("cat", 0.8)]})
    max(Path(builder.uri).glob(f"images/run={R2}/*.parquet")).unlink()  # not committed
    builder.labels([label_row("s3://p/a.jpg", "dog"), empty_label_row("s3://p/b.jpg")])

    code, printed, err = masklake("query", "--views", "--lake", builder.uri)
    assert code == 0, err
    with duckdb.connect() as theirs, Database(Lake(builder.uri, Storage())) as ours:
        theirs.execute("set timezone = 'UTC'")
        theirs.execute(printed)
        for view in VIEWS:
            rows = theirs.sql(f"select {view}::varchar from {view} order by 1").fetchall()
            assert rows == ours.rows(f"select {view}::varchar from {view} order by 1"), view
            assert rows


@pytest.mark.parametrize(("table", "view"), [("runs", "images"), ("labels", "labelled")])
def test_tables_without_files_are_left_out(tmp_path: Path, masklake: Run, table: str, view: str) -> None:
    builder = LakeBuilder(str(tmp_path / "lake"))
    if table == "runs":
        builder.part(R1, {"s3://p/a.jpg": [instance("person", 0.9)]})
    else:
        builder.labels([label_row("s3://p/a.jpg", "dog")])
    _, printed, _ = masklake("query", "--views", "--lake", builder.uri)
    with duckdb.connect() as theirs:
        theirs.execute(printed)
        assert len(theirs.sql(f"from {view}").fetchall()) == 1


def test_it_is_of_a_lake(tmp_path: Path, masklake: Run) -> None:
    assert masklake("query", "--views")[0] == 2
    assert "is not a lake" in masklake("query", "--views", "--lake", tmp_path)[2]
