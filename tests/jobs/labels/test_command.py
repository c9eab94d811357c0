"""`masklake labels`: the command itself, on small files and on real annotations."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from masklake.pipeline.labels import store as label_store
from masklake.pipeline.labels.sets import LabelSet
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.storage.store import Storage

from tests.conftest import Bucket, CliResult
from tests.helpers.contract import check_lake
from tests.helpers.lakes import LakeBuilder, label_row
from tests.pipeline.labels.formats.test_coco_reader import SIZE, annotation, coco
from tests.pipeline.labels.formats.test_studio_reader import BOX, result, task

RUN = "20261101T000000-aaaaaa"
Masklake = Callable[..., tuple[int, str, str]]


@pytest.fixture
def lake(tmp_path: Path) -> str:
    """A lake with images a.jpg, x/b.jpg and y/b.jpg, all 64×48."""
    builder = LakeBuilder(str(tmp_path / "lake"))
    builder.part(RUN, {f"s3://p/{name}": [] for name in ("a.jpg", "x/b.jpg", "y/b.jpg")})
    return builder.uri


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(content: Any, name: str = "labels.json") -> Path:
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return file

    return write


def newest(lake: str | Path) -> list[LabelSet]:
    return label_store.newest(Lake(str(lake), Storage()))


def images(*names: str) -> list[dict[str, Any]]:
    return [SIZE | {"id": 7 + i, "file_name": name} for i, name in enumerate(names)]


def test_labels_go_in_are_counted_checked_and_come_out(
    lake: str,
    write: Callable[..., Path],
    run_cli: Callable[..., CliResult],
    masklake: Masklake,
    tmp_path: Path,
) -> None:
    file = write(
        coco(
            annotation(1),
            annotation(2, category_id=1, keypoints=[1, 1, 2] * 3),
            images=images("a.jpg", "x/b.jpg"),
        )
    )
    done = run_cli("labels", "import", file, lake, "--split", "val")
    assert (done.code, done.stderr) == (0, "")
    first, second, last = done.stdout.splitlines()
    assert first == "2 images (coco): 2 new, 0 replaced, 0 unchanged; 1 without instances; train 0, val 2"
    assert second == "2 instances: 2 with masks, 1 with keypoints, 0 crowds"
    assert last.startswith(f"written: {lake}/labels/part-")
    query = "select uri, n_instances, split from labelled order by 1"
    queried = run_cli("query", query, "--lake", lake, "--format", "json")
    assert [list(row.values()) for row in json.loads(queried.stdout)] == [
        ["s3://p/a.jpg", 2, "val"],
        ["s3://p/x/b.jpg", 0, "val"],
    ]
    stats = json.loads(masklake("labels", "stats", lake, "--json")[1])
    assert stats["images"] == [{"split": "val", "source": "import", "images": 2, "empty": 1, "instances": 2}]
    assert stats["classes"][1] == {
        "label": "person", "images": 1, "instances": 1, "train": 0, "val": 1, "masks": 1, "with_joints": 1, "crowds": 0,
    }  # fmt: skip
    assert (stats["history"]["parts"], stats["history"]["label_sets"], stats["history"]["rows"]) == (1, 2, 3)
    assert "2 label sets, 0 of them replaced; 3 rows in 1 part" in masklake("labels", "stats", lake)[1]
    checked = run_cli("labels", "check", lake, "--model", "demo")
    assert checked.code == 1
    assert checked.stdout.splitlines() == [
        "s3://p/a.jpg: instance 0 (dog): the model has no such class", "1 problem in 2 instances of 2 images",
    ]  # fmt: skip
    assert masklake("labels", "check", lake)[0] == 0
    for format_ in ("coco", "label-studio"):
        out = tmp_path / f"{format_}.json"
        exported = masklake(
            "labels", "export", lake, out, "--format", format_, "--interface", tmp_path / "i.xml"
        )[1]
        assert exported == f"2 images and 2 instances written to {out}, {tmp_path / 'i.xml'}\n"
        assert "0 new, 0 replaced, 2 unchanged" in masklake("labels", "import", out, lake)[1]
        masklake("labels", "import", out, tmp_path / format_)
        assert newest(tmp_path / format_) == newest(lake)
    check_lake(Path(lake))


def test_names_that_are_not_found_stop_the_import(
    lake: str, write: Callable[..., Path], masklake: Masklake, tmp_path: Path
) -> None:
    file = write(coco(annotation(1), images=images("a.jpg", "b.jpg", "c\n'\x1b[31m.jpg")))
    todo = tmp_path / "todo.csv"
    code, out, err = masklake("labels", "import", file, lake, "--unresolved", todo)
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "'b.jpg' could be 2 images: s3://p/x/b.jpg, s3://p/y/b.jpg",
        "\"c\\n'\\x1b[31m.jpg\" is not in the lake's images",
        "masklake: error: 2 of 3 images cannot be resolved, so nothing was imported; give --uri-prefix or --mapping, or leave them out with --skip-unresolved",
    ]
    assert newest(lake) == []
    code, out, _ = masklake("labels", "import", file, lake, "--skip-unresolved")
    assert (code, "left out: 2 images that could not be resolved" in out) == (0, True)
    assert [labels.uri for labels in newest(lake)] == ["s3://p/a.jpg"]
    todo.write_text(
        todo.read_text().replace("b.jpg,,", "b.jpg,s3://p/y/b.jpg,").replace('.jpg",,', '.jpg",s3://q/%41 c,')
    )
    code, out, _ = masklake("labels", "import", file, lake, "--mapping", todo)
    assert (code, "3 images (coco): 2 new, 0 replaced, 1 unchanged" in out) == (0, True)
    assert [labels.uri for labels in newest(lake)] == ["s3://p/a.jpg", "s3://p/y/b.jpg", "s3://q/%41 c"]


def test_signed_urls_are_matched_and_not_shown(
    lake: str, write: Callable[..., Path], masklake: Masklake
) -> None:
    signed = "https://s3.example/p/{}?X-Amz-Signature=secret"
    tasks = [
        task(result("a", "rectanglelabels", BOX), image=signed.format(name)) for name in ("a.jpg", "none.jpg")
    ]
    code, _, err = masklake("labels", "import", write(tasks), lake, "--skip-unresolved")
    assert (code, "secret" in err) == (0, False)
    assert "none.jpg?X-Amz-Signature=…" in err
    assert [labels.uri for labels in newest(lake)] == ["s3://p/a.jpg"]


def test_a_dry_run_and_json(lake: str, write: Callable[..., Path], masklake: Masklake) -> None:
    file = write(coco(annotation(1)))
    code, out, _ = masklake("labels", "import", file, lake, "--dry-run")
    assert (code, out.splitlines()[-1]) == (0, "dry run: nothing was written")
    code, out, _ = masklake("labels", "import", file, lake, "--dry-run", "--json")
    facts = json.loads(out)
    assert (facts["new"], facts["part"], facts["instances"]) == (1, None, 1)
    assert newest(lake) == []


def test_the_split_stays_when_labels_change(
    lake: str, write: Callable[..., Path], masklake: Masklake
) -> None:
    masklake("labels", "import", write(coco(annotation(1))), lake, "--split", "val")
    masklake("labels", "import", write(coco(annotation(1), annotation(2))), lake)
    [labels] = newest(lake)
    assert (labels.split, len(labels.instances)) == ("val", 2)


def test_who_labelled_is_told(
    lake: str, write: Callable[..., Path], masklake: Masklake, tmp_path: Path
) -> None:
    """Label Studio's are human; what comes back unchanged keeps its source, and what a person changed does not."""
    studio = write([task(result("a", "rectanglelabels", BOX), image="s3://p/a.jpg")])
    masklake("labels", "import", studio, lake)
    assert [labels.source for labels in newest(lake)] == ["human"]
    masklake("labels", "import", write(coco(annotation(1))), lake, "--source", "agency")
    assert [labels.source for labels in newest(lake)] == ["agency"]
    out = tmp_path / "out.json"
    masklake("labels", "export", lake, out, "--format", "label-studio")
    assert "1 unchanged" in masklake("labels", "import", out, lake)[1]
    tasks = json.loads(out.read_text())
    tasks[0]["annotations"][0]["result"] = []
    masklake("labels", "import", write(tasks), lake)
    assert [(labels.source, labels.instances) for labels in newest(lake)] == [("human", ())]


