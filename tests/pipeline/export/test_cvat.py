"""CVAT: what is in its two files, and what datumaro reads of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from masklake.pipeline.labels.masks import to_pixels

from tests.helpers import readers
from tests.helpers.exports import labelled, ring, written

INSTANCES = "coco/annotations/instances_default.json"
KEYPOINTS = "coco-keypoints/annotations/person_keypoints_default.json"


def content(folder: Path, name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / name).read_text())
    return read


def test_masks_are_run_lengths(tmp_path: Path) -> None:
    written(tmp_path / "out", "cvat", labelled())
    annotations = content(tmp_path / "out", INSTANCES)["annotations"]
    assert [annotation.get("keypoints") for annotation in annotations] == [None] * 3
    mask = annotations[2]["segmentation"]
    flat = np.repeat(np.arange(len(mask["counts"])) % 2, mask["counts"])
    np.testing.assert_array_equal(flat.reshape(mask["size"], order="F"), to_pixels(ring()))


def test_keypoints_have_a_file_of_their_own_with_their_classes(tmp_path: Path) -> None:
    written(tmp_path / "out", "cvat", labelled())
    keypoints = content(tmp_path / "out", KEYPOINTS)
    assert [category["name"] for category in keypoints["categories"]] == ["person"]
    [person] = keypoints["annotations"]
    assert person["keypoints"] == [9.25, 6.5, 2, 9.25, 6.5, 1, 0, 0, 0]
    assert len(keypoints["images"]) == 3
    written(tmp_path / "none", "cvat", labelled()[1:])
    assert not (tmp_path / "none" / "coco-keypoints").exists()


def test_datumaro_reads_it(tmp_path: Path) -> None:
    pytest.importorskip("datumaro", reason="datumaro is not installed")
    written(tmp_path / "out", "cvat", labelled())
    read = readers.cvat(tmp_path / "out")
    instances = {item["id"]: item for item in read["instances"]}
    assert sorted(instances["a"]["boxes"]) == [["dog", [20, 20, 10, 8]], ["person", [8, 4, 16, 12]]]
    [[label, pixels]] = instances["b"]["masks"]
    assert label == "cat"
    np.testing.assert_array_equal(pixels, to_pixels(ring()))
    [points] = [item["points"] for item in read["keypoints"] if item["points"]]
    assert points == [["person", [9.25, 6.5, 9.25, 6.5, 0, 0], [2, 1, 0]]]
