"""What can be made of detections: names, whole masks, rows, COCO's results, pictures."""

from __future__ import annotations

import numpy as np
import pytest
from masklake.model import scenes
from masklake.model.detections import Detections
from masklake.model.errors import ModelError
from masklake.model.masks import rle
from masklake.model.predictor import Predictor
from masklake.model.presets import load_model
from masklake.model.scenes.scene import Scene
from masklake.model.tiles.predictor import TiledPredictor
from masklake.model.tiles.tiling import Tiling
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(load_model("demo"), score_threshold=0.5)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return scenes.scene(5, 0)


@pytest.fixture(scope="module")
def detections(predictor: Predictor, scene: Scene) -> Detections:
    (result,) = predictor.predict([scene.image])
    assert isinstance(result, Detections)
    assert {"person"} < set(result.names)
    return result


def test_whole_masks_are_those_of_the_rle(predictor: Predictor, scene: Scene, detections: Detections) -> None:
    (as_rle,) = predictor.predict([scene.image], as_rle=True)
    assert isinstance(as_rle, Detections)
    assert as_rle.rles is not None
    expected = rle.decode(as_rle.rles).astype(bool)
    assert expected.any()
    for result in (detections, as_rle):
        masks = result.full_masks()
        assert masks.dtype == bool
        assert masks.shape == (len(result), *scene.image.shape[:2])
        assert (masks == expected).all()


def test_rows_are_those_of_a_lake(detections: Detections) -> None:
    rows = detections.rows()
    assert [row["label"] for row in rows] == detections.names
    assert np.allclose([[row["x"] + row["w"], row["y"] + row["h"]] for row in rows], detections.boxes[:, 2:])
    for row in rows:
        assert (row["keypoints"] is not None) == (row["label"] == "person")
    person = detections.names.index("person")
    assert detections.keypoints is not None
    named = [(point["x"], point["y"], point["score"]) for point in rows[person]["keypoints"]]
    assert np.allclose(named, detections.keypoints[person])


def test_coco_reads_the_results(scene: Scene, detections: Detections) -> None:
    """As pycocotools evaluates them against the scene's own annotations, most of it is found."""
    truth = COCO()
    truth.dataset = scenes.coco([scene])
    truth.createIndex()
    (image_id,) = truth.imgs
    results = truth.loadRes(detections.to_coco(image_id))
    for kind in ("bbox", "segm"):
        evaluation = COCOeval(truth, results, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[1] > 0.7, kind


def test_a_picture(scene: Scene, detections: Detections) -> None:
    picture = np.asarray(detections.draw(scene.image).resize(scene.image.shape[1::-1]))
    changed = (np.abs(picture.astype(int) - scene.image) > 40).any(axis=2)
    inside = detections.full_masks().any(axis=0)
    assert changed[inside].mean() > changed[~inside].mean()
    with pytest.raises(ModelError, match="the detections are in a frame of"):
        detections.draw(scene.image[:50])


def test_by_tiles(predictor: Predictor, scene: Scene) -> None:
    tiled = TiledPredictor(predictor, Tiling(size=160, overlap=64, above=0))
    (result,) = tiled.predict([scene.image])
    assert isinstance(result, Detections)
    assert result.rles is not None  # it was cut
    assert result.full_masks().shape[1:] == scene.image.shape[:2]
    assert len(result.rows()) == len(result) > 0


def test_without_instances(predictor: Predictor) -> None:
    (nothing,) = predictor.predict([np.zeros((40, 60, 3), np.uint8)])
    assert isinstance(nothing, Detections)
    assert nothing.full_masks().shape == (len(nothing), 40, 60)
    assert nothing.names == nothing.rows() == nothing.to_coco(1) == []


def test_arrays_alone_say_what_they_lack(detections: Detections) -> None:
    alone = Detections(boxes=detections.boxes, labels=detections.labels, scores=detections.scores)
    with pytest.raises(ModelError, match="take them from a Predictor"):
        _ = alone.names
    with pytest.raises(ModelError, match="has no masks"):
        alone.full_masks()
