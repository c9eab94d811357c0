"""Tasks that name what they should not: nothing else is asked for, nothing is told that must not be, and all are answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from masklake.jobs.backend.predicting import Model, TaskPredictor
from masklake.jobs.backend.protocol import Protocol
from masklake.jobs.studio import client
from masklake.jobs.studio.client import TOKEN, StudioClient
from masklake.model.decode import DecodeOptions
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.storage.store import Storage

from tests.helpers.predictors import VOCABULARY, ContentPredictor
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
    protocol = Protocol(TaskPredictor(Lake(str(lake), Storage()), MODEL, StudioClient(studio.url)))
    tasks = [{"id": i, "data": {"url": place}} for i, place in enumerate(places)]
    results: list[Any] = protocol.post("/predict", {"tasks": tasks, "label_config": INTERFACE})["results"]
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
