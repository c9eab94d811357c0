import copy
import json

import numpy as np
import pytest
from masklake.model import scenes
from masklake.model.coco import KEYPOINT_NAMES
from masklake.model.eval.coco_ap import (
    AREA_STATS,
    KEYPOINT_STATS,
    KINDS,
    OTHER_SIGMA,
    coco_ap,
    evaluate,
    sigmas_of,
)
from masklake.model.eval.confusion import confusion
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

from tests.helpers.paths import SHARED

PHOTOS = SHARED / "data" / "coco-sample"


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


def test_other_keypoints_need_their_own_sigmas(truth):
    few = copy.deepcopy(truth)
    for annotation in few["annotations"]:
        if "keypoints" in annotation:
            annotation["keypoints"] = annotation["keypoints"][:15]
    with pytest.raises(ValueError, match="5 keypoints, there are 17 sigmas"):
        coco_ap(few, as_results(few))
    assert coco_ap(few, as_results(few), sigmas=[0.05] * 5)["keypoints"]["AP"] == pytest.approx(1.0)


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="needs the sample of COCO photos beside the checkout")
def test_agrees_with_pycocotools_on_photos():
    """Polygons, crowds and people without keypoints, as COCO has them; results are the truth, moved by a fixed rule."""
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


def random_data(seed, images=12, classes=3):
    """Truth with crowds and unlabelled keypoints, and detections that are near it, doubled, wrong, or of other classes."""
    rng = np.random.default_rng(seed)
    annotations, results = [], []
    for image in range(images):
        for _ in range(rng.integers(0, 9)):
            w, h = np.exp(rng.uniform(np.log(6), np.log(300), 2)).astype(int).clip(1, 399)
            x, y = (int(rng.integers(0, 400 - side + 1)) for side in (w, h))
            visible = rng.integers(0, 3, 17) * (rng.random() < 0.7)
            xy = np.c_[rng.uniform(x, x + w, 17), rng.uniform(y, y + h, 17)] * (visible > 0)[:, None]
            class_ = int(rng.integers(1, classes + 1))
            keypoints = {"keypoints": np.c_[xy, visible].ravel().tolist()} if class_ == 1 else {}
            record = {
                "image_id": image,
                "category_id": class_,
                "bbox": [x, y, int(w), int(h)],
                "area": float(w * h * rng.uniform(0.5, 1)),
                "segmentation": box_mask(x, y, w, h),
                **keypoints,
            }
            annotations.append(record | {"id": len(annotations) + 1, "iscrowd": int(rng.random() < 0.1)})
            for _ in range(rng.integers(0, 4)):
                dx, dy = (float(rng.normal(0, 0.1 * side)) for side in (w, h))
                moved = np.clip([x + dx, y + dy], 0, 390).astype(int)
                result = {
                    "image_id": image,
                    "category_id": class_ if rng.random() < 0.9 else int(rng.integers(1, classes + 1)),
                    "score": float(np.float32(rng.integers(0, 40) / 40)),  # with ties
                    "bbox": [x + dx, y + dy, float(w), float(h)],
                    "segmentation": box_mask(*moved, min(w, 400 - moved[0]), min(h, 400 - moved[1])),
                }
                if class_ == 1:
                    noise = rng.normal(0, 0.05 * np.sqrt(w * h), (17, 2))
                    result["keypoints"] = np.c_[xy + noise, np.ones(17)].ravel().tolist()
                results.append(result)
    truth = {
        "images": [{"id": i, "width": 400, "height": 400} for i in range(images)],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"class {i}"} for i in range(1, classes + 1)],
    }
    return truth, results


def box_mask(x, y, w, h):
    pixels = np.zeros((400, 400), np.uint8, order="F")
    pixels[y : y + h, x : x + w] = 1
    rle = coco_mask.encode(pixels)
    return {"size": rle["size"], "counts": rle["counts"].decode("ascii")}


