"""The proof at the end of a run, and what it mends: doubled, missing, mismatched, orphaned."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from masklake.pipeline.lake.run_record import RunFolder, SupersededError
from masklake.pipeline.segment.encode import encode_rows
from masklake.pipeline.segment.infer import infer_rows
from masklake.pipeline.segment.proof import (
    bar_uncommitted,
    done_ids,
    sweep,
    take_back_uncommitted,
    tally,
    verify,
)
from masklake.pipeline.segment.write import part_name, write
from masklake.pipeline.storage.crash_points import on_reach
from masklake.pipeline.storage.parquet import write_table
from masklake.pipeline.storage.store import Storage

from tests.conftest import Bucket
from tests.helpers.images import solid
from tests.helpers.predictors import VOCABULARY, ContentPredictor
from tests.pipeline.segment.test_infer import decoded

FILES = {red: solid((red, 0, 0), (16, 12)) for red in range(4)}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(str(tmp_path / "lake"), "20261122T235416-3fa9c1", Storage())


def _commit(folder: RunFolder, attempt: int, *ids: int) -> str:
    """Commit images `ids`, each with id modulo 4 instances; the part's name."""
    rows = encode_rows(infer_rows(decoded(*[FILES[i % 4] for i in ids]), ContentPredictor()), VOCABULARY)
    rows = rows.set_column(rows.schema.get_field_index("image_id"), "image_id", pa.array(ids, pa.int64()))
    uris = pa.array([f"s3://b/{i}" for i in ids])
    rows = rows.set_column(rows.schema.get_field_index("uri"), "uri", uris)
    write(rows, folder, attempt, "m@1")
    return part_name(attempt, np.array(ids))


def _uri(folder: RunFolder, table: str, name: str) -> str:
    return f"{folder.table_uri(table)}/{name}"


def _rows(folder: RunFolder, table: str) -> list[dict]:
    return [
        row for uri in folder.storage.list(folder.table_uri(table)) for row in pq.read_table(uri).to_pylist()
    ]


def _assert_whole(folder: RunFolder, n: int) -> None:
    """Each image 0 … n - 1 once, with its own instances, each once."""
    images, instances = _rows(folder, "images"), _rows(folder, "instances")
    assert sorted(row["image_id"] for row in images) == list(range(n))
    owners = Counter(row["image_id"] for row in instances)
    assert all(owners[row["image_id"]] == row["n_instances"] == row["image_id"] % 4 for row in images)
    assert len({(row["image_id"], row["instance"]) for row in instances}) == len(instances)
    names = [
        {u.rpartition("/")[2] for u in folder.storage.list(folder.table_uri(t))}
        for t in ("images", "instances")
    ]
    assert names[0] == names[1]


def test_a_whole_run(folder: RunFolder) -> None:
    _commit(folder, 1, 0, 1, 2, 3)
    _commit(folder, 1, 5, 4)
    _commit(folder, 2, 6)
    before = folder.storage.list(folder.lake)
    result = verify(folder, 7, 2)
    assert (result.images, result.missing, result.doubled, result.mismatched) == (7, 0, 0, 0)
    assert result.whole
    assert folder.storage.list(folder.lake) == before


def test_nothing_at_all(folder: RunFolder) -> None:
    assert verify(folder, 0, 1).whole
    result = verify(folder, 3, 1)
    assert (result.missing, result.whole) == (3, False)


def test_missing_images_are_counted(folder: RunFolder) -> None:
    _commit(folder, 1, 0, 2)
    result = verify(folder, 5, 1)
    assert (result.missing, result.whole) == (3, False)


def test_a_straggler_doubles_a_whole_part(folder: RunFolder) -> None:
    old = _commit(folder, 1, 0, 1, 2, 3)
    new = _commit(folder, 2, 0, 1, 2, 3)
    result = verify(folder, 4, 2)
    assert (result.doubled, result.missing, result.whole) == (4, 0, True)
    _assert_whole(folder, 4)
    assert not folder.storage.exists(_uri(folder, "images", old))
    assert folder.storage.exists(_uri(folder, "images", new))


def test_a_straggler_overlaps(folder: RunFolder) -> None:
    """The old attempt cut its packets elsewhere: images 2 and 3 of its part are the only ones there are."""
    _commit(folder, 1, 0, 1, 2, 3)
    _commit(folder, 2, 0, 1)
    _commit(folder, 2, 4, 5)
    result = verify(folder, 6, 2)
    assert (result.doubled, result.whole) == (2, True)
    _assert_whole(folder, 6)
    assert verify(folder, 6, 2).doubled == 0


