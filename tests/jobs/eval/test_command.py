"""`masklake eval`: the real command on generated scenes, held to pycocotools on the generator's own JSON."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest
from masklake.jobs.eval import pictures as eval_pictures
from masklake.jobs.segment.options import RowOptions
from masklake.model import presets, scenes
from masklake.model.eval.coco_ap import AREA_STATS, KEYPOINT_STATS, KINDS, evaluate
from masklake.pipeline.storage.store import Storage
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.conftest import Bucket, CliResult
from tests.helpers.lakes import LakeBuilder, empty_label_row, image, instance, label_row

RUN, OLDER, OLDEST = "20261101T000000-aaaaaa", "20261001T000000-bbbbbb", "20200101T000000-aaaaaa"
DEMO = {
    "name": "demo",
    "source": "demo",
    "fingerprint": presets.fingerprint("demo"),
    "classes": [info.name for info in presets.describe("demo").classes],
}
Masklake = Callable[..., tuple[int, str, str]]
RunCli = Callable[..., CliResult]


@pytest.fixture
def lake(tmp_path: Path) -> LakeBuilder:
    """A run by a model that knows only people, over a.jpg and b.jpg; labels of a.jpg, b.jpg and c.jpg in val."""
    builder = LakeBuilder(str(tmp_path / "lake"))
    builder.record(RUN)
    builder.part(RUN, {"s3://p/a.jpg": [instance("person", 0.9)], "s3://p/b.jpg": []})
    return builder


def labels(*rows: dict[str, Any]) -> list[dict[str, Any]]:
    return [row | {"split": "val"} for row in rows]


def coco_directory(folder: Path, n: int) -> Path:
    """What COCO val2017 looks like, of scenes."""
    truth = json.loads(scenes.write(folder / "val2017", n, seed=11).read_text())
    (folder / "val2017" / "annotations.json").unlink()
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(truth))
    people = [annotation for annotation in truth["annotations"] if annotation["category_id"] == 1]
    keypoint_truth = {**truth, "annotations": people, "categories": truth["categories"][:1]}
    (folder / "annotations" / "person_keypoints_val2017.json").write_text(json.dumps(keypoint_truth))
    return folder


def by_pycocotools(directory: Path, lake: Path) -> dict[str, list[float]]:
    """The figures from COCO's files and the Parquet, without any of our code between them."""
    rows = ds.dataset(lake / "instances", format="parquet", partitioning=None).to_table().to_pylist()
    rows.sort(key=lambda row: (row["uri"], row["instance"]))
    figures = {}
    for kind, (name, field) in KINDS.items():
        file = "person_keypoints" if kind == "keypoints" else "instances"
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(directory / "annotations" / f"{file}_val2017.json")
            ids = {image["file_name"]: image["id"] for image in truth.dataset["images"]}
            results = [
                {
                    "image_id": ids[row["uri"].rpartition("/")[2]],
                    "category_id": row["label_id"],
                    "score": row["score"],
                    field: {
                        "bbox": [row[side] for side in "xywh"],
                        "segmentation": row["mask"],
                        "keypoints": [v for j in row["keypoints"] or () for v in (j["x"], j["y"], 1)],
                    }[field],
                }
                for row in rows
                if kind != "keypoints" or row["keypoints"]
            ]
            reference = COCOeval(truth, truth.loadRes(results), name)
            reference.evaluate()
            reference.accumulate()
            reference.summarize()
        figures[kind] = reference.stats.tolist()
    return figures


def assert_equal(facts: dict[str, Any], reference: dict[str, list[float]]) -> None:
    for kind, expected in reference.items():
        stats = facts["figures"][kind]
        assert tuple(stats) == (KEYPOINT_STATS if kind == "keypoints" else AREA_STATS)
        figures = [-1 if value is None else value for value in stats.values()]
        assert figures == pytest.approx(expected, abs=1e-6)