def test_classes_are_numbered_as_in_the_lake_and_as_in_coco(
    lake: str, write: Callable[..., Path], masklake: Masklake
) -> None:
    masklake(
        "labels",
        "import",
        write(
            [
                task(
                    result("a", "rectanglelabels", BOX),
                    result("b", "rectanglelabels", BOX, "ufo"),
                    image="s3://p/a.jpg",
                )
            ]
        ),
        lake,
    )
    assert label_store.classes(Lake(lake, Storage())) == {"dog": 18, "ufo": 19}
    zero = coco(annotation(1, category_id=0), categories=[{"id": 0, "name": "ufo"}], images=images("x/b.jpg"))
    _, out, _ = masklake("labels", "import", write(zero), lake)
    assert "note: class 'ufo' has id 19 in the lake, not 0 as in the file: instances: 1" in out


def test_images_without_annotations_may_be_left_out(
    lake: str, write: Callable[..., Path], masklake: Masklake
) -> None:
    file = write(coco(annotation(1), images=images("a.jpg", "x/b.jpg")))
    _, out, _ = masklake("labels", "import", file, lake, "--skip-empty")
    assert "note: images without annotations left out (--skip-empty): 1" in out
    assert [labels.uri for labels in newest(lake)] == ["s3://p/a.jpg"]


