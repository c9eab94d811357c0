"""`masklake export`: which rows count, what is left out and told, and what cannot be."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from masklake.jobs.export.options import FORMATS
from masklake.jobs.export.source import parts
from masklake.model import scenes
from masklake.pipeline.export import formats
from masklake.pipeline.labels.sets import split_of
from PIL import Image

from tests.helpers.exports import all_files
from tests.helpers.lakes import LakeBuilder, empty_label_row, image, instance, label_row

Run = Callable[..., tuple[int, str, str]]
R1, R2 = "20261101T000000-aaaaaa", "20261102T000000-bbbbbb"


@pytest.fixture
def lake(tmp_path: Path) -> LakeBuilder:
    builder = LakeBuilder(str(tmp_path / "lake"))
    broken = image("s3://p/broken.jpg", status="unreadable", error="truncated", width=None, height=None)
    builder.part(R1, {"s3://p/a.jpg": [instance("dog", 0.9)], "s3://p/b.jpg": [instance("cat", 0.4)]})
    builder.part(R1, [(broken, [])])
    builder.part(R2, {"s3://p/a.jpg": [instance("person", 0.8), instance("dog", 0.3)], "s3://p/c.jpg": []})
    builder.part(R2, {"s3://p/d.jpg": [instance("cat", 0.8)]}, commit=False)
    builder.record(R1)
    builder.record(R2)
    return builder


def exported(masklake: Run, lake: LakeBuilder, *args: str | Path) -> dict[str, list[tuple[str, float]]]:
    """Of each image that is exported the classes and scores."""
    out = Path(lake.uri).parent / "out"
    code, _, err = masklake("export", lake.uri, "--format", "coco", "--out", out, "--overwrite", *args)
    assert code == 0, err
    content = json.loads((out / "annotations.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    images = {entry["id"]: entry["masklake"]["uri"] for entry in content["images"]}
    rows: dict[str, list[tuple[str, float]]] = {uri: [] for uri in images.values()}
    for entry in content["annotations"]:
        rows[images[entry["image_id"]]].append((names[entry["category_id"]], entry.get("score", 1.0)))
    return rows


def test_the_options_name_every_format() -> None:
    assert tuple(formats.FORMATS) == FORMATS


def test_the_newest_run_of_each_image(masklake: Run, lake: LakeBuilder) -> None:
    assert exported(masklake, lake) == {
        "s3://p/b.jpg": [("cat", 0.4)],
        "s3://p/a.jpg": [("person", 0.8), ("dog", 0.3)],
        "s3://p/c.jpg": [],
    }
    assert exported(masklake, lake, "--run", R1) == {
        "s3://p/a.jpg": [("dog", 0.9)],
        "s3://p/b.jpg": [("cat", 0.4)],
    }


def test_score_keeps_images_and_where_does_not(masklake: Run, lake: LakeBuilder) -> None:
    assert exported(masklake, lake, "--score", "0.5") == {
        "s3://p/b.jpg": [], "s3://p/a.jpg": [("person", 0.8)], "s3://p/c.jpg": [],
    }  # fmt: skip
    assert exported(masklake, lake, "--where", "score > 0.5") == {"s3://p/a.jpg": [("person", 0.8)]}
    assert exported(masklake, lake, "--where", "uri like '%c.jpg' -- and more") == {"s3://p/c.jpg": []}
    assert exported(masklake, lake, "--where", "uri in (select uri from all_images where run like '20261101%') and width = 64") == {
        "s3://p/b.jpg": [("cat", 0.4)], "s3://p/a.jpg": [("person", 0.8), ("dog", 0.3)],
    }  # fmt: skip


def test_split(masklake: Run, tmp_path: Path) -> None:
    """Of results, the one that labels of the image would have."""
    builder = LakeBuilder(str(tmp_path / "lake"))
    uris = [f"s3://p/{i}.jpg" for i in range(40)]
    builder.part(R1, {uri: [] for uri in uris})
    for split in ("train", "val"):
        expected = {uri for uri in uris if split_of(uri) == split}
        assert expected
        assert exported(masklake, builder, "--split", split).keys() == expected


def test_rows_that_a_killed_attempt_left_twice(masklake: Run, tmp_path: Path) -> None:
    builder = LakeBuilder(str(tmp_path / "lake"))
    for _ in range(2):
        builder._ids[R1] = -1  # the same image_id again, in another part
        builder.part(R1, {"s3://p/a.jpg": [instance("dog", 0.9), instance("cat", 0.8)]})
    assert exported(masklake, builder) == {"s3://p/a.jpg": [("dog", 0.9), ("cat", 0.8)]}


def test_labels(masklake: Run, lake: LakeBuilder) -> None:
    older = label_row("s3://p/a.jpg", "cat")
    newer = older["labelled_at"].replace(year=2027)
    lake.labels([older, empty_label_row("s3://p/b.jpg", split="val")])
    lake.labels(
        [
            label_row("s3://p/a.jpg", label, instance=i, labelled_at=newer)
            for i, label in enumerate(["person", "dog"])
        ]
    )
    assert exported(masklake, lake, "--labels") == {
        "s3://p/a.jpg": [("person", 1.0), ("dog", 1.0)],
        "s3://p/b.jpg": [],
    }
    assert exported(masklake, lake, "--labels", "--split", "val") == {"s3://p/b.jpg": []}
    assert exported(masklake, lake, "--labels", "--where", "label = 'dog'") == {
        "s3://p/a.jpg": [("dog", 1.0)]
    }


def test_what_is_not_in_it_is_told(masklake: Run, lake: LakeBuilder, tmp_path: Path) -> None:
    code, out, _ = masklake("export", lake.uri, "--format", "yolo-pose", "--out", tmp_path / "o")
    assert code == 0
    assert "3 images and 1 instance written" in out
    assert "not in it: 1 image unreadable in the lake" in out
    assert "left out: 1 instance of 'cat', which has no keypoints" in out
    facts = json.loads(
        masklake("export", lake.uri, "--format", "yolo-pose", "--out", tmp_path / "p", "--json")[1]
    )
    assert (facts["images"], facts["instances"], facts["failed_images"]) == (3, 1, {"unreadable": 1})
    manifest = json.loads((tmp_path / "p" / "masklake-export.json").read_text())
    assert manifest == facts


def test_copies_of_images(masklake: Run, tmp_path: Path) -> None:
    scenes.write(tmp_path / "scenes", 3, 1)
    uris = [f"{tmp_path}/scenes/scene-{i:06}.jpg" for i in range(3)]
    builder = LakeBuilder(str(tmp_path / "lake"))
    stat = Path(uris[0]).stat()
    etag = f"{stat.st_mtime_ns:x}-{stat.st_size:x}"
    rows = [
        image(uris[0], etag=etag),
        image(uris[1], etag="older"),
        image(uris[2], etag=None),
        image(f"{tmp_path}/gone.jpg"),
    ]
    builder.part(R1, [(row, [instance("dog", 0.5)]) for row in rows])
    code, out, err = masklake("export", builder.uri, "--format", "coco", "--images", "--out", tmp_path / "o")
    assert code == 0, err
    content = json.loads((tmp_path / "o" / "annotations.json").read_text())
    assert [entry["masklake"]["uri"] for entry in content["images"]] == [uris[0], uris[2]]
    for entry in content["images"]:
        with Image.open(tmp_path / "o" / "images" / entry["file_name"]) as copy:
            copy.load()
    with (tmp_path / "o" / "left-out.csv").open() as table:
        left = {row["uri"]: row["reason"] for row in csv.DictReader(table)}
    assert left.keys() == {uris[1], f"{tmp_path}/gone.jpg"}
    assert "another object than the model saw" in left[uris[1]]
    assert "left out: 1 image that could not be copied (missing)" in out
    assert "left out: 1 image that changed since the run" in out


def test_results_with_the_ids_of_a_file(masklake: Run, lake: LakeBuilder, tmp_path: Path) -> None:
    truth = {
        "images": [{"id": 7, "file_name": "b.jpg"}, {"id": 5, "file_name": "a.jpg"}, {"id": 9, "file_name": "no.jpg"}],
        "annotations": [],
        "categories": [{"id": 3, "name": "cat"}, {"id": 4, "name": "person", "keypoints": ["nose", "left_eye"]}],
    }  # fmt: skip
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    command = ["export", lake.uri, "--format", "coco-results", "--like", tmp_path / "truth.json", "--out"]
    code, out, err = masklake(*command, tmp_path / "o")
    assert code == 0, err
    results = json.loads((tmp_path / "o" / "results.json").read_text())
    assert [(r["image_id"], r["category_id"], r["score"]) for r in results] == [(7, 3, 0.4), (5, 4, 0.8)]
    assert len(results[1]["keypoints"]) == 6
    assert "not in the lake: 1 image of the file of --like" in out
    assert "left out: 1 image not in the file of --like" in out
    assert "left out: 1 instance of 'dog', which the file of --like does not have" in out
    (tmp_path / "truth.json").write_text(json.dumps(truth | {"images": []}))
    message = masklake(*command, tmp_path / "p")[2]
    assert "names no image that the lake has" in message
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--where", "label = 'wolf'"], "no image fits --where \"label = 'wolf'\" (classes: cat, dog, person)"),
        (["--where", "lable = 'dog'"], "--where \"lable = 'dog'\": "),
        (["--where", "true) union all (select 1"], "--where"),
        (["--where", "uri in (select content from read_text('/etc/passwd'))"], "read_text may not be used here"),
        (["--where", "getenv('HOME') is not null"], "the function getenv may not be used here"),
        (["--where", ""], "--where ''"),
        (["--labels"], "has no labels; `masklake labels import"),
        (["--labels", "--run", R1], "--run and --score choose results"),
        (["--like", "x.json"], "--like is for --format coco-results"),
        (["--run", "20250101T000000-aaaaaa"], "has no run"),
        (["--format", "yolo"], "did you mean 'yolo-pose'"),
        (["--out", "gopher://b/x"], "cannot open gopher://"),
    ],
)  # fmt: skip
def test_mistakes_leave_nothing(
    masklake: Run,
    lake: LakeBuilder,
    tmp_path: Path,
    args: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = all_files(tmp_path)
    try:
        code, _, err = masklake("export", lake.uri, "--format", "coco", "--out", tmp_path / "o", *args)
    except SystemExit as ended:  # argparse
        code, err = ended.code, capsys.readouterr().err  # type: ignore[assignment]
    assert code == 2
    assert message in err
    assert all_files(tmp_path) == before


def test_lakes_with_nothing_to_export(masklake: Run, tmp_path: Path) -> None:
    builder = LakeBuilder(str(tmp_path / "failures"))
    builder.part(R1, [(image("s3://p/a", status="missing", error="gone"), [])])
    message = masklake("export", builder.uri, "--format", "coco", "--out", tmp_path / "o")[2]
    assert "none of its images ended ok (1 missing)" in message
    only_labels = LakeBuilder(str(tmp_path / "labels"))
    only_labels.labels([label_row("s3://p/a", "dog")])
    message = masklake("export", only_labels.uri, "--format", "coco", "--out", tmp_path / "o")[2]
    assert "has no results; `masklake segment SOURCE" in message
    assert "is not a lake" in masklake("export", tmp_path, "--format", "coco", "--out", tmp_path / "o")[2]
    assert not (tmp_path / "o").exists()


def test_runs_are_read_in_pieces() -> None:
    runs = [("a", 0, 3), ("b", 10, 14), ("c", 0, 25), ("d", 5, 5), ("e'", 0, 0)]
    assert list(parts(runs, most=10)) == [
        "run in ('a', 'b')",
        "run = 'c' and image_id between 0 and 9",
        "run = 'c' and image_id between 10 and 19",
        "run = 'c' and image_id between 20 and 29",
        "run in ('d', 'e''')",
    ]
