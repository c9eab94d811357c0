"""Against a real Label Studio: tasks pushed, annotated, pulled; the lake's model as its ML backend.

It runs where `label-studio` is installed: on the PATH, or where MASKLAKE_LABEL_STUDIO says.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from masklake.jobs.backend.command import BackendOptions, ready
from masklake.jobs.backend.predicting import TaskPredictor
from masklake.jobs.backend.protocol import Protocol
from masklake.jobs.backend.server import BackendServer
from masklake.jobs.studio.client import StudioClient
from masklake.model import scenes
from masklake.pipeline.labels import store as label_store
from masklake.pipeline.labels.formats import brush_rle
from masklake.pipeline.labels.masks import from_pixels, to_pixels
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.storage.store import Storage
from PIL import Image
from pycocotools import mask as coco_mask

from tests.helpers.lakes import LakeBuilder, instance
from tests.helpers.review_lakes import row_of
from tests.helpers.servers.label_studio import TOKEN, LabelStudio, executable, label_studio

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(executable() is None, reason="label-studio is not installed (MASKLAKE_LABEL_STUDIO)"),
]
RUN = "20261101T000000-aaaaaa"
Masklake = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudio]:
    with label_studio(tmp_path_factory.mktemp("label-studio")) as server:
        yield server


def blob(height: int, width: int, seed: int) -> np.ndarray:
    """(H, W) uint8: a shape with holes and rough edges."""
    noise = np.random.default_rng(seed).random((height // 4 + 1, width // 4 + 1)) < 0.6
    pixels = noise.repeat(4, axis=0).repeat(4, axis=1)[:height, :width].astype(np.uint8)
    pixels[: height // 5] = pixels[:, : width // 4] = 0
    return pixels


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LakeBuilder:
    """Three scenes; in the first a dog and a person with keypoints, in the second a person in doubt."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", TOKEN)
    scenes.write(tmp_path / "photos", 3, 0)
    builder = LakeBuilder(str(tmp_path / "lake"))
    builder.record(RUN)
    rows = []
    for i, file in enumerate(sorted((tmp_path / "photos").glob("*.jpg"))):
        width, height = Image.open(file).size
        instances = [
            instance(label, 0.9, mask=masked(blob(height, width, seed)))
            for seed, label in enumerate([["dog", "person"], ["person"], []][i])
        ]
        rows.append((row_of(str(file), width=width, height=height), instances))
    builder.part(RUN, rows)
    return builder


def masked(pixels: np.ndarray) -> dict[str, Any]:
    mask = from_pixels(pixels)
    return {"size": [mask.height, mask.width], "counts": mask.counts}


def newest(lake: LakeBuilder) -> dict[str, Any]:
    return {s.uri.rpartition("/")[2]: s for s in label_store.newest(Lake(lake.uri, Storage()))}


def test_a_round_of_tasks_annotations_and_labels(
    studio: LabelStudio, lake: LakeBuilder, masklake: Masklake, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = studio.new_project("a round")
    push = ("review", lake.uri, "--keep-similar", "--push", studio.url, "--project", project)
    code, out, err = masklake(*push)
    assert code == 2 and "--setup" in err and '<Label value="dog"/>' in err and not studio.tasks(project)

    upload = (*push, "--setup", "--urls", "upload")
    there = f"tasks added to project {project} of {studio.url}"
    code, out, err = masklake(*upload)
    assert (code, err) == (0, "")
    assert out.endswith(f"3 {there}; 0 images had one there\n")
    assert masklake(*upload)[1].endswith(f"0 {there}; 3 images had one there\n")
    tasks = {task["data"]["masklake"]["uri"].rpartition("/")[2]: task for task in studio.tasks(project)}
    assert len(tasks) == 3
    for name, task in tasks.items():  # the copies are what the lake has
        answer = studio.session.get(studio.url + task["data"]["image"])
        assert answer.content == Path("photos", name).read_bytes()

    first, second, third = (tasks[f"scene-{i:06d}.jpg"] for i in range(3))
    accepted = [
        {
            **result,
            "id": "x" + result["id"],
            **({"parentID": "x" + result["parentID"]} if "parentID" in result else {}),
        }
        for result in first["predictions"][0]["result"]
    ]
    studio.annotate(first["id"], accepted)
    size = {
        "original_width": second["data"]["masklake"]["width"],
        "original_height": second["data"]["masklake"]["height"],
    }
    drawn = drawn_by_hand(size)
    annotation = studio.annotate(second["id"], drawn)
    studio.annotate(third["id"], [], was_cancelled=True)

    pull = ("labels", "pull", studio.url, lake.uri, "--project", project)
    code, out, err = masklake(*pull)
    assert (code, err) == (0, "")
    assert "2 images (label-studio): 2 new" in out and "cancelled annotations left out: 1" in out
    labels = newest(lake)
    assert set(labels) == {"scene-000000.jpg", "scene-000001.jpg"}
    frame = (first["data"]["masklake"]["height"], first["data"]["masklake"]["width"])
    dog, person = labels["scene-000000.jpg"].instances
    assert [dog.label, person.label] == ["dog", "person"]
    assert np.array_equal(to_pixels(dog.mask), blob(*frame, 0)) and np.array_equal(
        to_pixels(person.mask), blob(*frame, 1)
    )
    assert [k.name for k in person.keypoints if k.visibility == 2] == [
        k["name"] for k in instance("person", 1.0)["keypoints"]
    ]
    check_drawn(labels["scene-000001.jpg"].instances, size)

    assert "nothing was written" in masklake(*pull)[1]
    studio.ask("PATCH", f"annotations/{annotation}/", json={"result": drawn[:1]})
    assert "1 replaced, 1 unchanged" in masklake(*pull)[1]

    personal = studio.ask("POST", "token/")["token"]
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", personal)
    assert "nothing was written" in masklake(*pull)[1]
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", personal[:-4] + "AAAA")
    assert masklake(*pull)[0] == 2
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "f" * 40)
    code, out, err = masklake(*pull)
    assert code == 2 and "refuses the legacy token of LABEL_STUDIO_API_KEY (Invalid token.)" in err


