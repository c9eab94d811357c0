import copy
import json
from pathlib import Path

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from model import scenes
from model.evaluate import coco_ap

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "coco-sample"


@pytest.fixture(scope="module")
def truth():
    return scenes.coco([scenes.scene(3, i) for i in range(8)])


def as_results(truth):
    return [
        {key: a[key] for key in ("image_id", "category_id", "bbox", "segmentation", "keypoints") if key in a}
        | {"score": 0.9}
        for a in truth["annotations"]
    ]


def test_truth_against_itself_is_perfect_and_silent(truth, capsys):
    before = copy.deepcopy(truth)
    measured = coco_ap(truth, as_results(truth))
    assert set(measured) == {"box", "mask", "keypoints"}
    for kind in measured.values():
        assert kind == pytest.approx({"AP": 1.0, "AP50": 1.0, "AP75": 1.0})
    assert capsys.readouterr().out == ""
    assert truth == before


def test_shifted_truth_is_worse(truth):
    results = as_results(truth)
    for result in results:
        x, y, w, h = result["bbox"]
        result["bbox"] = [x + 0.2 * w, y, w, h]  # IoU 0.8 / 1.2
        if "keypoints" in result:
            result["keypoints"] = [v + 4 * (i % 3 < 2) for i, v in enumerate(result["keypoints"])]
    measured = coco_ap(truth, results)
    assert measured["box"]["AP50"] == pytest.approx(1.0)
    assert measured["box"]["AP75"] == 0.0
    assert (
        0.2 < measured["box"]["AP"] < 0.5
    )  # IoU 0.667: found at 0.50, 0.55, 0.60 and 0.65 of ten thresholds
    assert measured["mask"]["AP"] == pytest.approx(1.0)
    assert 0.0 < measured["keypoints"]["AP"] < 1.0


def test_missed_and_invented_objects_cost(truth):
    missed = coco_ap(truth, as_results(truth)[::2])
    assert missed["box"]["AP"] < 0.8
    invented = as_results(truth)
    invented += [{**r, "bbox": [0, 0, 4, 4], "score": 0.95} for r in invented]
    assert coco_ap(truth, invented)["box"]["AP"] < 0.8


def test_each_kind_is_measured_on_its_own(truth):
    boxes = [{k: r[k] for k in ("image_id", "category_id", "score", "bbox")} for r in as_results(truth)]
    measured = coco_ap(truth, boxes)
    assert measured["box"]["AP"] == pytest.approx(1.0)
    assert measured["mask"] == measured["keypoints"] == {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}


def test_no_detections_are_zero_not_undefined(truth):
    for kind in coco_ap(truth, []).values():
        assert kind == {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}


def test_what_the_truth_lacks_is_undefined(truth):
    shapes = {**truth, "annotations": [a for a in truth["annotations"] if a["category_id"] != 1]}
    measured = coco_ap(shapes, as_results(truth))
    assert measured["keypoints"] is None
    assert measured["box"]["AP"] == pytest.approx(1.0)  # categories without truth do not count
    unlabelled = copy.deepcopy(truth)
    for annotation in unlabelled["annotations"]:
        if "keypoints" in annotation:
            annotation["keypoints"] = [0] * 51
    assert coco_ap(unlabelled, as_results(truth))["keypoints"] is None
    empty = {**truth, "annotations": []}
    assert coco_ap(empty, as_results(truth)) == {"box": None, "mask": None, "keypoints": None}


def test_crowds_neither_count_nor_cost(truth):
    crowded = copy.deepcopy(truth)
    crowded["annotations"][0]["iscrowd"] = 1
    for with_it in (as_results(truth), as_results(truth)[1:]):
        assert coco_ap(crowded, with_it)["box"]["AP"] == pytest.approx(1.0)


def test_results_of_unknown_images_are_refused(truth):
    with pytest.raises(ValueError, match="image 77"):
        coco_ap(truth, [{"image_id": 77, "category_id": 1, "score": 1.0, "bbox": [0, 0, 1, 1]}])


def test_other_joints_need_their_own_sigmas(truth):
    few = copy.deepcopy(truth)
    for annotation in few["annotations"]:
        if "keypoints" in annotation:
            annotation["keypoints"] = annotation["keypoints"][:15]
    with pytest.raises(ValueError, match="5 joints, there are 17 sigmas"):
        coco_ap(few, as_results(few))
    assert coco_ap(few, as_results(few), sigmas=[0.05] * 5)["keypoints"]["AP"] == pytest.approx(1.0)


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="needs the sample of COCO photos beside the checkout")
def test_agrees_with_pycocotools_on_photos():
    """Polygons, crowds and people without joints, as COCO has them; results are the truth, moved by a fixed rule."""
    truth = json.loads((PHOTOS / "person_keypoints.json").read_text())
    results = []
    for n, annotation in enumerate(truth["annotations"]):
        x, y, w, h = annotation["bbox"]
        shift = n % 5 / 10
        results.append(
            {
                "image_id": annotation["image_id"],
                "category_id": annotation["category_id"],
                "score": (n * 7919 % 1000) / 1000,
                "bbox": [x + shift * w, y, w, h],
                "keypoints": [
                    v + shift * w / 10 if i % 3 == 0 else v for i, v in enumerate(annotation["keypoints"])
                ],
            }
        )
    measured = coco_ap(truth, results)
    dataset = COCO(PHOTOS / "person_keypoints.json")
    for kind, name in (("box", "bbox"), ("keypoints", "keypoints")):
        field = "bbox" if kind == "box" else "keypoints"
        reference = COCOeval(
            dataset,
            dataset.loadRes(
                [{k: r[k] for k in ("image_id", "category_id", "score", field)} for r in results]
            ),
            name,
        )
        reference.evaluate()
        reference.accumulate()
        reference.summarize()
        assert list(measured[kind].values()) == reference.stats[:3].tolist()
        assert 0.2 < measured[kind]["AP"] < 0.95
