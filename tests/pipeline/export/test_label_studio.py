"""Label Studio: tasks of labels and of results, and what its SDK's converter makes of the brush masks.

Of label-studio-sdk 2.1.2 it is the brush formats (BRUSH_TO_NUMPY, BRUSH_TO_PNG, BRUSH_TO_COCO) that read brush regions; its COCO
and YOLO leave them out (converter.py, convert_to_coco: the kinds of labels that it looks for), whoever drew them.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from masklake.pipeline.labels.formats.studio_reader import StudioReader
from masklake.pipeline.labels.masks import to_pixels

from tests.helpers import readers
from tests.helpers.exports import detected, labelled, written
from tests.helpers.label_sets import an_instance, label_set


def test_labels_come_back_equal(tmp_path: Path) -> None:
    images = labelled()
    written(tmp_path / "out", "label-studio", images)
    reader = StudioReader()
    reader.add(json.loads((tmp_path / "out" / "tasks.json").read_text()), "tasks.json")
    read = reader.result().images
    assert [image.instances for image in read] == [list(image.instances) for image in images]


def test_results_are_predictions(tmp_path: Path) -> None:
    image = detected(label_set("s3://p/a.jpg", an_instance("dog")), 0.25)
    written(tmp_path / "out", "label-studio", [image])
    [task] = json.loads((tmp_path / "out" / "tasks.json").read_text())
    assert "annotations" not in task
    [prediction] = task["predictions"]
    assert (prediction["model_version"], prediction["score"]) == ("demo@0123456789ab", 0.25)
    assert '<Label value="dog"/>' in (tmp_path / "out" / "interface.xml").read_text()


def test_the_sdks_converter_reads_the_masks(tmp_path: Path) -> None:
    pytest.importorskip("label_studio_sdk", reason="label-studio-sdk is not installed")
    images = labelled()
    written(tmp_path / "out", "label-studio", images)
    read = readers.label_studio(tmp_path / "out")
    assert {"BRUSH_TO_NUMPY", "BRUSH_TO_COCO"} <= set(read["formats"])
    for task, image in enumerate(images, 1):
        masks = dict(read["masks"].get(str(task), []))
        assert masks.keys() == {instance.label for instance in image.instances}
        for instance in image.instances:
            assert instance.mask is not None
            np.testing.assert_array_equal(masks[instance.label], to_pixels(instance.mask))