def drawn_by_hand(size: dict[str, int]) -> list[dict[str, Any]]:
    """A polygon with a keypoint in it, a rectangle, and an ellipse whose class the editor gives as an annotator draws them."""
    common = {"to_name": "image", "image_rotation": 0, "origin": "manual", **size}
    return [
        {**common, "id": "r", "from_name": "box", "type": "rectanglelabels", "value": {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0, "rectanglelabels": ["dog"]}},
        {**common, "id": "p", "from_name": "brush", "type": "polygonlabels", "value": {"points": [[5, 5], [60, 10], [30, 70]], "closed": True, "polygonlabels": ["person"]}},
        {**common, "id": "k", "parentID": "p", "from_name": "joint", "type": "keypointlabels", "value": {"x": 25, "y": 25, "width": 0.5, "keypointlabels": ["nose"]}},
        {**common, "id": "e", "from_name": "brush", "type": "ellipselabels", "value": {"x": 50, "y": 50, "radiusX": 10, "radiusY": 20, "rotation": 0, "ellipselabels": ["dog"]}},
    ]  # fmt: skip


def check_drawn(instances: Any, size: dict[str, int]) -> None:
    width, height = size["original_width"], size["original_height"]
    rectangle, polygon, ellipse = instances
    assert rectangle.mask is None and np.allclose(
        rectangle.box, (0.1 * width, 0.2 * height, 0.3 * width, 0.4 * height)
    )
    corners = [v for x, y in [(5, 5), (60, 10), (30, 70)] for v in (x * width / 100, y * height / 100)]
    expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([corners], height, width)))
    assert np.array_equal(to_pixels(polygon.mask), expected)
    [nose] = [k for k in polygon.keypoints if k.visibility]
    assert nose.name == "nose" and np.allclose((nose.x, nose.y), (width / 4, height / 4))
    assert abs(ellipse.mask.area - np.pi * 0.1 * width * 0.2 * height) < 0.05 * ellipse.mask.area


def test_annotators_start_from_the_models_masks(studio: LabelStudio, lake: LakeBuilder) -> None:
    opened = Lake(lake.uri, Storage())
    model = ready(BackendOptions(lake=lake.uri, model="demo"), opened)
    predictor = TaskPredictor(opened, model, StudioClient(studio.url))
    interface = (
        '<View><Image name="photo" value="$url"/><BrushLabels name="shape" toName="photo"><Label value="circle"/><Label value="star"/>'
        '<Label value="person"/></BrushLabels></View>'
    )
    project = studio.new_project("with a model", interface)
    uploaded = StudioClient(studio.url).upload(
        project, "a b.jpg", Path("photos/scene-000000.jpg").read_bytes()
    )
    urls = [str(Path("photos/scene-000000.jpg").absolute()), uploaded, "/etc/passwd"]
    studio.ask("POST", f"projects/{project}/import", json=[{"data": {"url": url}} for url in urls])
    with BackendServer("127.0.0.1", 0, Protocol(predictor)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        backend = studio.ask("POST", "ml/", json={"project": project, "url": server.url, "title": "masklake"})
        assert (backend["readable_state"], backend["model_version"]) == ("Connected", model.version)
        wanted = {"selectedItems": {"all": True, "excluded": []}}
        for _ in range(2):  # the second time nothing is added
            studio.ask(
                "POST",
                "dm/actions/",
                params={"id": "retrieve_tasks_predictions", "project": project},
                json=wanted,
            )
        server.shutdown()
    of_the_lake, of_studio, other = (task["predictions"] for task in studio.tasks(project))
    assert other == [] and len(of_the_lake) == len(of_studio) == 1
    width, height = Image.open("photos/scene-000000.jpg").size
    found = [result for result in of_the_lake[0]["result"] if result["type"] == "brushlabels"]
    [detections] = model.predictor.predict([Path("photos/scene-000000.jpg").read_bytes()])
    expected = [
        (name, mask)
        for name, mask in zip(detections.names, detections.full_masks(), strict=True)
        if name in ("circle", "star", "person")
    ]
    assert found and len(found) == len(expected)
    for result, (name, mask) in zip(found, expected, strict=True):
        assert result["value"]["brushlabels"] == [name]
        assert np.array_equal(brush_rle.decode(result["value"]["rle"], height, width), mask)
    strip = [
        {key: value for key, value in result.items() if key != "id"} for result in of_the_lake[0]["result"]
    ]
    assert strip == [
        {key: value for key, value in result.items() if key != "id"} for result in of_studio[0]["result"]
    ]
