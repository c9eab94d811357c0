"""Parquet for Hugging Face: the rows, their metadata, the bounds of files; and what `datasets` reads."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from masklake.pipeline.export import huggingface
from masklake.pipeline.export.image import ExportImage
from masklake.pipeline.labels.masks import LabelMask, to_pixels
from PIL import Image

from tests.helpers import readers
from tests.helpers.exports import contents, detected, labelled, ring, written
from tests.helpers.label_sets import HEIGHT, WIDTH, an_instance, label_set


def photo() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), (200, 30, 0)).save(file, "PNG")
    return file.getvalue()


def with_photos(images: list[ExportImage]) -> list[ExportImage]:
    return [replace(image, photo=photo()) for image in images]


def rows(folder: Path, split: str = "train") -> list[dict[str, Any]]:
    files = sorted((folder / "data").glob(f"{split}-*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def card(folder: Path) -> dict[str, Any]:
    _, header, _ = (folder / "README.md").read_text().split("---\n", 2)
    content: dict[str, Any] = yaml.safe_load(header)
    return content


def test_labels(tmp_path: Path) -> None:
    folder = written(tmp_path / "out", "huggingface", with_photos(labelled()))
    assert (folder.images, folder.instances) == (3, 3)
    first, empty = rows(tmp_path / "out")
    [second] = rows(tmp_path / "out", "validation")
    assert (first["uri"], first["width"], first["height"]) == ("s3://p/a.jpg", WIDTH, HEIGHT)
    assert first["image"]["bytes"] == photo()
    objects = first["objects"]
    assert objects["category"] == [0, 2]
    assert objects["bbox"] == [[8, 4, 16, 12], [20, 20, 10, 8]]
    assert objects["area"] == [192, 80]
    assert objects["keypoints"][0][1] == {"name": "left_eye", "x": 9.25, "y": 6.5, "visibility": 1}
    assert objects["keypoints"][1] == []
    assert second["objects"]["segmentation"] == [{"size": [HEIGHT, WIDTH], "counts": ring().counts}]
    assert set(map(len, empty["objects"].values())) == {0}
    ids = [id_ for row in (first, second, empty) for id_ in row["objects"]["id"]]
    assert sorted(ids) == [0, 1, 2]


def test_results_without_photos_name_where_they_are(tmp_path: Path) -> None:
    images = [detected(label_set("s3://p/a.jpg", an_instance("dog", mask=None)), 0.25)]
    written(tmp_path / "out", "huggingface", images)
    [row] = rows(tmp_path / "out")
    assert row["image"] == {"bytes": None, "path": "s3://p/a.jpg"}
    assert row["objects"]["score"] == [0.25]
    assert row["objects"]["segmentation"] == [None]
    assert [split["name"] for split in card(tmp_path / "out")["dataset_info"]["splits"]] == ["train"]


def test_the_metadata_says_what_the_columns_are(tmp_path: Path) -> None:
    images = with_photos(labelled())
    written(tmp_path / "out", "huggingface", images)
    for file in (tmp_path / "out" / "data").iterdir():
        arrow = pq.read_schema(file)
        assert arrow.equals(huggingface.schema(contents(images)))
        features = json.loads(arrow.metadata[b"huggingface"])["info"]["features"]
        assert features["image"] == {"_type": "Image"}
        assert features["width"] == {"dtype": "int32", "_type": "Value"}
        objects = features["objects"]
        assert list(objects) == [field.name for field in arrow.field("objects").type]
        assert objects["category"]["feature"] == {"names": ["person", "cat", "dog"], "_type": "ClassLabel"}
        assert objects["bbox"]["feature"]["length"] == 4
        assert objects["keypoints"]["feature"][0]["visibility"] == {"dtype": "int8", "_type": "Value"}
    content = card(tmp_path / "out")
    assert content["configs"][0]["data_files"] == [
        {"split": "train", "path": "data/train-*.parquet"},
        {"split": "validation", "path": "data/validation-*.parquet"},
    ]
    assert content["dataset_info"]["features"][0] == {"name": "image", "dtype": "image"}


def test_files_and_row_groups_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface, "GROUP_BYTES", 2_000)
    monkeypatch.setattr(huggingface, "SHARD_BYTES", 6_000)
    images = [
        replace(labelled()[2], labels=label_set(f"s3://p/{i}.jpg"), photo=bytes([i] * 900)) for i in range(40)
    ]
    written(tmp_path / "out", "huggingface", images)
    files = sorted((tmp_path / "out" / "data").iterdir())
    assert len(files) > 3
    assert files[0].name == "train-00000.parquet"
    for file in files:
        assert pq.read_metadata(file).row_group(0).num_rows == 3
    assert [row["uri"] for row in rows(tmp_path / "out")] == [image.uri for image in images]
    assert [row["image"]["bytes"][0] for row in rows(tmp_path / "out")] == list(range(40))


def test_a_class_with_any_name_stays_a_name_on_the_card(tmp_path: Path) -> None:
    label = "a\n---\nb: [\x1b"
    written(
        tmp_path / "out",
        "huggingface",
        [detected(label_set("s3://p/a.jpg", replace(an_instance(), label=label)), 0.5)],
    )
    [objects] = [f for f in card(tmp_path / "out")["dataset_info"]["features"] if f["name"] == "objects"]
    [category] = [f for f in objects["struct"] if f["name"] == "category"]
    assert category["sequence"]["dtype"]["class_label"]["names"] == {"0": label}


def test_datasets_reads_it(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="datasets is not installed")
    images = with_photos(labelled())
    written(tmp_path / "out", "huggingface", images)
    content = readers.huggingface(tmp_path / "out")
    assert content["classes"] == ["person", "cat", "dog"]
    first, _ = content["rows"]["train"]
    [second] = content["rows"]["validation"]
    assert first["image"] == ["PngImageFile", WIDTH, HEIGHT]
    assert first["objects"]["bbox"] == [[8, 4, 16, 12], [20, 20, 10, 8]]
    assert first["objects"]["keypoints"][0][0] == {"name": "nose", "x": 9.25, "y": 6.5, "visibility": 2}
    [mask] = second["objects"]["segmentation"]
    assert (to_pixels(LabelMask(*mask["size"], mask["counts"])) == to_pixels(ring())).all()
