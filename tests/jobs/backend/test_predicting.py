"""Predictions of tasks, by the demo model: whose images are read, what is answered, and how that is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from masklake.jobs.backend.command import BackendOptions, ready
from masklake.jobs.backend.predicting import Model, TaskPredictor
from masklake.jobs.backend.protocol import Protocol, RefusedError
from masklake.jobs.models.resolve import resolve
from masklake.jobs.studio.client import TOKEN, StudioClient
from masklake.model import scenes
from masklake.pipeline.errors import UserError
from masklake.pipeline.labels.formats import brush_rle
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.storage.store import Storage
from PIL import Image

from tests.helpers.lakes import LakeBuilder
from tests.helpers.review_lakes import row_of
from tests.helpers.servers.studio_twin import LEGACY, StudioTwin, studio_twin

CLASSES = ("circle", "cross", "square", "star", "triangle")
INTERFACE = (
    '<View><Image name="photo" value="$url"/><BrushLabels name="shape" toName="photo">'
    + "".join(f'<Label value="{name}"/>' for name in CLASSES)
    + "</BrushLabels></View>"
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    scenes.write(folder, 2, 0)
    (folder / "broken.jpg").write_bytes((folder / "scene-000000.jpg").read_bytes()[:300])
    (folder / "unknown.jpg").write_bytes((folder / "scene-000000.jpg").read_bytes())
    return folder


@pytest.fixture(scope="module")
def lake(photos: Path) -> Lake:
    """It knows two scenes, one broken image, and one that is gone."""
    builder = LakeBuilder(str(photos / "lake"))
    builder.record("20261101T000000-aaaaaa")
    known = [row_of(str(photos / name)) for name in ("scene-000000.jpg", "scene-000001.jpg", "broken.jpg")]
    known.append(known[0] | {"uri": str(photos / "gone.jpg")})
    builder.part("20261101T000000-aaaaaa", [(row, []) for row in known])
    return Lake(builder.uri, Storage())


@pytest.fixture(scope="module")
def model(lake: Lake) -> Model:
    return ready(BackendOptions(lake=lake.uri, model="demo"), lake)


@pytest.fixture
def protocol(lake: Lake, model: Model) -> Protocol:
    return Protocol(TaskPredictor(lake, model, None))


@pytest.fixture
def twin(monkeypatch: pytest.MonkeyPatch) -> Iterator[StudioTwin]:
    monkeypatch.setenv(TOKEN, LEGACY)
    with studio_twin() as server:
        yield server


def ask(protocol: Protocol, *data: Any, interface: str = INTERFACE) -> list[Any]:
    tasks = [{"id": 100 + i, "data": value} for i, value in enumerate(data)]
    answer = protocol.post(
        "/predict", {"tasks": tasks, "label_config": interface, "project": "1.2", "params": {}}
    )
    results: list[Any] = answer["results"]
    assert len(results) == len(tasks)
    return results


def test_options_of_rows_count_as_for_segment(lake: Lake) -> None:
    options = BackendOptions(lake=lake.uri, model="demo", proposals=5, precision="exact")
    assert options.predictor(resolve("demo", lake.storage), None, None).proposals == 5
    assert ready(options, lake).decode.target is None
    with pytest.raises(
        UserError, match=r"calibrations/.*json: is not there; the first `masklake segment --precision int8`"
    ):
        ready(BackendOptions(lake=lake.uri, model="demo", precision="int8"), lake)


def test_masks_are_the_models_to_the_pixel(protocol: Protocol, model: Model, photos: Path) -> None:
    uri = str(photos / "scene-000001.jpg")
    by_url, by_name = ask(protocol, {"url": uri}, {"url": "x", "masklake": {"uri": uri}})
    assert by_url == by_name and by_url["model_version"] == model.version
    [detections] = model.predictor.predict([Path(uri).read_bytes()])
    expected = [
        (name, mask)
        for name, mask in zip(detections.names, detections.full_masks(), strict=True)
        if name in CLASSES
    ]
    width, height = Image.open(uri).size
    assert expected and len(by_url["result"]) == len(expected)
    for result, (name, mask) in zip(by_url["result"], expected, strict=True):
        assert (result["from_name"], result["to_name"], result["type"]) == ("shape", "photo", "brushlabels")
        assert (result["original_width"], result["original_height"]) == (width, height)
        assert result["value"]["brushlabels"] == [name] and 0.5 <= result["score"] <= 1
        assert np.array_equal(brush_rle.decode(result["value"]["rle"], height, width), mask)


def test_only_images_of_the_lake_are_read_and_the_others_are_told(
    protocol: Protocol, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [
        "/etc/passwd",
        str(photos / "unknown.jpg"),
        "s3://other/a.jpg",
        "http://127.0.0.1:9/a.jpg",
        "~root/x",
        "a\x00b",
        "\ud800",
    ]
    places += [
        "s3://",
        "file:///etc/passwd",
        "/data/upload/3/a.jpg",
        str(photos / "gone.jpg"),
        str(photos / "broken.jpg"),
    ]
    results = ask(
        protocol,
        *({"url": place} for place in places),
        {"masklake": {"uri": 7}, "url": ["x"]},
        {},
        {"url": {}},
    )
    assert results == [[]] * 15, "an empty prediction would say that nothing is there"
    err = capsys.readouterr().err
    assert "no prediction: task 100: /etc/passwd: is no image of" in err and "… and 10 more" in err
    ask(protocol, *({"url": place} for place in places[-3:]))
    err = capsys.readouterr().err
    assert "task 100: /data/upload/3/a.jpg: lies in Label Studio, whose address is not known here" in err
    assert "task 101" in err and "gone since it was listed" in err and "task 102" in err


def test_what_label_studio_keeps_comes_from_there(
    lake: Lake, model: Model, photos: Path, twin: StudioTwin
) -> None:
    twin.files["/data/upload/3/0a-b.jpg"] = (photos / "scene-000000.jpg").read_bytes()
    protocol = Protocol(TaskPredictor(lake, model, StudioClient(twin.url)))
    path, url, gone = ask(
        protocol,
        {"url": "/data/upload/3/0a-b.jpg"},
        {"url": f"{twin.url}/data/upload/3/0a-b.jpg"},
        {"url": "/data/upload/3/gone.jpg"},
    )
    assert path["result"] and path["result"] == url["result"] and gone == []
    twin.asked.clear()
    places = [
        "/api/projects/3/",
        "/data/upload/../../api/projects/3/",
        "http://127.0.0.1:9/data/upload/3/0a-b.jpg",
    ]
    assert ask(protocol, *({"url": place} for place in places)) == [[], [], []]
    assert not twin.asked


def test_what_the_interface_does_not_offer_is_left_out_and_told(
    protocol: Protocol, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [answer] = ask(
        protocol, {"url": str(photos / "scene-000000.jpg")}, interface=INTERFACE.replace("circle", "person")
    )
    assert {label for result in answer["result"] for label in result["value"]["brushlabels"]} <= {
        *CLASSES,
        "person",
    }
    err = capsys.readouterr().err
    assert "keypoints that the project's KeyPointLabels do not offer" in err


def test_time_that_does_not_suffice_leaves_tasks_out(
    lake: Lake, model: Model, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictor = TaskPredictor(lake, model, None)
    known = {"url": str(photos / "scene-000000.jpg")}
    assert ask(Protocol(predictor, seconds=0.0), known, known) == [[], []]
    assert "2 of 2 tasks were not reached in 0 s" in capsys.readouterr().err
    with predictor.turn:
        assert ask(Protocol(predictor, seconds=0.01), known) == [[]]
    assert "1 task waited for others all of 0 s" in capsys.readouterr().err


def test_the_protocols_other_answers(protocol: Protocol, model: Model) -> None:
    up = {"status": "UP", "model_class": "masklake", "model_version": model.version}
    assert protocol.get("/health") == protocol.get("/") == up
    assert protocol.get("/versions") == {"versions": [model.version]}
    setup = {
        "project": "1.2",
        "schema": INTERFACE,
        "hostname": "http://x",
        "access_token": "y",
        "extra_params": None,
    }
    assert protocol.post("/setup", setup) == {"model_version": model.version}
    assert protocol.post("/webhook", {"action": "ANNOTATION_CREATED"}) == {"status": "ignored"}


@pytest.mark.parametrize(
    ("path", "request_", "code", "why"),
    [
        ("/setup", {"schema": '<View><Text name="t" value="$t"/></View>'}, 400, "has no Image"),
        ("/setup", {"schema": '<View><Image name="i" value="$i"/></View>'}, 400, "has none of BrushLabels"),
        ("/setup", {}, 400, "the labelling interface is missing"),
        ("/predict", {"label_config": INTERFACE}, 400, "tasks is no list"),
        ("/predict", {"label_config": INTERFACE, "tasks": [1]}, 400, "tasks is no list"),
        ("/predict", {"label_config": INTERFACE, "tasks": [{}] * 1001}, 413, "1,001 tasks at once"),
        ("/predict", [], 400, "is no JSON object"),
        ("/train", {}, 501, "does not train: `masklake labels pull`"),
        ("/webhook", {"action": "START_TRAINING", "project": {}}, 501, "does not train"),
        ("/delete", {}, 404, "no such page"),
    ],
)
def test_what_cannot_be_is_refused(protocol: Protocol, path: str, request_: Any, code: int, why: str) -> None:
    with pytest.raises(RefusedError, match=why) as refused:
        protocol.post(path, request_)
    assert refused.value.code == code