def test_parquet_against_labels_is_pycocotools_on_the_json(
    tmp_path: Path, run_cli: RunCli, masklake: Masklake
) -> None:
    coco, lake = coco_directory(tmp_path / "coco", 8), tmp_path / "lake"
    builder = LakeBuilder(str(lake))
    builder.record(OLDEST, model=DEMO, options=RowOptions().record())
    with Image.open(photo := coco / "val2017" / "scene-000003.jpg") as scene:
        builder.part(OLDEST, [(image(str(photo), width=scene.width, height=scene.height), [])])
    done = run_cli("eval", lake, "--coco", coco, "--model", "demo", "--format", "json")
    assert done.code == 0, done.stderr
    assert "7 of 8 labelled images have no row of demo@" in done.stderr, "what is there is not done again"
    facts = json.loads(done.stdout)
    assert len(facts["runs"]) == 2
    assert facts["images"] == {"labelled": 8, "evaluated": 8, "failed": 0, "missing": 0, "of_other_size": 0}
    reference = by_pycocotools(coco, lake)
    assert_equal(facts, reference)
    assert facts["figures"]["box"]["AP"] > 0.4, "the shipped model really detects"
    assert facts["published"] is None, "figures are published for coco only"

    # the same as labels of the lake, by rows that are there: nothing runs
    code, _, err = masklake("labels", "import", *sorted((coco / "annotations").iterdir()), lake)
    assert (code, err) == (0, "")
    code, out, err = masklake("eval", lake, "--model", "demo", "--split", "all", "--format", "json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert_equal(facts, reference)
    folder = lake / "runs" / facts["runs"][-1] / "eval"
    assert json.loads((folder / "all" / "metrics.json").read_text()) == facts
    assert {path.name for path in folder.iterdir()} == {"all", "coco-val2017"}
    for name in ("precision-recall.png", "confusion.png"):
        with Image.open(folder / "all" / name) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 300
    counts = np.array(facts["confusion"]["counts"])
    assert counts[:-1].sum() == facts["instances"]["labelled"]
    assert facts["confusion"]["classes"] == [row["class"] for row in facts["classes"]]
    assert np.trace(counts) > 0.5 * counts.sum()
    mean = np.mean([row["mask"]["AP"] for row in facts["classes"]])
    assert mean == pytest.approx(facts["figures"]["mask"]["AP"])

    # one run only: the newest lacks the image that was there
    code, out, _ = masklake("eval", lake, "--split", "all", "--format", "csv")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert {row["kind"] for row in rows} == set(KINDS)
    assert all(0 <= float(row["AP"]) <= 1 for row in rows)
    code, out, _ = masklake("eval", lake, "--run", "last", "--split", "all")
    assert code == 0
    assert "on all: 7 images" in out
    assert "1 labelled images have no row and were left out" in out


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools' own
def test_polygons_and_crowds_of_real_photos_are_measured_as_coco_does(
    photos: Path, tmp_path: Path, masklake: Masklake
) -> None:
    """Detections are the truth, moved. Figures by area differ: labels count mask pixels, COCO the areas of polygons."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(photos / "instances.json")
    crowds = {entry["image_id"] for entry in truth.dataset["annotations"] if entry["iscrowd"]}
    chosen = [entry for entry in truth.dataset["images"] if entry["id"] in crowds or entry["id"] % 5 == 0]
    names = {entry["id"]: entry["name"] for entry in truth.dataset["categories"]}
    rng = np.random.default_rng(0)
    rows, results = [], []
    for entry in chosen:
        instances = []
        for annotation in truth.imgToAnns[entry["id"]]:
            x, y, w, h = annotation["bbox"]
            moved = (x + w * rng.normal(0, 0.08), y + h * rng.normal(0, 0.08), w, h)
            pixels = np.roll(truth.annToMask(annotation), tuple(rng.integers(-3, 4, 2)), (0, 1))
            mask = coco_mask.encode(np.asfortranarray(pixels))
            class_ = annotation["category_id"] if rng.random() < 0.9 else int(rng.choice(list(names)))
            instances.append(
                {
                    "label_id": class_,
                    "label": names[class_],
                    "score": float(np.float32(rng.random())),
                    "area": int(pixels.sum()),
                    **{side: float(np.float32(value)) for side, value in zip("xywh", moved, strict=True)},
                    "mask": {"size": mask["size"], "counts": mask["counts"].decode("ascii")},
                    "keypoints": None,
                }
            )
        instances.sort(key=lambda row: -row["score"])
        rows.append(
            (image(f"s3://p/{entry['file_name']}", width=entry["width"], height=entry["height"]), instances)
        )
        results += [
            {
                "image_id": entry["id"],
                "category_id": row["label_id"],
                "score": row["score"],
                "bbox": [row[side] for side in "xywh"],
                "segmentation": row["mask"],
            }
            for row in instances
        ]
    builder = LakeBuilder(str(tmp_path / "lake"))
    builder.record(RUN, model=DEMO | {"classes": list(names.values())})
    builder.part(RUN, rows)
    code, _, err = masklake(
        "labels", "import", photos / "instances.json", builder.uri, "--uri-prefix", "s3://p/"
    )
    assert (code, err) == (0, "")
    code, out, err = masklake("eval", builder.uri, "--split", "all", "--format", "json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert facts["images"]["evaluated"] == len(chosen)
    by_area = [i for i, name in enumerate(AREA_STATS) if name[-1] in "sml"]
    for kind in ("box", "mask"):
        name, field = KINDS[kind]
        fields = ("image_id", "category_id", "score", field)
        with contextlib.redirect_stdout(io.StringIO()):
            reference = COCOeval(
                truth, truth.loadRes([{k: entry[k] for k in fields} for entry in results]), name
            )
            reference.params.imgIds = sorted(entry["id"] for entry in chosen)
            reference.evaluate()
            reference.accumulate()
            reference.summarize()
        stats = np.array(list(facts["figures"][kind].values()))
        assert 0.2 < stats[0] < 0.9
        assert np.delete(stats, by_area) == pytest.approx(np.delete(reference.stats, by_area), abs=1e-6)
        assert stats == pytest.approx(reference.stats, abs=0.02)


def test_a_table_says_what_was_compared(lake: LakeBuilder, masklake: Masklake) -> None:
    lake.part(
        RUN,
        [
            (image("s3://p/broken.jpg", status="unreadable", width=None, height=None), []),
            (image("s3://p/turned.jpg", width=48, height=64), []),
        ],
    )
    lake.labels(
        labels(
            label_row("s3://p/a.jpg", "person"),
            label_row("s3://p/b.jpg", "dog"),
            label_row("s3://p/broken.jpg", "person"),
            label_row("s3://p/turned.jpg", "person"),
            empty_label_row("s3://p/c.jpg"),
        )
    )
    code, out, err = masklake("eval", lake.uri)
    assert (code, err) == (0, "")
    text = " ".join(out.split())
    assert "demo@0123456789ab on val: 3 images, 2 labelled instances, 1 detection" in text
    assert "1 image failed, counted as without detections" in text
    assert "1 labelled images have no row and were left out" in text
    assert "1 image had another size when they were labelled, the first s3://p/turned.jpg 64×48" in text
    assert "does not know, left out of the mean (--all-classes counts them): dog" in text
    # one of two people was found: precision 1 up to a recall of 0.5, 51 of 101 points
    assert "box 0.505 0.505 0.505 0.505 - - 0.500 0.500 0.500 -" in text
    assert "keypoints 0.505 0.505 0.505 - - - - - - 0.500" in text
    assert "person 2 0.505 0.505 0.500" in text
    code, out, _ = masklake("eval", lake.uri, "--all-classes", "--format", "json")
    facts = json.loads(out)
    assert facts["figures"]["box"]["AP"] == pytest.approx(51 / 101 / 2)
    assert facts["unknown_classes"] == ["dog"]
    assert facts["confusion"]["classes"] == ["person", "dog"]
    assert facts["confusion"]["counts"] == [[1, 0, 1], [0, 0, 1], [0, 0, 0]]


def test_one_class_only_and_boxes_only(lake: LakeBuilder, masklake: Masklake) -> None:
    lake.labels(labels(label_row("s3://p/a.jpg", "person", mask=None, keypoints=None)))
    code, out, _ = masklake("eval", lake.uri)
    assert code == 0
    assert "mask: nothing is labelled, so nothing is measured" in out
    assert "keypoints: nothing is labelled" in out
    assert " ".join(out.split()).count("1.000") >= 3


def test_the_newest_row_of_an_image_counts_for_a_model(tmp_path: Path, masklake: Masklake) -> None:
    builder = LakeBuilder(str(tmp_path / "lake"))
    good, bad = [instance("person", 0.9)], [instance("person", 0.9, (30, 20, 9, 9))]
    builder.record(OLDER, model=DEMO, options=RowOptions().record())
    builder.part(OLDER, {"s3://p/a.jpg": bad, "s3://p/b.jpg": good})
    builder.record(RUN, model=DEMO, options=RowOptions().record())
    builder.part(RUN, {"s3://p/a.jpg": good})
    newest = "20261102T000000-cccccc"
    builder.record(newest, model=DEMO, options=RowOptions(score=0.95, proposals=50).record())
    builder.part(newest, {"s3://p/a.jpg": [], "s3://p/b.jpg": []})
    builder.labels(labels(*(label_row(f"s3://p/{name}.jpg", "person") for name in "ab")))
    code, out, err = masklake("eval", builder.uri, "--model", "demo", "--format", "json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert facts["runs"] == [OLDER, RUN], "a run that left out more is not the model's"
    assert facts["figures"]["box"]["AP"] == pytest.approx(1)
    assert (tmp_path / "lake" / "runs" / RUN / "eval" / "val" / "confusion.png").is_file()
    code, out, _ = masklake("eval", builder.uri, "--run", newest)
    assert code == 0
    assert f"run {newest} left out instances below score 0.95" in out
    assert f"run {newest} classified at most 50 proposals" in out


@pytest.mark.parametrize("s3_bucket", ["moto"], indirect=True)
def test_results_are_written_to_object_storage(s3_bucket: Bucket, masklake: Masklake) -> None:
    builder = LakeBuilder(f"{s3_bucket.uri}/lake", Storage())
    builder.record(RUN)
    builder.part(RUN, {"s3://p/a.jpg": [instance("person", 0.9)]})
    builder.labels(labels(label_row("s3://p/a.jpg", "person")))
    code, _, err = masklake("eval", builder.uri)
    assert (code, err) == (0, "")
    keys = s3_bucket.all_keys(f"lake/runs/{RUN}/eval/val/")
    assert [key.rpartition("/")[2] for key in keys] == [
        "confusion.png",
        "metrics.json",
        "options.toml",
        "precision-recall.png",
    ]


@pytest.mark.parametrize(
    ("rows", "args", "wanted"),
    [
        ([], (), "has no labels to evaluate against; `masklake labels import FILE"),
        (
            [label_row("s3://p/a.jpg", "person")],
            (),
            "has no labels of split val, but 1 image in train; give --split train or all",
        ),
        (labels(label_row("s3://p/a.jpg", "person", iscrowd=True)), (), "have only crowds (1) in 1 image"),
        (labels(empty_label_row("s3://p/a.jpg")), (), "have no instance in 1 image"),
        (labels(label_row("s3://p/a.jpg", "person")), ("--run", "nope"), "has no run 'nope'"),
        (
            labels(label_row("s3://p/a.jpg", "person")),
            ("--run", "last", "--model", "coco"),
            "was made by demo@0123456789ab, not by coco@",
        ),
        (labels(label_row("s3://p/z.jpg", "person")), (), "has no row of the 1 labelled images (val)"),
        (
            labels(label_row("s3://p/a.jpg", "dog")),
            (),
            "knows none of the labelled classes (dog), it knows person",
        ),
        (
            labels(label_row("s3://p/a.jpg", "person", width=48, height=64)),
            (),
            "1 image had another size when they were labelled, the first s3://p/a.jpg 48×64 and not 64×48",
        ),
        (labels(label_row("s3://p/a.jpg", "person")), ("--model", "nothing"), "neither a preset"),
        (labels(label_row("s3://p/a.jpg", "person")), ("--coco", "/nowhere"), "instances_val2017.json"),
    ],
)
def test_mistakes_get_one_line(
    lake: LakeBuilder, masklake: Masklake, rows: list[dict[str, Any]], args: tuple[str, ...], wanted: str
) -> None:
    if rows:
        lake.labels(rows)
    code, out, err = masklake("eval", lake.uri, *args)
    assert (code, out) == (2, "")
    assert err.startswith("masklake: error: ")
    assert len(err.splitlines()) == 1
    assert wanted in err


def test_a_lake_without_runs_or_that_is_none(tmp_path: Path, masklake: Masklake) -> None:
    builder = LakeBuilder(str(tmp_path / "lake"))
    builder.labels(labels(label_row("s3://p/a.jpg", "person")))
    code, _, err = masklake("eval", builder.uri)
    assert code == 2
    assert "has labels, but no run that could be measured by them; give --model MODEL" in err
    code, _, err = masklake("eval", tmp_path / "absent")
    assert code == 2
    assert "there is no such directory" in err


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"images": [], "annotations": [{"id": 1}], "categories": []}']
)
def test_a_broken_coco_file_is_named(tmp_path: Path, masklake: Masklake, content: str) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").write_text(content)
    code, _, err = masklake("eval", tmp_path / "lake", "--coco", tmp_path, "--model", "demo")
    assert code == 2
    assert "instances_val2017.json: is not an annotation file of COCO" in err
    assert not (tmp_path / "lake").exists()


def test_the_published_figures_stand_beside(tmp_path: Path, masklake: Masklake) -> None:
    """A run of the published weights over COCO's directory, without the weights: the rows are written by hand."""
    coco = coco_directory(tmp_path / "coco", 2)
    builder = LakeBuilder(str(tmp_path / "lake"))
    model = {"name": "coco", "source": "coco", "fingerprint": "0123456789ab", "classes": ["person"]}
    builder.record(RUN, model=model)
    paths = sorted((coco / "val2017").iterdir())
    with Image.open(paths[0]) as first, Image.open(paths[1]) as second:
        sizes = first.size, second.size
    rows = [
        (image(str(path), width=size[0], height=size[1]), []) for path, size in zip(paths, sizes, strict=True)
    ]
    builder.part(RUN, rows)
    code, out, err = masklake("eval", builder.uri, "--coco", coco, "--run", RUN)
    assert (code, err) == (0, "")
    figures = {
        line.split()[0]: line.split()[-1] for line in out.splitlines() if line.startswith(tuple(KINDS))
    }
    assert figures == {"box": "0.474", "mask": "0.418", "keypoints": "0.650"}
    assert "on the keypoint network's own boxes" in " ".join(out.split())


def test_pictures_take_any_name_and_any_number_of_classes() -> None:
    hostile = ["a $x^{", "\u202e猫\x1b[0m", "x" * 300]
    for names in (hostile[:1], hostile, [f"class {i}" for i in range(150)]):
        n = len(names)
        counts = np.random.default_rng(0).poisson(1, (n + 1, n + 1))
        assert eval_pictures.confusion(counts, names, 0.5, "m$odel").startswith(b"\x89PNG")
    truth = scenes.coco([scenes.scene(3, 0)])
    assert eval_pictures.precision_recall(evaluate(truth, []), "m$odel").startswith(b"\x89PNG")


def test_what_labels_say_of_evaluation_is_heeded(tmp_path: Path, masklake: Masklake) -> None:
    """ignore, the file's areas, and the classes that an image was searched for (LVIS), from the lake to the figures."""
    builder = LakeBuilder(str(tmp_path / "lake"))
    builder.record(RUN, model=DEMO | {"classes": ["person", "dog", "cat"]})
    detections = [
        instance("dog", 0.95, (40, 20, 10, 10)),  # what is to be ignored
        instance("cat", 0.93, (30, 30, 10, 10)),  # nobody searched for cats here
        instance("dog", 0.9),
        instance("person", 0.99, (2, 30, 9, 9)),  # there is none, says the file
    ]
    builder.part(
        RUN, {"s3://p/a.jpg": detections, "s3://p/b.jpg": [instance("cat", 0.9), instance("person", 0.9)]}
    )
    searched = {"absent": ["person"], "not_exhaustive": None}
    builder.labels(
        labels(
            label_row("s3://p/a.jpg", "dog", given_area=2000.0, **searched),
            label_row(
                "s3://p/a.jpg",
                "dog",
                instance=1,
                x=40.0,
                y=20.0,
                w=10.0,
                h=10.0,
                ignore=True,
                mask=None,
                **searched,
            ),
            label_row("s3://p/b.jpg", "cat"),
            label_row("s3://p/b.jpg", "person", instance=1),
        )
    )
    code, out, err = masklake("eval", builder.uri, "--format", "json")
    assert (code, err) == (0, "")
    box = json.loads(out)["figures"]["box"]
    assert box["APm"] == pytest.approx(1.0)  # the dog, by the file's area; its mask has 192 pixels
    assert box["AP"] == pytest.approx(
        (1 + 1 + 0.5) / 3, abs=0.01
    )  # a dog, a cat, and a person beside one that is none