def by_pycocotools(truth, results, kind):
    """All figures, straight from COCOeval."""
    name, field = KINDS[kind]
    truth = copy.deepcopy(truth)
    for annotation in truth["annotations"]:
        annotation.setdefault("keypoints", [0] * 51)
        annotation["num_keypoints"] = sum(v > 0 for v in annotation["keypoints"][2::3])
    dataset = COCO()
    dataset.dataset = {"info": {}, **truth}
    dataset.createIndex()
    fields = ("image_id", "category_id", "score", field)
    reference = COCOeval(
        dataset, dataset.loadRes([{k: r[k] for k in fields} for r in results if r.get(field)]), name
    )
    if kind == "keypoints":
        reference.params.catIds = [1]
    reference.evaluate()
    reference.accumulate()
    reference.summarize()
    return reference


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_is_pycocotools(kind, seed):
    truth, results = random_data(seed)
    reference = by_pycocotools(truth, results, kind)
    measured = evaluate(truth, results)[kind]
    names = KEYPOINT_STATS if kind == "keypoints" else AREA_STATS
    assert tuple(measured.stats) == names
    figures = [-1 if value is None else value for value in measured.stats.values()]
    assert figures == pytest.approx(reference.stats.tolist(), abs=1e-6)
    assert 0.1 < measured.stats["AP"] < 0.9
    for k, (class_, figures) in enumerate(measured.classes.items()):
        assert class_ == reference.params.catIds[k]
        precision = reference.eval["precision"][:, :, k, 0, -1]
        assert figures.stats["AP"] == pytest.approx(precision.mean(), abs=1e-6)
        assert figures.stats["AP50"] == pytest.approx(precision[0].mean(), abs=1e-6)
        assert figures.stats["AR"] == pytest.approx(reference.eval["recall"][:, k, 0, -1].mean(), abs=1e-6)
    mean = np.mean([figures.stats["AP"] for figures in measured.classes.values()])
    assert mean == pytest.approx(measured.stats["AP"], abs=1e-9)
    assert measured.precision.shape == (10, len(measured.classes), 101)


def test_areas_without_annotations_are_undefined_not_zero(truth):
    small = copy.deepcopy(truth)
    for annotation in small["annotations"]:
        annotation["area"] = 10
    stats = evaluate(small, as_results(truth))["box"].stats
    assert stats["APm"] is stats["APl"] is stats["ARl"] is None
    assert stats["APs"] == pytest.approx(1.0)


def test_a_box_without_a_mask_neither_counts_nor_costs_for_masks(truth):
    boxes = copy.deepcopy(truth)
    boxes["annotations"][0]["segmentation"] = []
    for results in (as_results(truth), as_results(truth)[1:]):
        measured = evaluate(boxes, results)
        assert measured["mask"].stats["AP"] == pytest.approx(1.0)
    assert measured["box"].stats["AP"] < 1.0


def test_keypoints_have_cocos_tolerances_by_name():
    cocos = Params("keypoints").kpt_oks_sigmas
    assert sigmas_of(KEYPOINT_NAMES).tolist() == cocos.tolist()
    assert sigmas_of(["tail", "nose"]).tolist() == [OTHER_SIGMA, cocos[0]]


def test_annotation_ids_mean_nothing(truth):
    """COCOeval takes what is matched with annotation 0 for missed."""
    numbered = copy.deepcopy(truth)
    for i, annotation in enumerate(numbered["annotations"]):
        annotation["id"] = i
    assert evaluate(numbered, as_results(truth))["box"].stats["AP"] == pytest.approx(1.0)
    alike = copy.deepcopy(truth)
    for annotation in alike["annotations"]:
        annotation["id"] = 7
    assert evaluate(alike, as_results(truth))["mask"].stats["AP"] == pytest.approx(1.0)


def square(image_id, category_id, x, **more):
    return {"id": 1, "image_id": image_id, "category_id": category_id, "bbox": [x, 10, 20, 20], "area": 400, "iscrowd": 0,
            "segmentation": [[x, 10, x + 20, 10, x + 20, 30, x, 30]]} | more  # fmt: skip


