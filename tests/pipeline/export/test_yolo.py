"""YOLO: every number worked out, polygons that fill to the mask, read back by supervision and ultralytics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from masklake.pipeline.export.names import stem_of
from masklake.pipeline.export.polygons import one_polygon
from masklake.pipeline.labels.masks import LabelMask, from_pixels, from_polygons, to_pixels
from PIL import Image

from tests.helpers.exports import detected, labelled, ring, ring_instance, written
from tests.helpers.label_sets import HEIGHT, WIDTH, an_instance, label_set


def lines(folder: Path, uri: str, split: str = "train") -> list[list[float]]:
    text = (folder / "labels" / split / f"{stem_of(uri)}.txt").read_text()
    return [[float(word) for word in line.split()] for line in text.splitlines()]


def header(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((folder / "data.yaml").read_text())
    return content


def test_boxes(tmp_path: Path) -> None:
    written(tmp_path / "out", "yolo-detect", labelled())
    assert header(tmp_path / "out") == {
        "train": "images/train", "val": "images/val", "names": {0: "person", 1: "cat", 2: "dog"},
    }  # fmt: skip
    expected = [[0, 0.25, 10 / 48, 0.25, 0.25], [2, 25 / 64, 0.5, 10 / 64, 8 / 48]]
    assert np.allclose(lines(tmp_path / "out", "s3://p/a.jpg"), expected, atol=1e-6)
    assert lines(tmp_path / "out", "s3://p/c.jpg") == []  # looked at, and empty


def test_boxes_are_cut_to_the_image_and_crowds_have_no_line(tmp_path: Path) -> None:
    images = [detected(
        label_set("s3://p/a.jpg",
            an_instance("dog", (-10, 40, 20, 20), mask=None), an_instance("dog", iscrowd=True),
            an_instance("dog", ignore=True), an_instance("dog", (100, 100, 5, 5), mask=None)), 0.9, 0.8, 0.7, 0.6)]  # fmt: skip
    folder = written(tmp_path / "out", "yolo-detect", images)
    assert np.allclose(
        lines(tmp_path / "out", "s3://p/a.jpg"), [[0, 5 / 64, 44 / 48, 10 / 64, 8 / 48]], atol=1e-6
    )
    assert (folder.instances, folder.notes.total()) == (1, 3)


def test_an_image_of_unknown_size_is_left_out(tmp_path: Path) -> None:
    from masklake.pipeline.export.image import ExportImage

    image = ExportImage(labels=label_set("s3://p/a.jpg", an_instance("dog"), width=None, height=None))
    folder = written(tmp_path / "out", "yolo-detect", [image])
    assert folder.images == 0
    assert (
        tmp_path / "out" / "left-out.csv"
    ).read_text() == "uri,reason\ns3://p/a.jpg,its size is not known\n"


def test_keypoints(tmp_path: Path) -> None:
    folder = written(tmp_path / "out", "yolo-pose", labelled())
    content = header(tmp_path / "out")
    assert content["names"] == {0: "person"}
    assert content["kpt_shape"] == [3, 3]
    assert content["flip_idx"] == [0, 2, 1]
    [line] = lines(tmp_path / "out", "s3://p/a.jpg")
    expected = [0, 0.25, 10 / 48, 0.25, 0.25, 9.25 / 64, 6.5 / 48, 2, 9.25 / 64, 6.5 / 48, 1, 0, 0, 0]
    assert np.allclose(line, expected, atol=1e-6)
    assert folder.notes == {
        "instances of 'dog', which has no keypoints": 1,
        "instances of 'cat', which has no keypoints": 1,
    }


def filled(polygon: Any, height: int = HEIGHT, width: int = WIDTH) -> LabelMask:
    return from_polygons([polygon.ravel().tolist()], height, width)


def iou(a: LabelMask, b: LabelMask) -> float:
    one, other = to_pixels(a), to_pixels(b)
    return float((one & other).sum() / max(1, (one | other).sum()))


def test_a_polygon_keeps_parts_and_holes(tmp_path: Path) -> None:
    polygon = one_polygon(ring())
    assert polygon is not None
    assert iou(filled(polygon), ring()) > 0.93
    hole = to_pixels(filled(polygon))[13:16, 15:21]
    assert not hole.any()
    written(tmp_path / "out", "yolo-segment", labelled())
    [line] = lines(tmp_path / "out", "s3://p/b.jpg", "val")
    assert line[0] == 1
    assert np.allclose(np.array(line[1:]).reshape(-1, 2) * (WIDTH, HEIGHT), polygon, atol=1e-4)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.03, 0.5, 0.9, 1.0]))
def test_any_mask_becomes_one_polygon_of_its_area(seed: int, share: float) -> None:
    """By the shoelace formula, corners cut: at most an eighth of a pixel at each."""
    pixels = np.random.default_rng(seed).random((12, 17)) < share
    polygon = one_polygon(from_pixels(pixels))
    if not pixels.any():
        assert polygon is None
        return
    assert polygon is not None
    x, y = polygon.T
    area = abs((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2
    corners = sum(
        abs(np.diff(np.pad(pixels, 1).astype(int), axis=0)[:, :-1])
        & abs(np.diff(np.pad(pixels, 1).astype(int), axis=1)[:-1])
    ).sum() + len(polygon)
    assert abs(area - pixels.sum()) <= corners / 8


def test_a_disc_is_round() -> None:
    y, x = np.mgrid[:200, :300]
    disc = from_pixels((x - 140) ** 2 + (y - 90) ** 2 < 70**2)
    polygon = one_polygon(disc)
    assert polygon is not None
    assert iou(filled(polygon, 200, 300), disc) > 0.985
    assert len(polygon) < 500


def test_instances_without_a_mask_are_told(tmp_path: Path) -> None:
    images = [detected(label_set("s3://p/a.jpg", an_instance("dog", mask=None), ring_instance()), 0.9, 0.5)]
    folder = written(tmp_path / "out", "yolo-segment", images)
    assert folder.notes == {"instances without a mask": 1}
    assert len(lines(tmp_path / "out", "s3://p/a.jpg")) == 1


def _with_photos(out: Path, format_: str) -> None:
    written(out, format_, labelled())
    for split, uris in {"train": ["s3://p/a.jpg", "s3://p/c.jpg"], "val": ["s3://p/b.jpg"]}.items():
        for uri in uris:
            Image.new("RGB", (WIDTH, HEIGHT)).save(out / "images" / split / f"{stem_of(uri)}.jpg")


def test_supervision_reads_it(tmp_path: Path) -> None:
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    out = tmp_path / "out"
    _with_photos(out, "yolo-segment")
    for split, expected in {"train": 2, "val": 1}.items():
        dataset = supervision.DetectionDataset.from_yolo(
            images_directory_path=str(out / "images" / split),
            annotations_directory_path=str(out / "labels" / split),
            data_yaml_path=str(out / "data.yaml"),
            force_masks=True,
        )
        assert dataset.classes == ["person", "cat", "dog"]
        detections = [d for _, _, d in dataset]
        assert sum(len(d) for d in detections) == expected
        if split == "val":
            mask = from_pixels(detections[0].mask[0])
            assert iou(mask, ring()) > 0.8


@pytest.mark.parametrize("format_", ["yolo-detect", "yolo-segment", "yolo-pose"])
def test_ultralytics_reads_it(tmp_path: Path, format_: str) -> None:
    utils = pytest.importorskip("ultralytics.data.utils", reason="ultralytics is not installed")
    dataset = pytest.importorskip("ultralytics.data.dataset", reason="ultralytics is not installed")
    out = tmp_path / "out"
    _with_photos(out, format_)
    data = utils.check_det_dataset(str(out / "data.yaml"), autodownload=False)
    task = {"yolo-detect": "detect", "yolo-segment": "segment", "yolo-pose": "pose"}[format_]
    for split, count in {"train": 1 if task == "pose" else 2, "val": 0 if task == "pose" else 1}.items():
        read = dataset.YOLODataset(img_path=data[split], data=data, task=task, augment=False)
        assert sum(len(label["cls"]) for label in read.labels) == count
        if task == "pose" and split == "train":
            keypoints = np.concatenate([label["keypoints"] for label in read.labels if len(label["cls"])])
            assert np.allclose(keypoints[0, 0], [9.25 / 64, 6.5 / 48, 2], atol=1e-5)