@pytest.mark.parametrize(("content", "problem"), [
    (b"", "is empty"),
    (b"{", "is not JSON"),
    ({"a": 1}, "is neither COCO"),
    (coco(), "has images and no annotation at all"),
    (coco(annotation(1, category_id=9)), "category_id 9 is not among the categories; nothing is left to import"),
    (coco(annotation(1), images=[SIZE | {"width": 640}]), "cannot be resolved"),
    ([task("x")], "result 1: is a text, not an object"),
])  # fmt: skip
def test_a_file_that_cannot_be_understood_writes_nothing(
    lake: str, write: Callable[..., Path], masklake: Masklake, content: Any, problem: str
) -> None:
    code, out, err = masklake("labels", "import", write(content), lake)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("masklake: error: ")
    assert problem in err.splitlines()[-1]
    assert not list(Path(lake).glob("labels/*"))


BROKEN = coco(
    annotation(1), annotation(2, image_id=9), annotation(3, image_id=10), annotation(4, segmentation=[[1, 1, 2, 2]]),
)  # fmt: skip


def test_what_cannot_be_read_is_left_out_counted_and_listed(
    lake: str, write: Callable[..., Path], masklake: Masklake
) -> None:
    file = write(BROKEN)
    code, _, err = masklake("labels", "import", file, lake, "--strict")
    assert (code, newest(lake)) == (2, [])
    assert f"{file}: annotation 2: its image_id 9 is not among the images (and 2 more" in err
    code, out, _ = masklake("labels", "import", file, lake)
    assert code == 0
    assert out.splitlines()[2:7] == [
        "left out: its image_id 9 is not among the images: 2",
        f"- {file}: annotation 2",
        f"- {file}: annotation 3: its image_id 10 is not among the images",
        "mask left out: a polygon has 2 points; it needs at least 3 (image 'a.jpg'): 1",
        f"- {file}: annotation 4",
    ]
    assert [(i.mask is None) for i in newest(lake)[0].instances] == [False, True]
    facts = json.loads(masklake("labels", "import", file, lake, "--json")[1])
    assert facts["skipped"][0] == {
        "where": f"{file}: annotation 2", "problem": "its image_id 9 is not among the images",
    }  # fmt: skip


