"""The record of a training and its checkpoints, as they lie in the lake."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.run_record import RunFolder, SupersededError
from masklake.pipeline.storage.store import Storage
from masklake.pipeline.train import checkpoints
from masklake.pipeline.train import record as training_record
from masklake.pipeline.train.driver import Training

from tests.conftest import Bucket
from tests.helpers.trainings import a_record

RUN = "20261101T000000-aaaaaa"


def put_checkpoint(bucket: Bucket, step: int, *names: str) -> None:
    """With the object that Arrow marks a folder by."""
    folder = f"lake/runs/{RUN}/checkpoints/step-{step:08d}"
    bucket.put(f"{folder}/", b"")
    for name in names:
        bucket.put(f"{folder}/{name}", json.dumps({"step": step}).encode())


WHOLE = ("state.json", "network.safetensors", "optimizer.safetensors")


def test_the_newest_whole_checkpoint(s3_bucket: Bucket, tmp_path: Path) -> None:
    record = a_record(f"{s3_bucket.uri}/lake")
    assert checkpoints.last_step(record, Storage()) == 0
    assert checkpoints.last_checkpoint(record, Storage(), tmp_path) is None
    put_checkpoint(s3_bucket, 9, *WHOLE)
    put_checkpoint(s3_bucket, 10, *WHOLE)
    put_checkpoint(s3_bucket, 11, "network.safetensors")  # killed while it was written
    assert checkpoints.last_step(record, Storage()) == 10
    assert checkpoints.last_checkpoint(record, Storage(), tmp_path) == {"step": 10}
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(WHOLE)


def test_a_record_comes_back(tmp_path: Path) -> None:
    lake, storage = str(tmp_path / "lake"), Storage()
    saved = a_record(lake, position={"step": 3}, skipped={"/ä.png": "gone"})
    training_record.save(saved, storage)
    assert training_record.load(lake, RUN, storage) == training_record.load(lake, "last", storage) == saved
    assert training_record.trainings(lake, storage) == [RUN]


def test_a_driver_that_was_taken_for_dead_leaves_the_record_to_the_next(tmp_path: Path) -> None:
    lake, storage = str(tmp_path / "lake"), Storage()
    first, folder = a_record(lake), RunFolder(lake, RUN, storage)
    folder.take_attempt(1, lambda _: True)
    training_record.save(first, storage)
    folder.take_attempt(2, lambda _: False)
    second = replace(first, attempt=2, position={"step": 5})
    training_record.save(second, storage)
    with pytest.raises(SupersededError, match="a later attempt took over from attempt 1"):
        training_record.save(replace(first, state="trained"), storage)
    with pytest.raises(SupersededError):
        Training(first, mock.Mock(), mock.Mock(), storage, mock.Mock())._beat()
    assert training_record.load(lake, RUN, storage) == second


def test_a_record_of_a_lake_that_was_moved_names_it_where_it_is(tmp_path: Path) -> None:
    training_record.save(a_record(str(tmp_path / "lake")), Storage())
    moved = str((tmp_path / "lake").rename(tmp_path / "moved"))
    assert training_record.load(moved, RUN, Storage()).lake == moved


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not the record of a training"),
        (b"{}", "is not the record of a training"),
        (b'{"schema_version": 999}', "written with lake schema 999"),
        (b'{"schema_version": 1, "run": "x"}', "is not the record of a training"),
    ],
)
def test_a_record_that_is_none(tmp_path: Path, content: bytes, message: str) -> None:
    lake, storage = str(tmp_path / "lake"), Storage()
    storage.write(training_record.record_uri(lake, RUN), content)
    with pytest.raises(UserError, match=message):
        training_record.load(lake, RUN, storage)


def test_there_is_no_such_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no training yet"):
        training_record.load(str(tmp_path), "last", Storage())
    with pytest.raises(UserError, match=f"has no training '{RUN}'"):
        training_record.load(str(tmp_path), RUN, Storage())
