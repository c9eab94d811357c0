"""FiftyOne: numbers by hand, and what its own importer reads."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from masklake.pipeline.export.fiftyone import CUT
from masklake.pipeline.labels.masks import to_pixels

from tests.helpers import readers
from tests.helpers.exports import detected, labelled, ring, written
from tests.helpers.label_sets import an_instance, label_set


def samples(folder: Path) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads((folder / "samples.json").read_text())["samples"]
    return content


def pixels(detection: dict[str, Any]) -> np.ndarray:
    data = zlib.decompress(base64.b64decode(detection["mask"]["$binary"]["base64"]))
    array: np.ndarray = np.load(io.BytesIO(data))
    return array


def test_labels(tmp_path: Path) -> None:
    written(tmp_path / "out", "fiftyone", labelled())
    first, second, third = samples(tmp_path / "out")
    assert (first["uri"], first["filepath"], first["tags"]) == ("s3://p/a.jpg", "a.jpg", ["train"])
    assert first["metadata"] == {"_cls": "ImageMetadata", "width": 64, "height": 48}
    person, dog = first["ground_truth"]["detections"]
    assert (person["label"], person["iscrowd"], dog["label"]) == ("person", False, "dog")
    assert person["bounding_box"] == [8 / 64, 4 / 48, 16 / 64, 12 / 48]
    assert pixels(person).shape == (12, 16)
    assert pixels(person).all()
    [points] = first["ground_truth_keypoints"]["keypoints"]
    nowhere = {"$numberDouble": "NaN"}
    assert points["points"] == [[9.25 / 64, 6.5 / 48], [9.25 / 64, 6.5 / 48], [nowhere, nowhere]]
    assert (points["visible"], points["index"]) == ([2, 1, 0], 0)
    [cat] = second["ground_truth"]["detections"]
    np.testing.assert_array_equal(pixels(cat), to_pixels(ring())[4:40, 6:60].astype(bool))
    assert third["ground_truth"]["detections"] == []
    content = json.loads((tmp_path / "out" / "metadata.json").read_text())
    assert content["default_classes"] == ["person", "cat", "dog"]
    assert content["skeletons"]["ground_truth_keypoints"]["labels"] == ["nose", "left_eye", "right_eye"]


def test_results(tmp_path: Path) -> None:
    image = detected(label_set("/photos/a.jpg", an_instance("person", keypoints=True)), 0.75)
    written(tmp_path / "out", "fiftyone", [image])
    [sample] = samples(tmp_path / "out")
    assert (sample["filepath"], sample["model"]) == ("/photos/a.jpg", "demo@0123456789ab")
    [detection] = sample["predictions"]["detections"]
    assert detection["confidence"] == 0.75
    assert "iscrowd" not in detection
    [points] = sample["predictions_keypoints"]["keypoints"]
    assert np.allclose(points["confidence"], [0.731059, 0.731059, 0.268941])  # logits 1, 1 and -1


def test_ids_are_those_of_the_image(tmp_path: Path) -> None:
    for name in "ab":
        written(tmp_path / name, "fiftyone", labelled()[:: 1 if name == "a" else -1])
    a, b = samples(tmp_path / "a"), samples(tmp_path / "b")
    assert sorted(a, key=lambda sample: sample["uri"]) == sorted(b, key=lambda sample: sample["uri"])
    ids = [d["_id"]["$oid"] for s in a for d in (s, *s["ground_truth"]["detections"])]
    assert len(set(ids)) == len(ids)


def test_masks_are_cut_to_their_box_and_boxes_to_the_image(tmp_path: Path) -> None:
    """A box between pixels holds all that it touches."""
    within = replace(an_instance("dog"), box=(8.6, 4.6, 14.9, 10.9))
    beyond = replace(an_instance("dog"), box=(10, 4, 20, 12))
    outside = replace(an_instance("dog", (0, 0, 4, 4)), box=(-10, -10, 14, 14))
    image = detected(label_set("s3://p/a.jpg", within, beyond, outside), 0.9, 0.8, 0.7)
    folder = written(tmp_path / "out", "fiftyone", [image])
    first, second, third = samples(tmp_path / "out")[0]["predictions"]["detections"]
    assert pixels(first).shape == (12, 16)
    assert pixels(second).sum() == 14 * 12
    assert third["bounding_box"] == [0, 0, 4 / 64, 4 / 48]
    assert folder.remarks == {CUT: 1}
    assert folder.instances == 3


def test_fiftyone_reads_it(tmp_path: Path) -> None:
    for name in (
        "fiftyone",
        "mongomock",
    ):  # fiftyone is imported only after it was told where its database is
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    images = [replace(image, photo=b"photo") for image in labelled()]
    written(tmp_path / "out", "fiftyone", images)
    content = readers.fiftyone(tmp_path / "out")
    assert content["classes"] == ["person", "cat", "dog"]
    assert content["skeletons"] == {"ground_truth_keypoints": ["nose", "left_eye", "right_eye"]}
    first, second, third = content["samples"]
    assert first["filepath"] == str(tmp_path / "out" / "a.jpg")
    assert first["detections"][0]["box"] == [0.125, 4 / 48, 0.25, 0.25]
    assert np.allclose(first["keypoints"][0]["points"][:2], [[9.25 / 64, 6.5 / 48]] * 2)
    assert np.isnan(first["keypoints"][0]["points"][2]).all()
    np.testing.assert_array_equal(second["detections"][0]["mask"], to_pixels(ring())[4:40, 6:60].astype(bool))
    assert (third["detections"], third["size"]) == ([], [64, 48])