def test_a_file_without_annotations_replaces_no_labels_unless_it_means_it(
    lake: str, write: Callable[..., Path], masklake: Masklake
) -> None:
    masklake("labels", "import", write(coco(annotation(1))), lake)
    code, _, err = masklake("labels", "import", write(coco()), lake)
    assert (code, "--allow-empty says that these images hold nothing" in err) == (2, True)
    assert len(newest(lake)[0].instances) == 1
    assert masklake("labels", "import", write(coco()), lake, "--allow-empty")[0] == 0
    assert newest(lake)[0].instances == ()


def test_images_below_a_prefix_must_be_there(
    write: Callable[..., Path], masklake: Masklake, tmp_path: Path
) -> None:
    (tmp_path / "a.jpg").touch()
    file, lake = write(coco(annotation(1), images=images("./a.jpg", "b.jpg"))), tmp_path / "new"
    code, _, err = masklake("labels", "import", file, lake, "--uri-prefix", tmp_path)
    assert (code, f"'b.jpg' is not there: {tmp_path}/b.jpg does not exist" in err) == (2, True)
    assert masklake("labels", "import", file, lake, "--uri-prefix", tmp_path, "--unchecked")[0] == 0
    assert [labels.uri for labels in newest(lake)] == [f"{tmp_path}/a.jpg", f"{tmp_path}/b.jpg"]


def test_what_evaluation_and_training_heed_goes_in_and_comes_out(
    lake: str, write: Callable[..., Path], masklake: Masklake, tmp_path: Path
) -> None:
    lvis = [SIZE | {"neg_category_ids": [1], "not_exhaustive_category_ids": [18]}]
    content = coco(annotation(1, area=123.5, ignore=1), annotation(2, area=7), images=lvis)
    assert masklake("labels", "import", write(content), lake)[0] == 0
    [before] = newest(lake)
    assert (before.absent, before.not_exhaustive) == (("person",), ("dog",))
    assert [(i.given_area, i.ignore) for i in before.instances] == [(123.5, True), (7, False)]
    queried = masklake(
        "query",
        "select given_area, ignore, absent, not_exhaustive, area from labels",
        "--lake",
        lake,
        "--format",
        "json",
    )
    assert json.loads(queried[1])[0] == {
        "given_area": 123.5, "ignore": True, "absent": ["person"], "not_exhaustive": ["dog"], "area": 400,
    }  # fmt: skip
    for format_ in ("coco", "label-studio"):
        out = tmp_path / f"{format_}.json"
        masklake("labels", "export", lake, out, "--format", format_)
        assert "1 unchanged" in masklake("labels", "import", out, lake)[1]
    check_lake(Path(lake))


def test_parts_of_older_versions_lack_the_newest_columns(
    lake: str, write: Callable[..., Path], masklake: Masklake
) -> None:
    import pyarrow.parquet as pq

    masklake("labels", "import", write(coco(annotation(1))), lake)
    [part] = Path(lake).glob("labels/*.parquet")
    old = pq.read_table(part).drop_columns(
        ["ignore", "given_area", "num_keypoints", "absent", "not_exhaustive"]
    )
    pq.write_table(old, part)
    [labels] = newest(lake)
    assert [(i.ignore, i.given_area) for i in labels.instances] == [(False, None)]
    query = "select count(*) as n from labels where ignore is null and absent is null"
    assert json.loads(masklake("query", query, "--lake", lake, "--format", "json")[1]) == [{"n": 1}]
    masklake("labels", "import", write(coco(annotation(1, ignore=1), images=images("x/b.jpg"))), lake)
    query = "select uri, ignore from labels order by uri"
    assert json.loads(masklake("query", query, "--lake", lake, "--format", "json")[1]) == [
        {"uri": "s3://p/a.jpg", "ignore": None}, {"uri": "s3://p/x/b.jpg", "ignore": True},
    ]  # fmt: skip


