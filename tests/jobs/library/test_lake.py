"""`masklake.open_lake`, as a notebook uses it."""

from __future__ import annotations

import dataclasses
import gc
import inspect
from pathlib import Path
from typing import Any

import masklake
import numpy as np
import pyarrow as pa
import pytest
from masklake.jobs.library.lake import LakeReader
from masklake.pipeline.storage.store import Storage

from tests.helpers.lakes import LakeBuilder, empty_label_row, instance, label_row, rle

R1, R2 = "20261101T000000-aaaaaa", "20261102T000000-bbbbbb"
BOX = (2, 1, 4, 3)


@pytest.fixture
def lake(tmp_path: Path) -> str:
    """a was found in two runs, b in the first; the second run has a part of instances that it has not committed."""
    builder = LakeBuilder(str(tmp_path / "lake"))
    builder.part(R1, {
        "s3://p/a.jpg": [instance("person", 0.9), instance("dog", 0.7)],
        "s3://p/b.jpg": [instance("dog", 0.4, BOX, mask=rle(8, 10, BOX)), instance("cat", 0.3, mask=None)],
    })  # fmt: skip
    builder.part(R2, {"s3://p/a.jpg": [instance("cat", 0.8)]})
    builder.part(R2, {"s3://p/c.jpg": [instance("cat", 0.8)]})
    newest = max(Path(builder.uri).glob(f"images/run={R2}/*.parquet"))
    newest.unlink()
    builder.record(R1)
    builder.labels([label_row("s3://p/a.jpg", "person"), empty_label_row("s3://p/b.jpg")])
    return builder.uri


def test_the_newest_run_of_each_image_and_only_what_is_committed(lake: str) -> None:
    opened = masklake.open_lake(lake)
    assert opened.images().order("uri").select("uri, run").fetchall() == [
        ("s3://p/a.jpg", R2), ("s3://p/b.jpg", R1),
    ]  # fmt: skip
    assert opened.instances().aggregate("label, count(*)").order("label").fetchall() == [
        ("cat", 2),
        ("dog", 1),
    ]
    assert opened.labels().select("uri, label").fetchall() == [("s3://p/a.jpg", "person")]
    assert opened.sql("select uri, n_instances from labelled where n_instances = 0").fetchall() == [
        ("s3://p/b.jpg", 0)
    ]
    assert opened.runs().order("run").select("run").fetchall() == [(R1,), (R2,)]
    first = masklake.open_lake(lake, run=R1)
    assert first.instances().aggregate("count(*)").fetchall() == [(4,)]


def test_relations_outlive_what_they_come_from_and_end_in_every_kind_of_table(lake: str) -> None:
    dogs = masklake.open_lake(lake).instances().filter("label = 'dog'")
    gc.collect()
    assert "Filters: label" in dogs.select("uri").explain()  # by the reader of Parquet, not after it
    assert len(dogs.df()) == dogs.pl().height == dogs.to_arrow_table().num_rows == 1
    assert isinstance(dogs.to_arrow_reader(1).read_next_batch(), pa.RecordBatch)


def test_the_mask_of_a_row(lake: str) -> None:
    instances = masklake.open_lake(lake).instances().filter("uri like '%b.jpg'").order("score desc")
    expected = np.zeros((8, 10), bool)
    expected[1:4, 2:6] = True
    dog, cat = instances.to_arrow_table().to_pylist()
    for row in (dog, dog["mask"], instances.df().iloc[0], instances.pl().row(0, named=True)):
        assert (masklake.decode_mask(row) == expected).all()
    with pytest.raises(ValueError, match="has no mask"):
        masklake.decode_mask(cat)


def test_mistakes_are_told_in_one_line(lake: str, tmp_path: Path) -> None:
    with pytest.raises(masklake.UserError, match="there is no such directory"):
        masklake.open_lake(str(tmp_path / "nowhere"))
    with pytest.raises(masklake.UserError, match="has no run 'r9'"):
        masklake.open_lake(lake, run="r9")
    with pytest.raises(masklake.UserError):
        masklake.open_lake(lake).sql("copy (from images) to 'x.csv'")


def test_how_storage_is_reached_is_said_as_on_the_command_line() -> None:
    """Each storage option of the commands is a keyword, with the same default, and arrives."""
    keywords = inspect.signature(masklake.open_lake).parameters
    options = {field.name: field.default for field in dataclasses.fields(Storage)}
    assert {name: keywords[name].default for name in options} == options
    for name in options:
        assert f"{name}" in str(masklake.open_lake.__doc__)


def test_storage_options_reach_the_lake(lake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Storage] = []
    monkeypatch.setattr(LakeReader, "__init__", lambda self, database: opened.append(database.lake.storage))
    given: dict[str, Any] = {
        "endpoint_url": "http://h",
        "profile": "p",
        "anonymous": True,
        "requester_pays": True,
        "kms_key": "k",
    }
    masklake.open_lake(lake, **given)
    assert opened == [Storage(**given)]