def test_three_attempts_over_each_other(folder: RunFolder) -> None:
    _commit(folder, 1, 0, 1, 2, 3, 4)
    _commit(folder, 2, 3, 4, 5)
    _commit(folder, 3, 1, 3, 6)
    assert verify(folder, 7, 3).whole
    _assert_whole(folder, 7)


def test_the_row_of_the_newest_attempt_stays(folder: RunFolder) -> None:
    _commit(folder, 1, 0, 1)
    _commit(folder, 2, 1)
    uri = _uri(folder, "images", part_name(2, np.array([1])))
    marked = pq.read_table(uri)
    marked = marked.set_column(
        marked.schema.get_field_index("etag"), marked.schema.field("etag"), pa.array(["new"])
    )
    write_table(marked, uri, folder.storage)
    verify(folder, 2, 2)
    assert {row["image_id"]: row["etag"] for row in _rows(folder, "images")} == {0: "e", 1: "new"}


@pytest.mark.parametrize("damage", ["gone", "fewer", "more", "others"])
def test_a_part_whose_instances_do_not_add_up_is_taken_back(folder: RunFolder, damage: str) -> None:
    _commit(folder, 1, 0, 1)
    name = _commit(folder, 1, 2, 5, 7)
    uri = _uri(folder, "instances", name)
    table = pq.read_table(uri)
    if damage == "gone":
        folder.storage.delete(uri)
    elif damage == "fewer":
        write_table(table.slice(1), uri, folder.storage)
    elif damage == "more":
        write_table(pa.concat_tables([table, table.slice(0, 1)]), uri, folder.storage)
    else:  # as many rows, but one belongs to an image that is not in this part
        ids = table["image_id"].to_pylist()
        ids[ids.index(5)] = 4
        column = pa.array(ids, pa.int64())
        write_table(table.set_column(1, table.schema.field("image_id"), column), uri, folder.storage)
    result = verify(folder, 8, 1)
    assert result.mismatched > 0
    assert result.missing == 6
    assert not folder.storage.exists(_uri(folder, "images", name))
    assert not folder.storage.exists(uri)
    assert sorted(row["image_id"] for row in _rows(folder, "images")) == [0, 1]


def test_a_broken_straggler_does_not_harm_the_new_attempt(folder: RunFolder) -> None:
    """It committed its images after the sweep had taken its instances for an orphan."""
    old = _commit(folder, 1, 0, 1, 2)
    folder.storage.delete(_uri(folder, "instances", old))
    _commit(folder, 2, 0, 1, 2, 3)
    result = verify(folder, 4, 2)
    assert result.whole
    _assert_whole(folder, 4)


def test_orphans_are_swept(folder: RunFolder) -> None:
    kept, orphan = _commit(folder, 1, 0, 1), _commit(folder, 1, 2, 3)
    folder.storage.delete(_uri(folder, "images", orphan))
    stray = _uri(folder, "instances", "notes.txt")
    folder.storage.write(stray, b"a user's own file")
    assert sweep(folder) == 1
    assert sweep(folder) == 0
    assert not folder.storage.exists(_uri(folder, "instances", orphan))
    assert folder.storage.exists(_uri(folder, "instances", kept))
    assert folder.storage.exists(stray)


def test_what_was_not_committed_when_an_attempt_began_never_is(folder: RunFolder) -> None:
    """Its writer stood still between its two parts, and goes on after the other attempt has done its images."""

    def overtaken(point: str) -> None:
        if point.startswith("put ") and "/images/" in point and not folder.superseded(1):
            folder.take_attempt(2, lambda _: False)
            bar_uncommitted(folder, 2, "m@1")
            _commit(folder, 2, 0, 1, 2, 3)

    folder.take_attempt(1, lambda _: False)
    with on_reach(overtaken), pytest.raises(SupersededError):
        _commit(folder, 1, 0, 1, 2, 3)
    _assert_whole(folder, 4)
    assert verify(folder, 4, 2).whole
    _assert_whole(folder, 4)