def test_which_keypoints_change_places_in_a_mirror_is_shown(
    lake: str, write: Callable[..., Path], masklake: Masklake
) -> None:
    def stats(*names: str) -> tuple[dict[str, Any], str]:
        named = [{"id": 1, "name": "person", "keypoints": list(names)}]
        person = annotation(1, category_id=1, keypoints=[12, 12, 2] * len(names))
        assert masklake("labels", "import", write(coco(person, categories=named)), lake)[0] == 0
        [row] = json.loads(masklake("labels", "stats", lake, "--json")[1])["keypoints"]
        return row, masklake("labels", "stats", lake)[1]

    row, text = stats("Nose", "R_Eye", "L_Eye")
    assert row == {
        "label": "person", "keypoints": ["Nose", "R_Eye", "L_Eye"], "flip_pairs": [["R_Eye", "L_Eye"]], "unpaired": [], "mirrored": True,
    }  # fmt: skip
    assert "person: 3 keypoints, in a mirror these change places: R_Eye:L_Eye" in text
    row, text = stats("0", "1")
    assert (row["mirrored"], row["unpaired"]) == (False, ["0", "1"])
    assert "images are not mirrored in training: the names do not tell what changes places with 0, 1" in text


def test_mistakes_get_one_line(
    lake: str, write: Callable[..., Path], masklake: Masklake, tmp_path: Path
) -> None:
    file = write(coco(annotation(1)))
    for args, answer in {
        ("import", tmp_path / "no.json", lake): "no.json: cannot read the labels: it does not exist",
        ("import", tmp_path, lake): "is a directory",
        ("import", file, lake, "--mapping", tmp_path / "no.csv"): "no.csv: cannot read the mapping",
        ("import", file, lake, "--mapping", file): "images is a list, not a text",
        ("export", lake, tmp_path / "out.json"): "has no labels; `masklake labels import FILE",
        ("export", tmp_path / "no", tmp_path / "out.json"): "there is no such directory",
        ("stats", tmp_path / "no"): "there is no such directory",
        ("check", tmp_path / "no"): "there is no such directory",
        ("check", lake, "--model", "nothing"): "neither a preset",
    }.items():
        code, out, err = masklake("labels", *args)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert answer in err
    masklake("labels", "import", file, lake, "--split", "train")
    code, _, err = masklake("labels", "export", lake, tmp_path / "out.json", "--split", "val")
    assert (code, "has no labels of split val" in err) == (2, True)
    assert masklake("labels", "stats", lake)[0] == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_told(
    lake: str, write: Callable[..., Path], masklake: Masklake
) -> None:
    file = write(coco())
    file.chmod(0)
    code, _, err = masklake("labels", "import", file, lake)
    assert (code, "permission denied" in err) == (2, True)


def test_a_lake_without_labels_has_none_to_count(lake: str, masklake: Masklake) -> None:
    assert masklake("labels", "stats", lake)[:2] == (0, "no labels yet\n")
    assert masklake("labels", "check", lake)[:2] == (0, "0 problems in 0 instances of 0 images\n")


@pytest.mark.parametrize("s3_bucket", ["moto"], indirect=True)
def test_labels_in_s3(s3_bucket: Bucket, run_cli: Callable[..., CliResult], masklake: Masklake) -> None:
    s3_bucket.put("photos/a b.jpg", b"")
    s3_bucket.put("labels.json", json.dumps(coco(annotation(1), images=images("a b.jpg"))).encode())
    lake, prefix = f"{s3_bucket.uri}/lake", f"{s3_bucket.uri}/photos"
    done = run_cli("labels", "import", f"{s3_bucket.uri}/labels.json", lake, "--uri-prefix", prefix)
    assert (done.code, done.stderr) == (0, "")
    assert [labels.uri for labels in newest(lake)] == [f"{prefix}/a b.jpg"]
    assert masklake("labels", "export", lake, f"{lake}/out.json")[0] == 0
    written = b"".join(s3_bucket.get(key) for key in s3_bucket.all_keys("lake/"))
    assert s3_bucket.server.env["AWS_SECRET_ACCESS_KEY"].encode() not in written
    # Who may only read is told so, and nothing is written.
    s3_bucket.allow_guest("s3:ListBucket", "s3:GetObject")
    before = s3_bucket.all_keys()
    refused = run_cli(
        "labels",
        "import",
        f"{s3_bucket.uri}/labels.json",
        lake,
        "--uri-prefix",
        f"{prefix}2",
        "--unchecked",
        env=s3_bucket.guest.env,
    )
    assert (refused.code, len(refused.stderr.splitlines())) == (2, 1)
    assert "cannot write the labels: permission denied" in refused.stderr
    assert s3_bucket.all_keys() == before


