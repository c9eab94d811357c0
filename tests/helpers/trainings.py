"""Small lakes of labelled scenes, for tests of training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from masklake.jobs.cli import main
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.storage.store import Storage
from masklake.pipeline.train.record import TrainingRecord, load, trainings

from tests.helpers.faults.table import counted


def scenes_lake(folder: Path, images: int = 48, seed: int = 3) -> str:
    """A lake of `images` labelled scenes, all of them in `folder`; every sixth is of split val."""
    assert main(["scenes", str(folder / "scenes"), "--images", str(images), "--seed", str(seed)]) == 0
    lake = str(folder / "lake")
    for split, file in truths(folder).items():
        options = ["--uri-prefix", f"{folder}/scenes/", "--split", split]
        assert main(["labels", "import", str(file), lake, *options]) == 0
    return lake


def truths(folder: Path) -> dict[str, Path]:
    """The scenes' annotations, a file for each split: by their URIs, which tests cannot choose, it would be chance."""
    content = json.loads((folder / "scenes" / "annotations.json").read_text())
    files = {}
    for split in ("train", "val"):
        images = [entry for entry in content["images"] if (entry["id"] % 6 == 0) == (split == "val")]
        ids = {entry["id"] for entry in images}
        annotations = [entry for entry in content["annotations"] if entry["image_id"] in ids]
        files[split] = folder / f"{split}.json"
        files[split].write_text(json.dumps(content | {"images": images, "annotations": annotations}))
    return files


def a_record(lake: str, **fields: object) -> TrainingRecord:
    """The record of a training of `lake`, with these fields."""
    base = TrainingRecord(
        run="20261101T000000-aaaaaa",
        lake=lake,
        command=["masklake", "train", lake],
        options={
            "name": "t",
            "recipe": {"batch": 8, "learning_rate": 1e-3, "seed": 1},
            "steps": 100,
            "minutes": None,
            "classes": None,
            "shuffled": False,
            "frozen": [],
            "half": False,
        },
        start={"from": "tiny from nothing", "family": "joint", "backbone": "tiny", "fresh": []},
        data={"as_of": "2026-11-01T00:00:00+00:00", "images": 4, "instances": 9, "classes": {"dog": 9}},
        versions={},
    )
    return replace(base, **fields)  # type: ignore[arg-type]  # fields by name


def only(lake: str) -> TrainingRecord:
    """The record of the newest training."""
    storage = Storage()
    return load(lake, trainings(lake, storage)[0], storage)


def counted_steps(record: TrainingRecord, steps: int) -> None:
    """Count the training's steps for the table of faults: those that had a batch, beside `steps`."""
    batch = record.options["recipe"]["batch"]
    with_batch, step = record.position["images"] // batch, record.position["step"]
    doubled = max(0, with_batch - step)
    counted(steps, step, lost=max(0, steps - step), doubled=doubled, unit="steps")


def checkpoints(record: TrainingRecord) -> list[str]:
    """The names of the training's checkpoints, oldest first."""
    root = f"{record.lake}/runs/{record.run}/checkpoints"
    names = {uri.removeprefix(root).split("/")[1] for uri in Storage().list(root)}
    return sorted(name for name in names if name.startswith("step-"))


def events(record: TrainingRecord) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of each tag in the training's TensorBoard files, read as protobuf records."""
    from tensorboardX.proto.event_pb2 import Event

    by_tag: dict[str, list[tuple[int, float]]] = {}
    storage = Storage()
    for uri in storage.list(f"{record.lake}/runs/{record.run}/tensorboard"):
        data, offset = storage.read(uri), 0
        while offset < len(data):  # TFRecord: length, its CRC, the event, its CRC
            length = int.from_bytes(data[offset : offset + 8], "little")
            event = Event.FromString(data[offset + 12 : offset + 12 + length])
            offset += 16 + length
            for value in event.summary.value:
                by_tag.setdefault(value.tag, []).append((event.step, value.simple_value))
    return by_tag


def weights(record: TrainingRecord) -> dict[str, Any]:
    """The tensors of the model that came of the training."""
    from safetensors.torch import load as load_tensors

    assert record.model is not None
    name, _, version = record.model.partition("@")
    tensors: dict[str, Any] = load_tensors(
        Storage().read(f"{record.lake}/models/{name}/{version}/model.safetensors")
    )
    return tensors


def spec(record: TrainingRecord) -> dict[str, Any]:
    """model.json of the model that came of the training."""
    assert record.model is not None
    name, _, version = record.model.partition("@")
    model_json: dict[str, Any] = json.loads(
        Storage().read(f"{record.lake}/models/{name}/{version}/model.json")
    )
    return model_json


def versions(lake: str) -> list[str]:
    """name@version of the lake's models."""
    from masklake.pipeline.lake.registry import Registry

    return sorted(str(version) for version in Registry(lake, Storage()).versions())


def lake_of(uri: str) -> Lake:
    return Lake(uri, Storage())