def results_of(annotations):
    def mask(polygons):
        return coco_mask.merge(coco_mask.frPyObjects(polygons, 100, 200))

    return [
        {key: a[key] for key in ("image_id", "category_id", "bbox")}
        | {"score": a.get("score", 0.9), "segmentation": mask(a["segmentation"])}
        for a in annotations
    ]


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_what_is_to_be_ignored_neither_counts_nor_costs(kind):
    truth = {
        "images": [{"id": 1, "width": 200, "height": 100}],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": [square(1, 1, 10), square(1, 1, 60, ignore=1)],
    }
    both, single = results_of(truth["annotations"]), results_of(truth["annotations"][:1])
    for results in (both, single):
        measured = evaluate(truth, results)[kind]
        assert measured.stats["AP"] == pytest.approx(1.0)
        assert measured.classes[1].labelled == 1
    # no crowd: a second detection of it is wrong
    twice = results_of([square(1, 1, 60, score=0.99), square(1, 1, 61, score=0.98), square(1, 1, 10)])
    assert evaluate(truth, twice)[kind].stats["AP"] < 1.0
    assert confusion(truth, both, [1]).tolist() == [[1, 0], [0, 0]]
    only = {**truth, "annotations": [square(1, 1, 60, ignore=1)]}
    assert evaluate(only, both)[kind] is None


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_labels_that_are_not_exhaustive(kind):
    """LVIS: only classes that the image was searched for count, and of some not every object is annotated."""
    truth = {
        "images": [
            {
                "id": 1,
                "width": 200,
                "height": 100,
                "neg_category_ids": [2],
                "not_exhaustive_category_ids": [3],
            },
            {"id": 2, "width": 200, "height": 100, "neg_category_ids": [], "not_exhaustive_category_ids": []},
        ],
        "categories": [{"id": i, "name": str(i)} for i in (1, 2, 3)],
        "annotations": [square(1, 1, 10), square(1, 3, 60), square(2, 2, 10), square(2, 3, 60)],
    }
    right = results_of(truth["annotations"])
    # not searched for in image 2; beside the annotated one of a class that is not exhaustive in image 1
    neither = results_of([square(2, 1, 110, score=0.99), square(1, 3, 110, score=0.99)])
    assert evaluate(truth, [*right, *neither])[kind].stats["AP"] == pytest.approx(1.0)
    assert confusion(truth, [*right, *neither], [1, 2, 3])[-1].sum() == 0
    # there is none of class 2 in image 1, and class 1 is exhaustive there
    for wrong in (square(1, 2, 110, score=0.99), square(1, 1, 110, score=0.99)):
        assert evaluate(truth, [*right, *results_of([wrong])])[kind].stats["AP"] < 1.0
        assert confusion(truth, [*right, *results_of([wrong])], [1, 2, 3])[-1].sum() == 1
    exhaustive = {**truth, "images": [{"id": i, "width": 200, "height": 100} for i in (1, 2)]}
    assert evaluate(exhaustive, [*right, *neither])[kind].stats["AP"] < 1.0


def test_the_areas_and_counts_of_the_file_are_used(truth):
    """They scale object keypoint similarity, and say which instances have keypoints."""
    changed = copy.deepcopy(truth)
    shifted = as_results(truth)
    for result in shifted:
        if "keypoints" in result:
            result["keypoints"] = [v + 4 * (i % 3 < 2) for i, v in enumerate(result["keypoints"])]
    before = coco_ap(changed, shifted)["keypoints"]["AP"]
    for annotation in changed["annotations"]:
        annotation["area"] /= 4
    assert coco_ap(changed, shifted)["keypoints"]["AP"] < before
    for annotation in changed["annotations"]:
        annotation["num_keypoints"] = 0
    assert coco_ap(changed, shifted)["keypoints"] is None
