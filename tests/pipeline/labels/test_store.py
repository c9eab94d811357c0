"""Labels in a lake: added in one step, the newest counts, equal ones are not written twice."""

from __future__ import annotations

import datetime
import re
import threading
from pathlib import Path

import pytest
from masklake.pipeline.errors import UserError
from masklake.pipeline.labels import store as label_store
from masklake.pipeline.labels.sets import LabelSet
from masklake.pipeline.labels.store import Added, add, newest
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.storage.store import Storage

from tests.conftest import Bucket
from tests.helpers.label_sets import an_instance, label_set
from tests.helpers.lakes import WHEN, LakeBuilder, label_row

A, B = "s3://p/a.jpg", "s3://p/ü'\n%41/../b.jpg"
DOG, CAT = an_instance("dog"), an_instance("cat", box=(0, 0, 9, 9))


def opened(uri: str) -> Lake:
    return Lake(uri, Storage())


def counts(added: Added) -> tuple[int, int, int, int]:
    return added.new, added.replaced, added.unchanged, added.instances


def test_the_newest_label_set_counts_and_the_older_stay(tmp_path: Path) -> None:
    uri = str(tmp_path)
    assert newest(opened(uri)) == []
    assert counts(add(opened(uri), [label_set(A, DOG, CAT), label_set(B)])) == (2, 0, 0, 2)
    assert counts(add(opened(uri), [label_set(A), label_set(B)])) == (0, 1, 1, 0)
    assert newest(opened(uri)) == [label_set(A), label_set(B)]
    assert newest(opened(uri), [B, "s3://p/none"]) == [label_set(B)]
    assert opened(uri).dataset("labels").count_rows() == 4
    assert all(
        re.fullmatch(r"part-\d{8}T\d{12}Z\.parquet", part.name) for part in opened(uri).parts("labels")
    )


def test_equal_labels_are_not_written_again(tmp_path: Path) -> None:
    sets = [label_set(A, DOG)]
    add(opened(str(tmp_path)), sets)
    again = add(opened(str(tmp_path)), sets)
    assert (again.part, counts(again)) == (None, (0, 0, 1, 0))
    assert add(opened(str(tmp_path)), [label_set(A, DOG, split="val")], dry_run=True).replaced == 1
    assert len(opened(str(tmp_path)).parts("labels")) == 1


def test_a_clock_that_is_behind_loses_nothing(tmp_path: Path) -> None:
    builder = LakeBuilder(str(tmp_path))
    ahead = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=400)
    builder.labels([label_row(A, "person", labelled_at=ahead), label_row(B, "person", labelled_at=WHEN)])
    add(opened(str(tmp_path)), [label_set(A, DOG)])
    assert newest(opened(str(tmp_path)), [A]) == [label_set(A, DOG)]


def test_the_number_of_a_class_is_the_newest_one(tmp_path: Path) -> None:
    assert label_store.classes(opened(str(tmp_path))) == {}
    add(opened(str(tmp_path)), [label_set(A, DOG), label_set(B)])
    add(opened(str(tmp_path)), [label_set(A, an_instance("dog", label_id=3), CAT)])
    assert label_store.classes(opened(str(tmp_path))) == {"dog": 3, "cat": 17}


def test_importers_at_once_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All write at the same microsecond: each gets a part of its own, and one of them counts."""
    _importers_at_once(str(tmp_path), monkeypatch)


def test_importers_at_once_lose_nothing_in_s3(s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    _importers_at_once(f"{s3_bucket.uri}/lake", monkeypatch)


def _importers_at_once(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_store, "_newest_time", lambda _: WHEN + datetime.timedelta(days=1000))
    imports = [[label_set(A, *[DOG] * n), label_set(f"s3://p/{n}.jpg", CAT)] for n in range(1, 5)]
    threads = [threading.Thread(target=add, args=(opened(uri), sets, [])) for sets in imports]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened(uri).parts("labels")) == 4
    stored = newest(opened(uri))
    assert len(stored) == 5
    assert next(label_set_ for label_set_ in stored if label_set_.uri == A) in [sets[0] for sets in imports]


@pytest.mark.parametrize("s3_bucket", ["moto"], indirect=True)
def test_labels_that_may_not_be_written_are_told(s3_bucket: Bucket, use_s3: object) -> None:
    s3_bucket.allow_guest("s3:ListBucket", "s3:GetObject")
    use_s3(s3_bucket.guest)  # type: ignore[operator]
    with pytest.raises(UserError, match=r"cannot write the labels: permission denied .*s3:PutObject"):
        add(opened(f"{s3_bucket.uri}/lake"), [label_set(A)])


def test_all_of_many_sets_are_read_back(tmp_path: Path) -> None:
    sets: list[LabelSet] = sorted(
        (label_set(f"s3://p/{i}", DOG) for i in range(300)), key=lambda label_set_: label_set_.uri
    )
    add(opened(str(tmp_path)), sets)
    add(opened(str(tmp_path)), [label_set(label_set_.uri, CAT) for label_set_ in sets[::2]])
    assert newest(opened(str(tmp_path))) == [
        label_set(label_set_.uri, CAT if i % 2 == 0 else DOG) for i, label_set_ in enumerate(sets)
    ]
