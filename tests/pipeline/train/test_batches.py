"""From positions in the labels to examples: what cannot be had is told, and the rest is what was labelled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from masklake.model.coco import KEYPOINT_NAMES
from masklake.model.flip_pairs import mirrored
from masklake.model.spec import Preprocessing
from masklake.model.train.augment import Augment
from masklake.model.train.examples import pack, unpack
from masklake.model.train.recipe import Recipe
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.storage.store import Storage
from masklake.pipeline.train import dataset as training_set
from masklake.pipeline.train.batches import Batches, load_step, truth_of
from masklake.pipeline.train.shuffle import BatchOrder

from tests.helpers.label_sets import an_instance
from tests.helpers.lakes import LakeBuilder, label_row
from tests.helpers.review_lakes import picture

RECIPE = Recipe(batch=4, flip=0.0, jitter=(1.0, 1.0), colour=0.0, min_box=1.0)


def batches(labels: training_set.TrainingSet, **given: Any) -> Batches:
    return Batches(
        order=BatchOrder(len(labels), RECIPE.batch, RECIPE.seed, labels.wide),
        recipe=given.pop("recipe", RECIPE),
        preprocessing=Preprocessing(min_size=48, max_size=64),
        outputs=given.pop("outputs", {"dog": 1, "person": 2}),
        keypoint_names=KEYPOINT_NAMES,
        mirror=mirrored(KEYPOINT_NAMES),
        storage=Storage(),
        **given,
    )


@pytest.fixture
def labels(tmp_path: Path) -> training_set.TrainingSet:
    """Four pictures of 64×48, a dog in each and a person in every other."""
    rows = []
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(picture(i))
        rows.append(label_row(str(tmp_path / f"{i}.png"), "dog", x=float(4 * i), y=8.0, w=12.0, h=16.0))
        if i % 2:
            rows.append(label_row(str(tmp_path / f"{i}.png"), "person", instance=1))
    builder = LakeBuilder(str(tmp_path / "lake"))
    builder.labels(rows)
    return training_set.gather(Lake(builder.uri, Storage()))


def step(labels: training_set.TrainingSet, **given: Any) -> dict[str, Any]:
    return load_step(batches(labels, **given), labels, 0, worker=0, workers=1)


def test_examples_are_in_the_order_of_the_step(labels: training_set.TrainingSet) -> None:
    row = step(labels)
    positions = batches(labels).order.of_step(0).tolist()
    examples = unpack(row["examples"])
    assert row["skipped"] == []
    assert [float(sample.boxes[sample.outputs == 1][0, 0]) for sample in examples] == [
        4.0 * position for position in positions
    ]
    assert [2 in sample.outputs.tolist() for sample in examples] == [
        position % 2 == 1 for position in positions
    ]
    assert all(tuple(sample.image.shape) == (3, 48, 64) for sample in examples)


def test_workers_share_a_batch(labels: training_set.TrainingSet) -> None:
    whole = unpack(step(labels)["examples"])
    parts = [
        unpack(load_step(batches(labels), labels, 0, worker=worker, workers=2)["examples"])
        for worker in range(2)
    ]
    assert [len(part) for part in parts] == [2, 2]
    for a, b in zip(whole, [*parts[0], *parts[1]], strict=True):
        assert (a.image == b.image).all()
        assert (a.boxes == b.boxes).all()


def test_the_same_step_is_the_same_examples(labels: training_set.TrainingSet) -> None:
    random = Recipe(batch=4, seed=5)
    first, again = step(labels, recipe=random), step(labels, recipe=random)
    assert first["examples"] == again["examples"]
    assert (
        load_step(batches(labels, recipe=random), labels, 1, worker=0, workers=1)["examples"]
        != first["examples"]
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "gone since it was labelled"),
        (b"no picture", "cannot be decoded"),
        (picture(0)[:300], "cannot be decoded"),
        (picture(0, (32, 24)), "is 32×24 now, and was 64×48 when it was labelled"),
    ],
)
def test_images_that_cannot_be_learnt_from(
    labels: training_set.TrainingSet, content: bytes | None, reason: str
) -> None:
    file = Path(labels.uris([2])[0])
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    row = step(labels)
    [skipped] = row["skipped"]
    assert skipped["uri"] == str(file)
    assert skipped["reason"].startswith(reason)
    assert len(unpack(row["examples"])) == 3


def test_one_too_large_is_left_out(labels: training_set.TrainingSet) -> None:
    row = step(labels, max_bytes=100)
    assert len(row["skipped"]) == 4
    assert unpack(row["examples"]) == []


def test_classes_that_are_not_learnt_are_background(labels: training_set.TrainingSet) -> None:
    examples = unpack(step(labels, outputs={"person": 1})["examples"])
    assert sorted(len(sample.boxes) for sample in examples) == [0, 0, 1, 1]
    assert all(set(sample.outputs.tolist()) <= {1} for sample in examples)


def test_truth_of_crowds_keypoints_and_masks() -> None:
    from dataclasses import replace

    from masklake.pipeline.labels.sets import LabelSet

    dog, person = an_instance(), an_instance("person", (2, 2, 20, 30), keypoints=True)
    crowd = replace(an_instance("person", (30, 0, 10, 10)), iscrowd=True)
    bare = replace(an_instance("dog", (0, 0, 5, 5)), mask=None)
    sample = LabelSet(
        uri="/a.png", width=64, height=48, instances=(dog, person, crowd, bare), source="human", split="train"
    )
    truth = truth_of(sample, 64, 48, {"dog": 1, "person": 2}, ("nose", "left_eye", "tail"))
    assert list(truth.outputs) == [1, 2, 1]
    assert truth.boxes.tolist() == [[8, 4, 24, 16], [2, 2, 22, 32], [0, 0, 5, 5]]
    assert truth.crowds.tolist() == [[30, 0, 40, 10]]
    assert [mask is not None for mask in truth.masks] == [True, True, False]
    assert truth.keypoints.shape == (3, 3, 3)
    assert not truth.keypoints[0].any()
    assert not truth.keypoints[1, 2].any()
    seen = [keypoint for keypoint in person.keypoints if keypoint.visibility]
    assert seen
    for keypoint in seen:
        position = {"nose": 0, "left_eye": 1}.get(keypoint.name)
        if position is not None:
            assert np.allclose(truth.keypoints[1, position], [keypoint.x, keypoint.y, keypoint.visibility])


def test_truth_of_what_is_not_to_be_learnt() -> None:
    """What is to be ignored is no background; a crowd of a class that is not learnt is."""
    from dataclasses import replace

    from tests.helpers.label_sets import label_set

    dog, ignored = an_instance(), an_instance("dog", (30, 0, 10, 10), ignore=True)
    crowd = replace(an_instance("person", (0, 0, 64, 48)), iscrowd=True)
    truth = truth_of(label_set("/a.png", dog, ignored, crowd), 64, 48, {"dog": 1}, ())
    assert truth.boxes.tolist() == [[8, 4, 24, 16]]
    assert truth.crowds.tolist() == [[30, 0, 40, 10]]


def test_truth_of_images_that_were_not_searched_for_every_class() -> None:
    from tests.helpers.label_sets import label_set

    outputs = {"dog": 1, "cat": 2, "person": 3, "bird": 4}

    def unsearched(**given: Any) -> list[int]:
        return list(truth_of(label_set("/a.png", an_instance(), **given), 64, 48, outputs, ()).unsearched)

    assert unsearched() == []
    assert unsearched(not_exhaustive=("dog",)) == [1]
    assert unsearched(absent=("cat",)) == [3, 4]
    assert unsearched(absent=("cat", "bird"), not_exhaustive=("dog",)) == [1, 3]
    # and so it comes to the training
    truth = truth_of(label_set("/a.png", an_instance(), absent=("cat",)), 64, 48, outputs, ())
    augment = Augment(RECIPE, Preprocessing(min_size=48, max_size=64), [])
    [example] = unpack(pack([augment(np.zeros((48, 64, 3), np.uint8), truth, 0)]))
    assert example.unsearched.tolist() == [3, 4]
