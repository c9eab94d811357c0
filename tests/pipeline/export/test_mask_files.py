"""Masks as PNG, pixel by pixel."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from masklake.pipeline.export.image import ExportImage
from masklake.pipeline.export.names import stem_of
from masklake.pipeline.labels.masks import to_pixels
from PIL import Image

from tests.helpers.exports import detected, labelled, ring, written
from tests.helpers.label_sets import HEIGHT, WIDTH, an_instance, label_set


def pixels(folder: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(folder / name))


def test_values_are_classes_and_holes_stay(tmp_path: Path) -> None:
    """The smaller of two labels lies above; an image that holds nothing is background."""
    out = tmp_path / "out"
    written(out, "masks-indexed", labelled())
    values = json.loads((out / "classes.json").read_text())
    assert values["background"] == 0
    first = pixels(out, f"masks/{stem_of('s3://p/a.jpg')}.png")
    assert first.shape == (HEIGHT, WIDTH)
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[4:16, 8:24] = values["person"]
    expected[20:28, 20:30] = values["dog"]
    np.testing.assert_array_equal(first, expected)
    second = pixels(out, f"masks/{stem_of('s3://p/b.jpg')}.png")
    np.testing.assert_array_equal(second, to_pixels(ring()) * values["cat"])
    assert not pixels(out, f"masks/{stem_of('s3://p/c.jpg')}.png").any()


def test_the_higher_score_lies_above(tmp_path: Path) -> None:
    labels = label_set("s3://p/a.jpg", an_instance("dog"), an_instance("cat", (10, 6, 30, 30)))
    written(tmp_path / "out", "masks-indexed", [detected(labels, 0.9, 0.4)])
    values = json.loads((tmp_path / "out" / "classes.json").read_text())
    picture = pixels(tmp_path / "out", f"masks/{stem_of('s3://p/a.jpg')}.png")
    assert picture[7, 11] == values["dog"]
    assert picture[30, 30] == values["cat"]


def test_a_file_an_instance(tmp_path: Path) -> None:
    out = tmp_path / "out"
    written(out, "masks-instances", labelled())
    rows = list(csv.DictReader((out / "instances.csv").open()))
    assert [(row["uri"], row["label"]) for row in rows] == [
        ("s3://p/a.jpg", "person"),
        ("s3://p/a.jpg", "dog"),
        ("s3://p/b.jpg", "cat"),
    ]
    for row, instance in zip(rows, (i for image in labelled() for i in image.instances), strict=True):
        assert instance.mask is not None
        np.testing.assert_array_equal(pixels(out, row["mask"]), to_pixels(instance.mask) * np.uint8(255))


def test_an_image_that_is_left_out_takes_its_instances_along(tmp_path: Path) -> None:
    box = replace(an_instance("dog"), mask=None)
    sizeless = replace(label_set("s3://p/x.jpg", box), width=None, height=None)
    images = [*labelled(), ExportImage(labels=sizeless)]
    folder = written(tmp_path / "out", "masks-indexed", images)
    assert (folder.images, folder.instances) == (3, 3)
    assert (folder.left_out, folder.notes) == ({"of unknown size": 1}, {})
