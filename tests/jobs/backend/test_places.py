"""Where the images of tasks are looked for: never where they must not be, and always in the lake as it is now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from masklake.jobs.backend import predicting
from masklake.jobs.backend.predicting import Model, TaskPredictor
from masklake.jobs.backend.protocol import Protocol
from masklake.jobs.studio import client
from masklake.jobs.studio.client import TOKEN, StudioClient
from masklake.model.decode import DecodeOptions
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.storage.store import Storage

from tests.helpers.lakes import LakeBuilder
from tests.helpers.predictors import VOCABULARY, ContentPredictor
from tests.helpers.review_lakes import on_disk
from tests.helpers.servers.studio_twin import LEGACY, StudioTwin, studio_twin

INTERFACE = '<View><Image name="photo" value="$url"/><BrushLabels name="b" toName="photo"/></View>'
MODEL = Model(
    version="content@1",
    predictor=ContentPredictor(),
    vocabulary=VOCABULARY,
    decode=DecodeOptions(),
    max_bytes=10**6,
    at_once=8,
)


def answers(lake: Path, studio: StudioTwin, *places: str) -> list[Any]:
    """What is answered to tasks whose images are at these places."""
    return asked(TaskPredictor(Lake(str(lake), Storage()), MODEL, StudioClient(studio.url)), *places)


def asked(predictor: TaskPredictor, *places: str) -> list[Any]:
    tasks = [{"id": i, "data": {"url": place}} for i, place in enumerate(places)]
    results: list[Any] = Protocol(predictor).predict({"tasks": tasks, "label_config": INTERFACE})["results"]
    return results


def test_hostile_places_are_refused_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(TOKEN, LEGACY)
    with studio_twin() as studio:
        places = [
            "/data/upload/%2e%2e/%2e%2e/api/projects/3/",
            "/data/upload/.%2E/%2E./api/projects/3/",
            "http://[x/presign/?fileuri=abc",
            "https://p.s3.amazonaws.com/a.jpg?X-Amz-Signature=5ec2e7&X-Amz-Credential=me",
        ]
        assert answers(tmp_path, studio, *places) == [[]] * len(places)
        assert not studio.asked
    err = capsys.readouterr().err
    assert err.count("no prediction: task") == len(places)
    assert "X-Amz-Signature=…" in err and "5ec2e7" not in err


def test_a_file_that_breaks_off_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(TOKEN, LEGACY)
    monkeypatch.setattr(client, "_FIRST_WAIT_S", 0.01)
    with studio_twin() as studio:
        studio.files["/data/upload/3/a.jpg"] = b"x" * 1000
        studio.failures[:] = ["half"]
        assert answers(tmp_path, studio, "/data/upload/3/a.jpg") == [[]]
    assert "broke off" in capsys.readouterr().err


def test_the_lake_is_as_it_is_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend runs for weeks: images come, and parts go."""
    run = "20261101T000000-aaaaaa"
    first, second = (on_disk(tmp_path / "photos", name, i) for i, name in enumerate(("a.png", "b.png")))
    builder = LakeBuilder(str(tmp_path / "lake"))
    builder.part(run, [(first, [])])
    predictor = TaskPredictor(Lake(builder.uri, Storage()), MODEL, None)
    answer = asked(predictor, first["uri"], second["uri"])
    assert answer[0]["model_version"] == "content@1" and answer[1] == []
    with monkeypatch.context() as patched:
        patched.setattr(Lake, "dataset", lambda *_: pytest.fail("the footers are read again"))
        assert asked(predictor, first["uri"]) == answer[:1]
    for file in (tmp_path / "lake" / "images").rglob("*.parquet"):
        file.unlink()  # as after a compaction
    builder.part(run, [(first, [])])
    assert asked(predictor, first["uri"]) == answer[:1]
    [file] = (tmp_path / "lake" / "images").rglob("*.parquet")
    shorter = pq.read_table(file).select(["uri", "image_id"])
    pq.write_table(shorter, file, compression="none")  # under its name, with another layout
    assert asked(predictor, first["uri"]) == answer[:1]
    builder.part("20261102T000000-bbbbbb", [(second, [])])
    assert asked(predictor, second["uri"]) == [[]], "not before the lake is listed again"
    monkeypatch.setattr(predicting, "_FRESH_S", 0.0)
    assert asked(predictor, second["uri"])[0]["model_version"] == "content@1"
