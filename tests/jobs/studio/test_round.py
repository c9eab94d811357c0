"""`masklake review --push` and `labels pull` against Label Studio's twin: once each, and nothing misread."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from masklake.pipeline.labels import store as label_store
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.storage.store import Storage

from tests.helpers.lakes import LakeBuilder, instance
from tests.helpers.review_lakes import dogs, on_disk
from tests.helpers.servers.studio_twin import StudioTwin

RUN = "20261101T000000-aaaaaa"
OTHER = (
    '<View><Image name="photo" value="$url"/><Choices name="good" toName="photo"><Choice value="yes"/></Choices>'
    '<BrushLabels name="shape" toName="photo"><Label value="dog"/><Label value="cat"/></BrushLabels></View>'
)
Masklake = Callable[..., tuple[int, str, str]]


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LakeBuilder:
    """Three pictures: a dog, a person, nothing."""
    monkeypatch.chdir(tmp_path)
    photos, builder = tmp_path / "p", LakeBuilder(str(tmp_path / "lake"))
    builder.record(RUN)
    found = {"dog.png": dogs(0.6, 0.4), "person.png": [instance("person", 0.98)], "nothing.png": []}
    builder.part(RUN, [(on_disk(photos, name, i), rows) for i, (name, rows) in enumerate(found.items())])
    return builder


@pytest.fixture
def push(twin: StudioTwin, lake: LakeBuilder, masklake: Masklake) -> Masklake:
    return lambda *more: masklake(
        "review", lake.uri, "--keep-similar", "--push", twin.url, "--project", 3, *more
    )


@pytest.fixture
def pull(twin: StudioTwin, lake: LakeBuilder, masklake: Masklake) -> Masklake:
    return lambda *more: masklake("labels", "pull", twin.url, lake.uri, "--project", 3, *more)


def newest(lake: LakeBuilder) -> dict[str, Any]:
    return {s.uri.rpartition("/")[2]: s for s in label_store.newest(Lake(lake.uri, Storage()))}


def accepted(task: dict[str, Any]) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = task["predictions"][0]["result"]
    return results


def test_a_project_that_does_not_fit_is_refused_with_the_interface_that_does(
    twin: StudioTwin, push: Masklake
) -> None:
    code, out, err = push()
    assert (code, out, twin.tasks, twin.configs[3]) == (2, "", [], "<View></View>")
    assert '<Label value="dog"/>' in err
    assert (
        "project 3 lacks BrushLabels (dog, person), KeyPointLabels (nose, " in err
        and "--setup adds it" in err
    )
    twin.configs[3] = '<View><Text name="t" value="$text"/></View>'
    code, _, err = push("--setup")
    assert code == 2 and "project 3: the labelling interface has no Image" in err
    assert not twin.tasks


def test_tasks_are_pushed_once(twin: StudioTwin, push: Masklake, lake: LakeBuilder) -> None:
    code, out, err = push("--setup", "--budget", "2", "--random", "0")
    assert code == 0 and "2 images on a disk of this machine" in err
    assert out.endswith(f"2 tasks added to project 3 of {twin.url}; 0 images had one there\n")
    assert not Path("review.json").exists()
    assert push("--budget", "2", "--random", "0")[1].endswith(
        f"0 tasks added to project 3 of {twin.url}; 2 images had one there\n"
    )
    code, out, _ = push("--json", "--out", "tasks.json")
    assert json.loads(out)["pushed"] == {
        "url": twin.url,
        "project": 3,
        "added": 1,
        "there": 2,
        "left_out": {},
    }
    assert len(twin.tasks) == len({task["data"]["masklake"]["uri"] for task in twin.tasks}) == 3
    assert len(json.loads(Path("tasks.json").read_text())) == 3
    assert len(accepted(twin.tasks[0])) == 1, "the dog of 0.4 is not offered"
    assert LakeBuilder is type(lake) and not newest(lake)


def test_images_that_somebody_else_made_tasks_of_are_known(twin: StudioTwin, push: Masklake) -> None:
    twin.add(3, {"data": {"image": str(Path("p/dog.png").absolute())}})
    twin.add(3, {"data": {"image": "s3://other/person.png", "more": [1, None]}})
    assert "2 tasks added to project 3" in push("--setup")[1]


def test_a_project_keeps_what_it_has(
    twin: StudioTwin, push: Masklake, pull: Masklake, lake: LakeBuilder
) -> None:
    twin.configs[3] = OTHER
    code, _, err = push()
    assert code == 2 and "lacks BrushLabels (person), KeyPointLabels (nose" in err
    code, _, err = push("--setup")
    assert code == 0
    config = twin.configs[3]
    assert (
        '<Choice value="yes" />' in config and '<Label value="cat" />' in config and 'name="shape"' in config
    )
    [dog] = [task for task in twin.tasks if task["data"]["url"].endswith("dog.png")]
    assert {result["from_name"] for result in accepted(dog)} == {"shape"}
    assert {result["to_name"] for result in accepted(dog)} == {"photo"}
    twin.annotate(dog, accepted(dog))
    assert pull()[0] == 0
    assert [i.label for i in newest(lake)["dog.png"].instances] == ["dog"]


def test_copies_are_uploaded_for_new_tasks_only(twin: StudioTwin, push: Masklake) -> None:
    assert push("--setup", "--urls", "upload")[0] == 0
    assert len(twin.files) == 3 and {task["data"]["image"] for task in twin.tasks} == twin.files.keys()
    assert push("--urls", "upload")[0] == 0
    assert len(twin.files) == 3


def test_annotations_are_pulled_once(
    twin: StudioTwin, push: Masklake, pull: Masklake, lake: LakeBuilder
) -> None:
    push("--setup")
    tasks = {task["data"]["masklake"]["uri"].rpartition("/")[2]: task for task in twin.tasks}
    twin.annotate(tasks["person.png"], accepted(tasks["person.png"]))
    twin.annotate(tasks["nothing.png"], [])
    code, out, err = pull("--dry-run")
    assert (code, err, newest(lake)) == (0, "", {}) and "2 images (label-studio): 2 new" in out
    assert pull()[0] == 0
    labels = newest(lake)
    assert labels["nothing.png"].instances == () and labels["person.png"].source == "human"
    [person] = labels["person.png"].instances
    expected = instance("person", 0.98)
    assert (person.mask.counts, person.box) == (expected["mask"]["counts"], (8, 4, 16, 12))
    assert [k.name for k in person.keypoints] == [k["name"] for k in expected["keypoints"]]
    assert "nothing was written" in pull()[1]
    twin.annotate(tasks["dog.png"], accepted(tasks["dog.png"]))
    facts = json.loads(pull("--json")[1])
    assert (facts["new"], facts["replaced"], facts["unchanged"]) == (1, 0, 2)


def test_what_cannot_be_understood_is_told_and_counted(
    twin: StudioTwin, push: Masklake, pull: Masklake, lake: LakeBuilder
) -> None:
    push("--setup")
    by_name = {task["data"]["masklake"]["uri"].rpartition("/")[2]: task for task in twin.tasks}
    dog, person, nothing = (by_name[f"{name}.png"] for name in ("dog", "person", "nothing"))
    broken = accepted(dog)[0] | {"value": {"format": "rle", "rle": [1, 2], "brushlabels": ["dog"]}}
    twin.annotate(dog, [broken])
    twin.annotate(person, accepted(person), was_cancelled=True)
    twin.annotate(
        nothing,
        [
            {
                "id": "c",
                "type": "choices",
                "from_name": "good",
                "to_name": "image",
                "value": {"choices": ["yes"]},
            }
        ],
    )
    twin.add(3, {"data": {"image": "elsewhere.png"}, "annotations": [{"id": 9, "result": []}]})
    code, out, err = pull()
    assert code == 2 and "'elsewhere.png' is not in the lake's images" in err and not newest(lake)
    code, out, err = pull("--skip-unresolved")
    assert code == 0 and not newest(lake)
    assert (
        "left out: the brush mask ends before all of its pixels: 1" in out
        and f"{twin.url}: project 3: task {dog['id']}" in out
    )
    assert "cancelled annotations left out: 1" in out and "results of type 'choices' left out" in out
    assert pull("--skip-unresolved", "--strict")[0] == 2


def test_names_that_no_interface_can_hold_are_left_out_and_counted(
    twin: StudioTwin, push: Masklake, lake: LakeBuilder
) -> None:
    odd = instance("dog", 0.9, (30, 4, 8, 12)) | {"label": "a\x1b[31m\n<b>", "label_id": 900}
    builder = LakeBuilder(lake.uri)
    builder.record("20261102T000000-bbbbbb")
    builder.part("20261102T000000-bbbbbb", [(on_disk(Path("p").absolute(), "odd.png", 9), [odd])])
    code, out, err = push("--setup", "--interface", "i.xml")
    assert code == 0 and "\x1b" not in out + err + twin.configs[3] + Path("i.xml").read_text()
    assert "not in the interface: 1 name with characters" in err
    assert r"left out: 1 instance of 'a\x1b[31m\n<b>', which the project's BrushLabels do not offer" in out
    [task] = [task for task in twin.tasks if task["data"]["masklake"]["uri"].endswith("odd.png")]
    assert accepted(task) == []


def test_options_that_do_not_go_together(twin: StudioTwin, masklake: Masklake, lake: LakeBuilder) -> None:
    for wrong, why in (
        (("--push", twin.url), "--push URL and --project N go together"),
        (("--project", "3"), "--push URL and --project N go together"),
        (("--setup",), "--setup: is for --push URL"),
        (("--urls", "upload"), "--urls upload: is for --push URL"),
    ):
        code, _, err = masklake("review", lake.uri, *wrong)
        assert code == 2 and why in err
    code, _, err = masklake("labels", "pull", twin.url, lake.uri)
    assert code == 2 and "name the project: --project N" in err
    code, _, err = masklake("review", lake.uri, "--push", twin.url, "--project", "9")
    assert code == 2 and "No Project matches" in err
    assert not twin.tasks


def test_a_project_without_an_interface_is_as_a_new_one(
    twin: StudioTwin, push: Masklake, pull: Masklake
) -> None:
    twin.configs[3] = ""
    code, _, err = push()
    assert code == 2 and "the labelling interface of project 3 lacks" in err
    assert pull()[0] == 0
    assert push("--setup")[0] == 0 and "dog" in twin.configs[3]
    twin.configs[3] = "<View><Image"
    code, _, err = pull()
    assert code == 2 and f"{twin.url}: project 3: the labelling interface is not XML" in err
    twin.failures[:] = [500]
    code, _, err = pull()
    assert code != 0 and f"masklake: error: {twin.url}: fails (500" in err