def test_a_superseded_attempt_takes_back_only_its_own(folder: RunFolder) -> None:
    """The later one is at work: its parts that are half committed, and files that it is writing, stay."""
    kept, cut, others = _commit(folder, 1, 0, 1), _commit(folder, 1, 2, 3), _commit(folder, 2, 2)
    for name in (cut, others):
        folder.storage.delete(_uri(folder, "images", name))
    writing = Path(_uri(folder, "instances", ".part.parquet.1234.tmp"))
    writing.write_bytes(b"half of")
    take_back_uncommitted(folder, 1, "m@1")
    names = [path.name for path in Path(folder.table_uri("instances")).iterdir()]
    assert sorted(names) == sorted([writing.name, kept, others])


def test_only_what_earlier_attempts_committed_is_done(folder: RunFolder) -> None:
    _commit(folder, 1, 5, 1)
    _commit(folder, 2, 3)
    _commit(folder, 3, 0, 4)
    assert done_ids(folder, 1).tolist() == []
    assert done_ids(folder, 2).tolist() == [1, 5]
    assert done_ids(folder, 3).tolist() == [1, 3, 5]
    assert done_ids(folder, 4).tolist() == [0, 1, 3, 4, 5]


def test_tally(folder: RunFolder) -> None:
    assert tally(folder).counts.total() == 0
    _commit(folder, 1, 0, 1, 2)
    _commit(folder, 2, 3)
    committed = tally(folder)
    assert committed.counts == {"ok": 4}
    assert committed.instances == 0 + 1 + 2 + 3


class KilledError(Exception):
    """Stands for SIGKILL: nothing catches it."""


class Fragile(Storage):
    """Dies at the n-th write or delete."""

    left: ClassVar = [0]

    def _step(self) -> None:
        if self.left[0] == 0:
            raise KilledError
        self.left[0] -= 1

    def write(self, uri: str, data: bytes) -> None:
        self._step()
        super().write(uri, data)

    def delete(self, uri: str) -> None:
        self._step()
        super().delete(uri)


@pytest.mark.parametrize("steps", range(12))
def test_mending_may_be_interrupted_anywhere(folder: RunFolder, steps: int) -> None:
    """Killed after any number of writes and deletes, no image is lost and the next verification is clean."""
    _commit(folder, 1, 0, 1, 2, 3, 4)
    _commit(folder, 1, 5, 6)
    _commit(folder, 2, 0, 1)
    _commit(folder, 2, 5, 6)
    orphan = _commit(folder, 2, 7)
    folder.storage.delete(_uri(folder, "images", orphan))
    fragile = RunFolder(folder.lake, folder.run, Fragile())
    Fragile.left[0] = steps
    try:
        finished = verify(fragile, 7, 2).whole
    except KilledError:
        finished = False
        # What a reader sees at this moment: every image, and each row's instances beside it.
        seen = {row["image_id"] for row in _rows(folder, "images")}
        assert seen == set(range(7))
    assert finished == (steps >= 7)
    assert verify(folder, 7, 3).whole
    _assert_whole(folder, 7)


def test_verification_on_object_storage(s3_bucket: Bucket) -> None:
    remote = RunFolder(f"{s3_bucket.uri}/lake", "20261122T235416-3fa9c1", Storage())
    _commit(remote, 1, 0, 1, 2)
    _commit(remote, 2, 1)
    orphan = _commit(remote, 1, 9)
    remote.storage.delete(_uri(remote, "images", orphan))
    result = verify(remote, 3, 2)
    assert (result.doubled, result.missing) == (1, 0)
    assert len(s3_bucket.all_keys("lake/images/")) == len(s3_bucket.all_keys("lake/instances/")) == 2
    assert verify(remote, 3, 2).doubled == 0


def test_a_hundred_thousand_images(folder: RunFolder) -> None:
    """Rows in any order within a part; the proof looks each up, not all against all."""
    rng = np.random.default_rng(0)
    name = _commit(folder, 1, *range(4))
    images, instances = (pq.read_table(_uri(folder, t, name)) for t in ("images", "instances"))
    ids = rng.permutation(100_000)
    rows = images.take(pa.array(ids % 4))
    rows = rows.set_column(1, rows.schema.field("image_id"), pa.array(ids, pa.int64()))
    owners = np.repeat(ids, ids % 4)
    many = instances.take(pa.array(np.zeros(len(owners), np.int64)))
    many = many.set_column(1, many.schema.field("image_id"), pa.array(owners, pa.int64()))
    folder.storage.delete(_uri(folder, "images", name))
    write_table(many, _uri(folder, "instances", part_name(1, ids)), folder.storage)
    write_table(rows, _uri(folder, "images", part_name(1, ids)), folder.storage)
    assert verify(folder, 100_000, 1).whole