def test_real_annotations_survive_both_formats(photos: Path, masklake: Masklake, tmp_path: Path) -> None:
    files = [photos / "instances.json", photos / "person_keypoints.json"]
    code, out, _ = masklake("labels", "import", *files, tmp_path / "lake", "--uri-prefix", "s3://coco/")
    assert code == 0
    assert out.splitlines()[1] == "3,328 instances: 3,328 with masks, 179 with keypoints, 32 crowds"
    assert masklake("labels", "check", tmp_path / "lake")[0] == 0
    before = newest(tmp_path / "lake")
    # Label Studio's brush format takes its time, so only the val split goes that way.
    for format_, chosen in (("coco", []), ("label-studio", ["--split", "val"])):
        file = tmp_path / f"{format_}.json"
        masklake("labels", "export", tmp_path / "lake", file, "--format", format_, *chosen)
        masklake("labels", "import", file, tmp_path / format_)
        assert newest(tmp_path / format_) == [
            labels for labels in before if not chosen or labels.split == "val"
        ]
    assert check_lake(tmp_path / "lake") == {"labels": 3330}


def test_real_masks_are_those_of_pycocotools(photos: Path, masklake: Masklake, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    masklake("labels", "import", photos / "instances.json", tmp_path / "lake", "--uri-prefix", "s3://coco/")
    reference = COCO(str(photos / "instances.json"))
    for labels in newest(tmp_path / "lake")[::20]:
        [image] = [
            image for image in reference.imgs.values() if labels.uri.endswith(f"/{image['file_name']}")
        ]
        masks = [
            _text(reference.annToRLE(annotation)["counts"]) for annotation in reference.imgToAnns[image["id"]]
        ]
        assert [instance.mask and instance.mask.counts for instance in labels.instances] == masks


def _text(counts: str | bytes) -> str:
    return counts if isinstance(counts, str) else counts.decode()


def test_names_that_xml_cannot_hold_are_told(tmp_path: Path, masklake: Masklake) -> None:
    lake = LakeBuilder(str(tmp_path / "lake"))
    lake.labels(
        [label_row("/p/a.jpg", "dog"), label_row("/p/b.jpg", "dog") | {"label": "a\x1b[31m", "label_id": 900}]
    )
    interface = tmp_path / "i.xml"
    code, _, err = masklake(
        "labels",
        "export",
        lake.uri,
        tmp_path / "t.json",
        "--format",
        "label-studio",
        "--interface",
        interface,
    )
    assert code == 0 and "not in the interface: 1 name with characters" in err and "\x1b" not in err
    code, _, err = masklake("labels", "export", lake.uri, interface, "--interface", interface)
    assert code == 2 and "the interface would replace the labels" in err
    view = ElementTree.fromstring(interface.read_text())  # noqa: S314  # our own text
    assert {label.get("value") for label in view.iter("Label")} == {"dog"}
    code, out, _ = masklake(
        "export", lake.uri, "--labels", "--format", "label-studio", "--out", tmp_path / "out"
    )
    assert (
        code == 0
        and "changed: 1 name of classes and keypoints, with characters that XML has no place for, not in"
        in out
    )
    assert "\x1b" not in (tmp_path / "out" / "interface.xml").read_text()
