"""The labels that a model is trained on."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.storage.store import Storage
from masklake.pipeline.tend.chosen import Chosen
from masklake.pipeline.tend.replacing import Tending
from masklake.pipeline.tend.work import forget
from masklake.pipeline.train import dataset as training_set

from tests.helpers.lakes import WHEN, LakeBuilder, empty_label_row, label_row

LATER = WHEN + datetime.timedelta(days=1)


def lake_of(tmp_path: Path, *rows: dict[str, Any]) -> Lake:
    builder = LakeBuilder(str(tmp_path / "lake"))
    for moment in sorted({row["labelled_at"] for row in rows}):
        builder.labels([row for row in rows if row["labelled_at"] == moment])
    return Lake(builder.uri, Storage())


def test_what_is_gathered(tmp_path: Path) -> None:
    lake = lake_of(
        tmp_path,
        label_row("/b.png", "dog", instance=0),
        label_row("/b.png", "person", instance=1),
        label_row("/b.png", "dog", instance=2, iscrowd=True),
        label_row("/b.png", "dog", instance=3, ignore=True),
        label_row("/a.png", "cat", mask=None, width=40, height=60),
        empty_label_row("/c.png"),
        label_row("/held-out.png", "bird", split="val"),
    )
    labels = training_set.gather(lake)
    assert labels.uris(range(3)) == ["/a.png", "/b.png", "/c.png"]
    assert labels.counts == {"dog": 1, "person": 1, "cat": 1}
    assert labels.masks == 2
    assert labels.with_keypoints == {"person"}
    assert labels.keypoint_names[:2] == ("nose", "left_eye")
    assert labels.wide.tolist() == [False, True, True]
    assert [[i.label for i in label_set.instances] for label_set in labels.sets([1, 2])] == [
        ["dog", "person", "dog", "dog"],
        [],
    ]
    assert labels.as_of == WHEN


def test_an_image_has_its_newest_labels_or_those_of_then(tmp_path: Path) -> None:
    lake = lake_of(
        tmp_path,
        label_row("/a.png", "dog"),
        label_row("/a.png", "cat", labelled_at=LATER),
        label_row("/b.png", "dog", labelled_at=LATER),
    )
    assert training_set.gather(lake).counts == {"cat": 1, "dog": 1}
    before = training_set.gather(lake, as_of=WHEN)
    assert (before.counts, before.as_of) == ({"dog": 1}, WHEN)
    assert before.uris([0]) == ["/a.png"]


def test_other_classes_are_background(tmp_path: Path) -> None:
    lake = lake_of(tmp_path, label_row("/a.png", "dog"), label_row("/b.png", "cat"))
    labels = training_set.gather(lake, classes=["dog"])
    assert labels.counts.keys() == labels.ids.keys() == {"dog"}
    assert len(labels) == 2
    with pytest.raises(UserError, match="--classes unicorn: no instance of split train has such a class"):
        training_set.gather(lake, classes=["dog", "unicorn"])


def test_shuffled_labels_are_the_same_labels_elsewhere(tmp_path: Path) -> None:
    rows = [label_row(f"/{i:02d}.png", "dog", x=float(i), y=0.0, w=4.0, h=4.0) for i in range(20)]
    lake = lake_of(tmp_path, *rows, empty_label_row("/empty.png"))
    straight, dealt = training_set.gather(lake), training_set.gather(lake, shuffled=1)
    assert dealt.uris(range(21)) == straight.uris(range(21))
    places = [label_set.instances[0].box[0] for label_set in dealt.sets(range(20))]
    assert sorted(places) == list(map(float, range(20)))
    assert places != sorted(places)
    assert dealt.sets([20])[0].instances == straight.sets([20])[0].instances == ()
    again = training_set.gather(lake, shuffled=1)
    assert [label_set.instances[0].box[0] for label_set in again.sets(range(20))] == places


def test_nothing_to_learn_is_told(tmp_path: Path) -> None:
    lake = lake_of(tmp_path, label_row("/a.png", "dog", split="val"))
    with pytest.raises(
        UserError, match="has no labels of split train; all of its labelled images are of split val"
    ):
        training_set.gather(lake)


def test_the_record_names_what_was_learnt(tmp_path: Path) -> None:
    lake = lake_of(tmp_path, label_row("/a.png", "dog"), label_row("/a.png", "cat", instance=1, mask=None))
    as_record_ = training_set.as_record(training_set.gather(lake))
    assert as_record_ == {
        "as_of": WHEN.isoformat(),
        "images": 1,
        "instances": 2,
        "with_masks": 1,
        "classes": {"cat": 1, "dog": 1},
        "joints": [],
    }


def test_slices_are_whole_images(tmp_path: Path) -> None:
    rows = [label_row(f"/{i:02d}.png", "dog", instance=k) for i in range(9) for k in range(1 + i % 3)]
    labels = training_set.gather(lake_of(tmp_path, *rows))
    positions = np.array([8, 0, 4])
    assert [(label_set.uri, len(label_set.instances)) for label_set in labels.sets(positions)] == [
        ("/08.png", 3),
        ("/00.png", 1),
        ("/04.png", 2),
    ]


def test_images_that_are_forgotten_between_are_not_learnt_from(tmp_path: Path) -> None:
    lake = lake_of(
        tmp_path,
        label_row("/a.png", "dog"),
        label_row("/b.png", "dog"),
        label_row("/v.png", "dog", split="val"),
    )
    labels = training_set.gather(lake)
    tending = Tending(lake=lake.uri, storage=Storage(), grace_s=0)
    forget(tending, Chosen(uris=frozenset({"/v.png"})))
    labels.require_current(Storage())
    forget(tending, Chosen(uris=frozenset({"/b.png"})))
    with pytest.raises(UserError, match="after the training had read their labels"):
        labels.require_current(Storage())
    now = training_set.gather(Lake(lake.uri, Storage()))
    now.require_current(Storage())
    assert now.uris(range(len(now))) == ["/a.png"]
