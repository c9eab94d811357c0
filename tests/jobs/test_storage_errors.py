"""Every command beside every way in which a storage refuses: one line that names the object, before Ray starts."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pytest
from masklake.jobs.cli import main
from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.segment.options import RowOptions
from masklake.model.presets import fingerprint
from masklake.pipeline.storage import endpoint
from masklake.pipeline.storage.parquet import encode
from masklake.pipeline.storage.store import Storage

from tests.conftest import _forget_s3_clients
from tests.helpers.images import solid
from tests.helpers.lakes import LakeBuilder, instance, label_row
from tests.helpers.paths import ROOT
from tests.helpers.servers.moto import Moto

RUN, STOPPED = "20261102T000000-bbbbbb", "20261101T000000-aaaaaa"
DEMO = ROOT / "model" / "weights" / "demo"
COCO = {
    "images": [{"id": 1, "file_name": "photos/a.png", "width": 64, "height": 48}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 18, "bbox": [2, 2, 8, 8], "area": 64, "iscrowd": 0}
    ],
    "categories": [{"id": 18, "name": "dog"}],
}


@dataclass(frozen=True)
class Command:
    """A command line: {b} is the bucket's URI, {lake} a lake on this machine, {photos} a folder of photos."""

    line: str
    writes: bool = False
    """Whether it writes into the bucket."""
    reads: bool = True
    """Whether it reads from the bucket before it would do anything else."""


COMMANDS = [
    Command("segment {b}/photos {new} --model demo"),
    Command("segment {b}/photos/a.png {new} --model demo"),
    Command("segment {b}/photos/*.png {new} --model demo"),
    Command("segment {b}/list.txt {new} --model demo"),
    Command("segment {b}/list.csv {new} --model demo"),
    Command("segment {b}/list.parquet {new} --model demo"),
    Command("segment {b}/manifest.json {new} --model demo"),
    Command("segment {b}/photos {new} --model demo --dry-run"),
    Command("segment {photos} {b}/lake --model demo", writes=True),
    Command("segment {photos} {b}/lake --model demo --lock segment", writes=True),
    Command("segment {photos} {b}/lake --resume {stopped}", writes=True),
    Command("segment {photos} {new} --model {b}/model"),
    Command("segment {photos} {b}/lake --model production"),
    Command("query select_count(*)_from_images --lake {b}/lake"),
    Command("runs {b}/lake"),
    Command("run show {b}/lake last"),
    Command("labels import {b}/labels.json {lake}"),
    Command("labels import {labels} {b}/lake --uri-prefix s3://storage-errors/", writes=True),
    Command("labels import {labels} {lake} --mapping {b}/mapping.csv"),
    Command("labels stats {b}/lake"),
    Command("labels check {b}/lake"),
    Command("labels check {lake} --model {b}/model"),
    Command("labels export {b}/lake {new}"),
    Command("export {b}/lake --format coco --out {new}"),
    Command("export {lake} --format coco-results --like {b}/labels.json --out {new}"),
    Command("labels export {lake} {b}/out.json", writes=True, reads=False),
    Command("train {b}/lake --backbone tiny", writes=True),
    Command("train {b}/lake --resume last"),
    Command("train {lake} --model {b}/model"),
    Command("eval {b}/lake", writes=True),
    Command("eval {lake} --coco {b}/coco --model demo"),
    Command("eval {lake} --model {b}/model"),
    Command("review {b}/lake --keep-similar --out {new}"),
    Command("compact {b}/lake --grace-minutes 0", writes=True),
    Command("forget {b}/lake --uri s3://storage-errors/photos/ --grace-minutes 0", writes=True),
    Command("review {lake} --keep-similar --out {b}/review.json", writes=True, reads=False),
    Command("review {lake} --keep-similar --model {b}/model"),
    Command("models list {b}/lake"),
    Command("models show {b}/lake production"),
    Command("models add {model} {b}/lake", writes=True),
    Command("models add {b}/model {lake}"),
    Command("models promote {b}/lake demo@{version} --alias staging", writes=True),
    Command("models rollback {b}/lake demo", writes=True),
    Command("models unalias {b}/lake demo production", writes=True),
]


@dataclass(frozen=True, kw_only=True)
class World:
    """A bucket with a whole lake, photos, lists, labels and a model; and the same on this machine."""

    uri: str
    moto: Moto
    folder: Path
    version: str
    """Of the model demo."""

    def argv(self, command: Command, bucket: str, new: Path) -> list[str]:
        values = {
            "b": bucket,
            "lake": self.folder / "lake",
            "photos": self.folder / "photos",
            "labels": self.folder / "labels.json",
            "model": DEMO,
            "new": new,
            "version": self.version,
            "stopped": STOPPED,
        }
        words = [word.format(**values) for word in command.line.split()]
        return [word.replace("select_count", "select count").replace("_from_", " from ") for word in words]


