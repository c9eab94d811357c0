"""`masklake review`: what is written, that it comes back as labels, and that signed URLs work and stay secret."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow.dataset as ds
import pytest
from masklake.jobs.demo.loopback_s3 import LoopbackS3, serve
from masklake.pipeline.labels import store as label_store
from masklake.pipeline.labels.sets import Instance
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.storage.store import Storage

from tests.conftest import Bucket, CliResult
from tests.helpers.contract import check_lake
from tests.helpers.lakes import LakeBuilder, empty_label_row, image, instance, label_row, rle
from tests.helpers.review_lakes import dogs, on_disk, picture, row_of

RUN = "20261101T000000-aaaaaa"
MODEL = "demo@0123456789ab"
Masklake = Callable[..., tuple[int, str, str]]
RunCli = Callable[..., CliResult]


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LakeBuilder:
    """A lake of four pictures: a dog in doubt, a person for sure, nothing, and one that failed."""
    monkeypatch.chdir(tmp_path)
    photos, builder = tmp_path / "p", LakeBuilder(str(tmp_path / "lake"))
    builder.record(RUN)
    failed = image(str(photos / "failed.png"), status="failed", error="no", width=None, height=None)
    builder.part(
        RUN,
        [
            (on_disk(photos, "dog.png", 1), dogs(0.6, 0.4)),
            (on_disk(photos, "person.png", 2), [instance("person", 0.98)]),
            (on_disk(photos, "nothing.png", 3), []),
            (failed, []),
        ],
    )
    return builder


def tasks(file: str | Path = "review.json") -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads(Path(file).read_text())
    return content


def accept(file: Path, out: Path) -> None:
    """What Label Studio exports when an annotator accepts every prediction: annotations with ids of its own."""
    content = tasks(file)
    for number, task in enumerate(content):
        results = [
            {**result, "id": f"LS{number}-{result['id']}", "origin": "prediction"}
            | ({"parentID": f"LS{number}-{result['parentID']}"} if "parentID" in result else {})
            for result in task["predictions"][0]["result"]
        ]
        task["annotations"] = [{"id": 7 + number, "was_cancelled": False, "result": results}]
    out.write_text(json.dumps(content))


def newest(lake: str | Path) -> dict[str, Any]:
    return {
        labels.uri.rpartition("/")[2]: labels for labels in label_store.newest(Lake(str(lake), Storage()))
    }


def test_tasks_say_what_was_found_and_why(builder: LakeBuilder, masklake: Masklake, tmp_path: Path) -> None:
    code, out, err = masklake("review", builder.uri, "--random", "0", "--interface", "i.xml")
    assert (code, err) == (0, "")
    first, picked, passed, larger, *_, last = out.splitlines()
    assert (
        first
        == "3 images to choose from, 0 of them seen by two models; left out: 0 labelled already, 1 failed"
    )
    assert picked == "picked 3 of a budget of 100: 1 doubt, 1 rarity, 1 rest"
    assert passed.startswith("passed over: 0 identical, 0 nearly alike")
    assert larger == "the budget is larger: that is every image that could be chosen"
    assert last == "3 tasks with 2 instances to correct written to review.json, i.xml"
    by_name = {task["data"]["image"].rpartition("/")[2]: task for task in tasks()}
    dog, person = by_name["dog.png"], by_name["person.png"]
    assert by_name.keys() == {"dog.png", "person.png", "nothing.png"}
    assert dog["data"]["kind"] == "doubt"
    assert dog["data"]["doubt"] == pytest.approx(1.6 / 4.6, abs=1e-3)
    assert dog["data"]["masklake"] == {"uri": str(tmp_path / "p/dog.png"), "width": 64, "height": 48}
    [prediction] = dog["predictions"]
    assert (prediction["model_version"], prediction["score"]) == (MODEL, pytest.approx(0.6))
    [region] = prediction["result"]  # the one of 0.4 is below --score
    assert (region["type"], region["value"]["brushlabels"], region["score"]) == ("brushlabels", ["dog"], 0.6)
    assert person["data"]["reason"] == "rare class: person"
    assert len(person["predictions"][0]["result"]) == 1 + 17
    assert by_name["nothing.png"]["predictions"][0]["result"] == []
    view = ElementTree.parse("i.xml").getroot()  # noqa: S314  # our own text
    named = {tag.tag: {label.get("value") for label in tag} for tag in view}
    assert named["BrushLabels"] == {"dog", "person"}
    assert "left_wrist" in named["KeyPointLabels"]


def test_accepted_predictions_become_labels(builder: LakeBuilder, masklake: Masklake, tmp_path: Path) -> None:
    assert masklake("review", builder.uri, "--score", "0")[0] == 0
    accept(tmp_path / "review.json", tmp_path / "done.json")
    code, out, _ = masklake("labels", "import", tmp_path / "done.json", builder.uri)
    assert (code, out.splitlines()[0][:26]) == (0, "3 images (label-studio): 3")
    labels = newest(builder.uri)
    assert {label_set.source for label_set in labels.values()} == {"human"}
    boxes = [instance.box for instance in labels["dog.png"].instances]
    assert boxes == [(0, 4, 8, 12), (8, 4, 8, 12)]
    assert {instance.mask.counts for instance in labels["dog.png"].instances} == {
        rle(48, 64, (8 * i, 4, 8, 12))["counts"] for i in range(2)
    }
    assert labels["nothing.png"].instances == ()
    assert (labels["nothing.png"].width, labels["nothing.png"].height) == (64, 48)
    [person] = labels["person.png"].instances
    assert [keypoint.visibility for keypoint in person.keypoints] == [2] * 17
    code, _, err = masklake("review", builder.uri)
    assert (
        code,
        "no image is left to review: 3 are labelled already (--again takes them), 1 failed" in err,
    ) == (
        2,
        True,
    )
    assert masklake("review", builder.uri, "--again", "--dry-run")[0] == 0


def test_a_real_run_comes_back_as_its_labels(run_cli: RunCli, tmp_path: Path) -> None:
    assert run_cli("scenes", "scenes", "--images", "12").code == 0
    assert run_cli("segment", "scenes", "lake", "--model", "demo").code == 0
    done = run_cli("review", "lake", "--budget", "6", "--score", "0")
    assert (done.code, done.stderr) == (0, "")
    accept(tmp_path / "review.json", tmp_path / "done.json")
    done = run_cli("labels", "import", "done.json", "lake")
    assert (done.code, done.stdout.startswith("6 images (label-studio): 6 new")) == (0, True)
    rows = ds.dataset(tmp_path / "lake" / "instances", format="parquet", partitioning=None).to_table()
    accepted = newest(tmp_path / "lake")
    assert len(accepted) == 6
    for name, labels in accepted.items():
        mine = sorted(
            (row for row in rows.to_pylist() if row["uri"].endswith(name)), key=lambda row: row["instance"]
        )
        assert [same(instance) for instance in labels.instances] == [
            (row["label"], row["label_id"], tuple(row[side] for side in "xywh"), row["mask"]["counts"], {
                point["name"]: (point["x"], point["y"])
                for point in row["keypoints"] or ()
                if point["score"] > 0
            })
            for row in mine
        ]  # fmt: skip
    assert run_cli("labels", "check", "lake", "--model", "demo").code == 0
    assert set(check_lake(tmp_path / "lake")) >= {"labels", "images"}
    again = run_cli("review", "lake", "--budget", "12", "--format", "json")
    assert json.loads(again.stdout)["left_out"]["labelled"] == 6


def same(instance: Instance) -> tuple[Any, ...]:
    """What a row of instances says too; keypoints to a thousandth of a pixel, as they went by percentages."""
    keypoints = {
        j.name: (pytest.approx(j.x, abs=1e-3), pytest.approx(j.y, abs=1e-3))
        for j in instance.keypoints
        if j.visibility
    }
    return (
        instance.label,
        instance.label_id,
        instance.box,
        instance.mask.counts if instance.mask else None,
        keypoints,
    )


def test_a_dry_run_and_json(builder: LakeBuilder, masklake: Masklake, tmp_path: Path) -> None:
    code, out, _ = masklake("review", builder.uri, "--dry-run", "--format", "json", "--budget", "2")
    facts = json.loads(out)
    assert (code, facts["written"], facts["candidates"], facts["left_out"]["failed"]) == (0, [], 3, 1)
    assert len(facts["images"]) == 2
    assert not (tmp_path / "review.json").exists()
    assert masklake("review", builder.uri, "--dry-run")[1].endswith("dry run: nothing was written\n")


def test_the_same_lake_gives_the_same_images(
    builder: LakeBuilder, masklake: Masklake, tmp_path: Path
) -> None:
    masklake("review", builder.uri, "--budget", "2", "--random", "0.5")
    first = tasks()
    masklake("review", builder.uri, "--budget", "2", "--random", "0.5", "--out", tmp_path / "b.json")
    assert tasks(tmp_path / "b.json") == first
    assert [task["data"]["kind"] for task in first].count("random") == 1


def test_runs_and_models_narrow(builder: LakeBuilder, masklake: Masklake) -> None:
    newer = "20261102T000000-bbbbbb"
    builder.record(newer)
    builder.part(newer, [(row_of(builder.uri.replace("lake", "p/person.png")), [])])

    def names(*options: str) -> list[str]:
        code, out, _ = masklake("review", builder.uri, "--dry-run", "--format", "json", *options)
        assert code == 0
        return sorted(image["uri"].rpartition("/")[2] for image in json.loads(out)["images"])

    assert names("--run", "last") == ["person.png"]
    assert len(names("--run", RUN)) == len(names("--model", MODEL)) == 3
    code, _, err = masklake("review", builder.uri, "--model", "demo")
    assert (code, "has no images of demo@" in err) == (2, True)


def test_hostile_names_are_shown_as_text(builder: LakeBuilder, masklake: Masklake, tmp_path: Path) -> None:
    name = "a\n[red]\x1b[31m\u202e'?.png"
    builder.part(RUN, [(on_disk(tmp_path / "p", name, 9), dogs(0.5)), (image("/gone/\x1b[31m"), dogs(0.5))])
    for options in ([], ["--format", "json"]):
        code, out, err = masklake("review", builder.uri, *options)
        assert (code, err) == (0, "")
        assert not {"\x1b", "\u202e"} & set(out)
        assert "\\u001b[31m" in out or "\\x1b[31m" in out
    assert str(tmp_path / "p" / name) in {task["data"]["masklake"]["uri"] for task in tasks()}
    accept(tmp_path / "review.json", tmp_path / "done.json")
    assert masklake("labels", "import", tmp_path / "done.json", builder.uri)[0] == 0
    assert name in newest(builder.uri)


def test_mistakes_get_one_line(builder: LakeBuilder, masklake: Masklake, tmp_path: Path) -> None:
    empty = LakeBuilder(str(tmp_path / "labels-only"))
    empty.labels([label_row("s3://p/a", "dog")])
    gone = LakeBuilder(str(tmp_path / "gone"))
    gone.part(RUN, [(image(f"/gone/{i}.png?X-Amz-Signature=secret"), dogs(0.5)) for i in range(3)])
    for args, answer in {
        (str(tmp_path / "no"),): "there is no such directory",
        (empty.uri,): "has no rows of images to choose from; `masklake segment SOURCE",
        (builder.uri, "--run", "20200101T000000-cccccc"): "has no run",
        (builder.uri, "--model", "nothing"): "neither a preset",
        (builder.uri, "--out", str(tmp_path)): "cannot write the tasks",
        (gone.uri,): "of 3 images none could be chosen: 3 unreadable; the first: /gone/",
        (builder.uri, "--urls", "presigned", "--anonymous", "--out", "nosuch://x"): "cannot open nosuch://",
    }.items():
        code, out, err = masklake("review", *args)
        assert (code, out, len(err.splitlines())) == (2, "", 1), (args, err)
        assert answer in err
        assert "secret" not in err
    assert not (tmp_path / "review.json").exists()
    for wrong in (
        ["--budget", "0"],
        ["--budget", "x"],
        ["--random", "2"],
        ["--expires", "169"],
        ["--expires", "0"],
    ):
        with pytest.raises(SystemExit, match="2"):
            masklake("review", builder.uri, *wrong)


def test_everything_labelled_is_told(builder: LakeBuilder, masklake: Masklake, tmp_path: Path) -> None:
    builder.labels(
        [empty_label_row(str(tmp_path / "p" / f"{n}.png")) for n in ("dog", "person", "nothing", "failed")]
    )
    code, _, err = masklake("review", builder.uri)
    assert (code, "4 are labelled already (--again takes them), 0 failed" in err) == (2, True)


def opened(url: str) -> bytes | int:
    """What a browser without credentials gets: the content, or the HTTP status that refuses it."""
    try:
        with urllib.request.urlopen(url) as answer:  # noqa: S310  # of the test's own server
            content: bytes = answer.read()
            return content
    except urllib.error.HTTPError as error:
        return error.code


def signed_tasks(put: Callable[[str, bytes], Any], bucket: str, run_cli: RunCli) -> list[dict[str, Any]]:
    """Review three pictures of the bucket, of hostile names, with signed URLs; the tasks, which hold all of them."""
    builder = LakeBuilder(f"{bucket}/lake")
    builder.record(RUN)
    uris = []
    for seed, key in enumerate(KEYS):
        put(f"photos/{key}", picture(seed))
        uris.append(f"{bucket}/photos/{key}")
    builder.part(RUN, [(row_of(uri), dogs(0.5)) for uri in uris])
    out = f"{bucket}/out/review.json"
    for format_ in ("table", "json"):
        done = run_cli(
            "review", builder.uri, "--urls", "presigned", "--expires", "2", "--out", out, "--format", format_
        )
        assert (done.code, done.stderr) == (0, "")
        assert "X-Amz" not in done.stdout
    written: list[dict[str, Any]] = json.loads(Storage().read(out))
    assert {task["data"]["masklake"]["uri"] for task in written} == set(uris)
    assert all("X-Amz-Expires=7200" in task["data"]["image"] for task in written)
    return written


KEYS = ["a.jpg", "x/b c+ü%41*[1].jpg", "d&e=#?.jpg"]


def test_presigned_urls_open_the_images(
    use_s3: Callable[[LoopbackS3], None], run_cli: RunCli, masklake: Masklake, tmp_path: Path
) -> None:
    """On a moto server that takes any signature: with its check on, it fails on signed URLs."""
    with serve() as server:
        use_s3(server)
        client = server.client()
        client.create_bucket(Bucket="photos")

        def put(key: str, data: bytes) -> None:
            client.put_object(Bucket="photos", Key=key, Body=data)

        written = signed_tasks(put, "s3://photos", run_cli)
        for task in written:
            assert opened(task["data"]["image"]) == Storage().read(task["data"]["masklake"]["uri"])
        (tmp_path / "review.json").write_text(json.dumps(written))
        accept(tmp_path / "review.json", tmp_path / "done.json")
        code, summary, _ = masklake("labels", "import", tmp_path / "done.json", "s3://photos/lake")
        assert (code, "3 new" in summary) == (0, True)
        labelled = label_store.newest(Lake("s3://photos/lake", Storage()))
        assert {labels.uri for labels in labelled} == {f"s3://photos/photos/{key}" for key in KEYS}


@pytest.mark.rgw
@pytest.mark.parametrize("s3_bucket", ["rgw"], indirect=True)
def test_a_server_that_checks_takes_the_signature_and_no_other(s3_bucket: Bucket, run_cli: RunCli) -> None:
    for task in signed_tasks(s3_bucket.put, s3_bucket.uri, run_cli):
        url, uri = task["data"]["image"], task["data"]["masklake"]["uri"]
        assert opened(url) == Storage().read(uri)
        assert opened(url.partition("?")[0]) == opened(url[:-8] + "0" * 8) == 403


@pytest.mark.parametrize("s3_bucket", ["moto"], indirect=True)
def test_urls_cannot_be_signed_without_credentials(
    s3_bucket: Bucket, masklake: Masklake, tmp_path: Path
) -> None:
    lake = LakeBuilder(str(tmp_path / "lake"))
    lake.record(RUN)
    lake.part(RUN, [(image(f"{s3_bucket.uri}/a.jpg"), dogs(0.5))])
    out = tmp_path / "out.json"
    code, _, err = masklake(
        "review", lake.uri, "--keep-similar", "--anonymous", "--urls", "presigned", "--out", out
    )
    assert (code, "cannot be signed with --anonymous" in err, out.exists()) == (2, True, False)
