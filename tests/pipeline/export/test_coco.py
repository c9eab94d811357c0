"""COCO: read back by our own reader and pycocotools; results evaluate beside an annotation file."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from masklake.model.eval.coco_ap import evaluate, sigmas_of
from masklake.pipeline.export.coco import Like
from masklake.pipeline.labels.formats.coco_reader import CocoReader
from masklake.pipeline.labels.formats.coco_writer import to_coco
from masklake.pipeline.labels.formats.detect import detect
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.helpers.exports import contents, detected, labelled, ring, written
from tests.helpers.label_sets import an_instance, label_set


def test_the_file_is_that_of_labels_export(tmp_path: Path) -> None:
    images = labelled()
    written(tmp_path / "out", "coco", images)
    content = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert content == to_coco([image.labels for image in images])
    reader = CocoReader()
    reader.add(content, "annotations.json")
    assert [image.instances for image in reader.result().images] == [list(i.instances) for i in images]


def test_results_claim_no_labels(tmp_path: Path) -> None:
    image = detected(label_set("s3://p/a.jpg", an_instance("dog")), 0.25)
    written(tmp_path / "out", "coco", [image])
    content = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert content["images"][0]["masklake"] == {"uri": "s3://p/a.jpg"}
    assert content["annotations"][0]["score"] == 0.25
    with contextlib.redirect_stdout(io.StringIO()):
        assert COCO(str(tmp_path / "out" / "annotations.json")).getAnnIds() == [1]


def _evaluated(truth: Path, results: Path, kind: str) -> float:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth))
        evaluation = COCOeval(coco, coco.loadRes(str(results)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_pycocotools_finds_our_ap(tmp_path: Path, kind: str) -> None:
    """Results with the ids of an annotation file: its AP is what `masklake eval` computes of the same rows."""
    truth = labelled()
    written(tmp_path / "truth", "coco", truth)
    content = json.loads((tmp_path / "truth" / "annotations.json").read_text())
    known = contents(truth)
    ids = {image["masklake"]["uri"]: image["id"] for image in content["images"]}
    shifted = [an_instance("person", (9, 5, 16, 12), keypoints=True), an_instance("dog", (20, 20, 10, 8))]
    results = [
        detected(label_set("s3://p/c.jpg", an_instance("dog")), 0.4),
        detected(label_set("s3://p/a.jpg", *shifted), 0.9, 0.8),
        detected(label_set("s3://p/b.jpg", replace(truth[1].instances[0])), 0.7),
        detected(label_set("s3://p/unknown.jpg", an_instance("dog")), 0.7),
    ]
    like = Like(images=ids, classes=known.ids, keypoints=known.keypoints)
    folder = written(tmp_path / "results", "coco-results", results, like=like)
    assert folder.left_out == {"not in the file of --like": 1}
    entries = json.loads((tmp_path / "results" / "results.json").read_text())
    assert {entry["image_id"] for entry in entries} == set(ids.values())
    ours = evaluate(content, entries, sigmas=sigmas_of(known.keypoints["person"]).tolist())[
        "box" if kind == "bbox" else "mask"
    ]
    theirs = _evaluated(tmp_path / "truth" / "annotations.json", tmp_path / "results" / "results.json", kind)
    assert ours is not None
    assert 0.3 < theirs < 1
    assert theirs == pytest.approx(ours.stats["AP"])


def test_results_say_which_images_they_are_of(tmp_path: Path) -> None:
    image = detected(label_set("s3://p/a.jpg", an_instance("person", keypoints=True)), 0.5)
    written(tmp_path / "out", "coco-results", [image])
    images = json.loads((tmp_path / "out" / "images.json").read_text())
    assert detect(images | {"annotations": []}, "images.json") == "coco"
    assert images["images"][0]["masklake"]["uri"] == "s3://p/a.jpg"
    [result] = json.loads((tmp_path / "out" / "results.json").read_text())
    assert result["image_id"] == images["images"][0]["id"]
    assert result["keypoints"] == [9.25, 6.5, 1, 9.25, 6.5, 1, 0, 0, 1]
    assert result["segmentation"]["size"] == [48, 64]


def test_cvat_has_two_files(tmp_path: Path) -> None:
    written(tmp_path / "out", "cvat", labelled())
    instances = json.loads((tmp_path / "out/coco/annotations/instances_default.json").read_text())
    keypoints = json.loads(
        (tmp_path / "out/coco-keypoints/annotations/person_keypoints_default.json").read_text()
    )
    assert [a["category_id"] for a in instances["annotations"]] == [1, 18, 17]
    assert all(isinstance(a["segmentation"]["counts"], list) for a in instances["annotations"])
    assert "keypoints" not in instances["annotations"][0]
    assert [a["num_keypoints"] for a in keypoints["annotations"]] == [2]
    reader = CocoReader()
    reader.add(instances, "instances_default.json")
    assert reader.result().images[1].instances[0].mask == ring()


def test_datumaro_reads_what_cvat_imports(tmp_path: Path) -> None:
    datumaro = pytest.importorskip("datumaro", reason="datumaro, CVAT's reader, is not installed")
    written(tmp_path / "out", "cvat", labelled())
    (tmp_path / "out" / "coco" / "images" / "default").mkdir(
        parents=True
    )  # datumaro wants one, CVAT makes it
    dataset = datumaro.Dataset.import_from(str(tmp_path / "out" / "coco"), "coco")
    areas = sorted(
        int(annotation.get_area())
        for item in dataset
        for annotation in item.annotations
        if annotation.type.name == "mask"
    )
    assert areas == sorted(i.area for image in labelled() for i in image.instances)