@pytest.fixture(scope="module")
def world(moto_s3: Moto, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    version = fingerprint("demo")
    uri = "s3://storage-errors"
    (folder / "photos").mkdir()
    (folder / "photos" / "a.png").write_bytes(solid((1, 2, 3)))
    labels = json.dumps(COCO)
    (folder / "labels.json").write_text(labels)
    with moto_s3.server.applied():
        moto_s3.server.client().create_bucket(Bucket=uri.removeprefix("s3://"))
        storage = Storage()
        for name, data in {
            "photos/a.png": solid((1, 2, 3)),
            "list.txt": f"{uri}/photos/a.png\n".encode(),
            "list.csv": f"uri\n{uri}/photos/a.png\n".encode(),
            "list.parquet": encode(pa.table({"uri": [f"{uri}/photos/a.png"]})),
            "labels.json": labels.encode(),
            "mapping.csv": b"name,uri\n",
            "model/model.json": (DEMO / "model.json").read_bytes(),
            "model/model.safetensors": (DEMO / "model.safetensors").read_bytes(),
            "lake/models/demo/aliases.json": json.dumps(
                {"schema_version": 1, "aliases": {"production": ["000000000000", version]}, "log": []}
            ).encode(),
        }.items():
            storage.write(f"{uri}/{name}", data)
        for name in ("model.safetensors", "model.json"):
            storage.write(f"{uri}/lake/models/demo/{version}/{name}", (DEMO / name).read_bytes())
        for lake in (f"{uri}/lake", str(folder / "lake")):
            _fill(LakeBuilder(lake, storage), uri, folder / "photos", version)
        _forget_s3_clients()
    return World(uri=uri, moto=moto_s3, folder=folder, version=version)


def _fill(lake: LakeBuilder, bucket: str, photos: Path, version: str) -> None:
    images = [f"{bucket}/photos/{name}.png" for name in "ab"]
    lake.part(RUN, {uri: [instance("dog", 0.6)] for uri in images})
    lake.labels([label_row(images[0], "dog", split="val"), label_row(f"{bucket}/photos/c.png", "dog")])
    lake.record(RUN)
    model = {"name": "demo", "fingerprint": version, "source": "demo", "classes": ["person"]}
    options = RowOptions().record() | {"classes": None}
    lake.record(STOPPED, state="stopped", source=f"{photos}", model=model, options=options)


Environment = dict[str, str]


def _none(world: World) -> Environment:
    return {name: value for name, value in world.moto.server.env.items() if "KEY" not in name}


def _wrong(world: World) -> Environment:
    return replace(world.moto.server, access_key="AKIAWRONG", secret_key="wrong").env


def _owner(world: World) -> Environment:
    return world.moto.server.env


def _guest(*actions: str) -> Callable[[World], Environment]:
    def user(world: World) -> Environment:
        world.moto.allow_guest(world.uri.removeprefix("s3://"), *(actions or ("s3:GetBucketLocation",)))
        return world.moto.guest.env

    return user


def _dead(world: World) -> Environment:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
    return {n: endpoint if "ENDPOINT" in n else value for n, value in world.moto.server.env.items()}


@dataclass(frozen=True, kw_only=True)
class Refusal:
    user: Callable[[World], Environment]
    message: str
    """A pattern of the reason."""
    bucket: str | None = None
    of_writes: bool = False
    code: ExitCode = ExitCode.MISTAKE


REFUSALS = {
    "no-credentials": Refusal(user=_none, message="no credentials were found"),
    "wrong-credentials": Refusal(
        user=_wrong,
        message="the server refuses the credentials|permission denied .*; check them, the credentials need",
    ),
    "missing-bucket": Refusal(user=_owner, message="does not exist; check the name", bucket="s3://absent"),
    "refused-read": Refusal(user=_guest(), message="permission denied"),
    "refused-write": Refusal(
        user=_guest("s3:GetObject", "s3:ListBucket"),
        message=r"permission denied \(AccessDenied\); these credentials need s3:PutObject",
        of_writes=True,
    ),
    "dead-endpoint": Refusal(user=_dead, message="the endpoint does not answer", code=ExitCode.FAILED),
}


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(*_: object, **__: object) -> None:
        raise AssertionError("Ray was started before the storage was asked")

    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr(endpoint, "_TRIES_AFTER_S", (0.0,))


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.usefixtures("no_ray")
def test_a_storage_that_refuses_is_one_line(
    name: str,
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    refusal, wrong = REFUSALS[name], {}
    for variable in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(variable)
    for variable, value in refusal.user(world).items():
        monkeypatch.setenv(variable, value)
    _forget_s3_clients()
    for command in COMMANDS:
        if (refusal.of_writes and not command.writes) or (name == "refused-read" and not command.reads):
            continue
        code = main(world.argv(command, refusal.bucket or world.uri, tmp_path / "new"))
        out, err = capsys.readouterr()
        begins = f"masklake: error: {refusal.bucket or world.uri}"
        if (
            (code, out, err.count("\n")) != (refusal.code, "", 1)
            or not err.startswith(begins)
            or not re.search(refusal.message, err)
        ):
            wrong[command.line] = code, out, err
        assert not (tmp_path / "new").exists(), command
    assert wrong == {}
