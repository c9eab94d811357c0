"""`masklake train`: what it refuses, and one training from labels to a stored, measured model."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from masklake.jobs.train import promotion
from masklake.pipeline.errors import UserError
from masklake.pipeline.storage.store import Storage
from masklake.pipeline.train import record as training_record

from tests.conftest import CliResult
from tests.helpers import trainings
from tests.helpers.lakes import LakeBuilder, empty_label_row, label_row

Masklake = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    trainings.scenes_lake(folder, images=48)
    return folder


@pytest.fixture
def lake(scenes: Path, tmp_path: Path) -> str:
    """The labels of 48 scenes, in a lake of this test's own."""
    shutil.copytree(scenes / "lake", tmp_path / "lake")
    return str(tmp_path / "lake")


def labelled(tmp_path: Path, *rows: dict) -> str:
    builder = LakeBuilder(str(tmp_path / "lake"))
    builder.labels(list(rows))
    return builder.uri


def refused(masklake: Masklake, *args: str | Path) -> str:
    """The message of a mistake; nothing of a training is left in the lake."""
    code, out, err = masklake("train", *args)
    assert code == 2, out + err
    assert not (Path(args[0]) / "runs").exists()
    return err


def test_without_labels_there_is_nothing_to_learn(masklake: Masklake, tmp_path: Path) -> None:
    assert "is not a lake" in refused(masklake, tmp_path)


def test_labels_that_are_all_of_the_other_split(masklake: Masklake, tmp_path: Path) -> None:
    lake = labelled(tmp_path, label_row("/a.png", "dog", split="val"))
    message = refused(masklake, lake)
    assert "no labels of split train; all of its labelled images are of split val" in message
    assert f"masklake labels import FILE {lake}" in message


def test_images_that_hold_nothing_and_crowds_teach_nothing(masklake: Masklake, tmp_path: Path) -> None:
    lake = labelled(tmp_path, empty_label_row("/a.png"), label_row("/b.png", "dog", iscrowd=True))
    assert "the 2 labelled images of split train hold no instance" in refused(masklake, lake)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backbone", "vgg"], "--backbone vgg: unknown; known: resnet18"),
        (["--backbone-weights", "x.pth"], "say which backbone they are of"),
        (["--backbone", "resnet18", "--backbone-weights", "no.pth"], "no.pth: no such file"),
        (["--backbone", "tiny", "--backbone-weights", "x.pth"], "but those of --model demo"),
        (["--backbone", "tiny", "--classes", "person,unicorn"], "--classes unicorn: no instance"),
        (["--backbone", "tiny", "--classes", "persn"], "; did you mean 'person'?"),
        (["--backbone", "tiny", "--max-size", "300"], "--max-size 300: give --min-size too"),
        (["--backbone", "tiny", "--name", "../x"], "../x"),
        (["--model", "no-such-model"], "no-such-model"),
        (["--backbone", "tiny", "--flip-pairs", "nose:tail"], "--flip-pairs: there is no keypoint 'tail'"),
        (["--resume", "last"], "has no training yet"),
        (["--resume", "20261101T000000-aaaaaa"], "has no training '20261101T000000-aaaaaa'"),
    ],
)
def test_mistakes_are_told_before_anything_is_made(
    masklake: Masklake, lake: str, options: list[str], message: str
) -> None:
    assert message in refused(masklake, lake, *options)


def test_a_promotion_needs_something_to_measure(masklake: Masklake, tmp_path: Path) -> None:
    rows = [label_row("/a.png", "dog"), label_row("/b.png", "cat", split="val")]
    message = refused(masklake, labelled(tmp_path, *rows), "--promote")
    assert "split val hold none of the classes that are learnt" in message


def test_a_result_that_could_not_be_promoted_is_told_before_it_is_trained(
    masklake: Masklake, lake: str
) -> None:
    from masklake.pipeline.lake.registry import Registry

    registry = Registry(lake, Storage())
    registry.add("photos", "0123456789ab", {"model.json": b"{}", "model.safetensors": b""})
    version = registry.find("photos@0123456789ab")
    assert version is not None
    registry.promote(version, "production", registry.aliases("photos"))
    tiny = ("--backbone", "tiny", "--promote")
    message = refused(masklake, lake, *tiny)
    assert "production is the alias of the model 'photos'" in message
    assert "give 'model' another by --alias" in message
    assert "--name says of which model" in message
    assert "--alias coco: is the name of a preset" in refused(masklake, lake, *tiny, "--alias", "coco")
    assert "alias name '../x'" in refused(masklake, lake, *tiny, "--alias", "../x")


def test_weights_of_another_backbone_are_refused(masklake: Masklake, lake: str, tmp_path: Path) -> None:
    import torch

    file = tmp_path / "other.pth"
    torch.save({"features.0.weight": torch.zeros(3)}, file)
    message = refused(masklake, lake, "--backbone", "mobilenet_v2", "--backbone-weights", file)
    assert "it is another backbone's" in message


def test_weights_that_would_run_code_are_refused(masklake: Masklake, lake: str, tmp_path: Path) -> None:
    import pickle

    file = tmp_path / "evil.pth"
    file.write_bytes(pickle.dumps(shutil.rmtree, protocol=2))
    message = refused(masklake, lake, "--backbone", "resnet18", "--backbone-weights", file)
    assert "damaged, or more than weights" in message


def test_flip_pairs_are_the_options_or_those_that_the_names_tell(lake: str, tmp_path: Path) -> None:
    from masklake.jobs.train.start import Origin, build
    from masklake.model.coco import FLIP_PAIRS
    from masklake.pipeline.lake.lake import Lake
    from masklake.pipeline.train import dataset

    def pairs(lake_uri: str, text: str | None) -> tuple[object, bool]:
        labels = dataset.gather(Lake(lake_uri, Storage()))
        spec = build(Origin(model=None, backbone="tiny"), labels, "t", None, 1, text).spec
        return spec.flip_pairs, spec.mirror is not None

    assert pairs(lake, None) == (FLIP_PAIRS, True)
    assert pairs(lake, "none") == ((), True)
    assert pairs(lake, "left_eye:right_eye") == (((1, 2),), True)
    numbered = [{"name": str(i), "x": 9.0, "y": 9.0, "visibility": 2} for i in range(3)]
    other = labelled(tmp_path / "other", label_row("/a.png", "person", keypoints=numbered))
    assert pairs(other, None) == (None, False)  # nothing is mirrored, which the training says
    assert pairs(other, "0:2") == (((0, 2),), True)


def _record(lake: str, **fields: object) -> None:
    training_record.save(trainings.a_record(lake, **fields), Storage())


def test_what_is_complete_is_not_resumed(masklake: Masklake, lake: str) -> None:
    _record(lake, state="complete", model="t@0123456789ab")
    code, _, err = masklake("train", lake, "--resume", "last")
    assert code == 2
    assert "is complete (t@0123456789ab); start a new one with --model t@0123456789ab" in err


@pytest.mark.parametrize(
    "options",
    [
        ["--steps", "50"],
        ["--batch-size", "4"],
        ["--learning-rate", "0.1"],
        ["--classes", "dog"],
        ["--flip-pairs", "none"],
    ],
)
def test_a_resumed_training_has_the_options_that_it_had(
    masklake: Masklake, lake: str, options: list[str]
) -> None:
    _record(lake, state="stopped")
    code, _, err = masklake("train", lake, "--resume", "last", *options)
    assert code == 2
    assert f"was started with other options than {options[0]}" in err


@pytest.mark.parametrize("state", ["running", "trained"])
def test_a_training_has_one_driver(masklake: Masklake, lake: str, state: str) -> None:
    _record(lake, state=state, host="another-machine")
    code, _, err = masklake("train", lake, "--resume", "last")
    assert code == 2
    assert "on another-machine, last heard of" in err


def test_runs_lists_trainings(masklake: Masklake, lake: str) -> None:
    decision = {
        "metric": "mask.AP",
        "margin": 0.005,
        "candidate": 0.31,
        "production": 0.4,
        "promoted": False,
        "production_model": "t@ffffffffffff",
    }
    _record(
        lake,
        state="complete",
        model="t@0123456789ab",
        position={"step": 100, "images": 800, "seconds": 61.0, "digest": "x"},
        figures={"mask": {"AP": 0.31, "AP50": 0.5}},
        decision=decision,
    )
    code, out, _ = masklake("runs", lake)
    assert code == 0
    assert out.splitlines()[-1].split()[:6] == [
        "20261101T000000-aaaaaa", "complete", "t@0123456789ab", "not", "promoted", "100",
    ]  # fmt: skip
    _, out, _ = masklake("runs", lake, "--json")
    [listed] = json.loads(out)
    assert (listed["kind"], listed["decision"]) == ("train", decision)
    _, out, _ = masklake("run", "show", lake, "20261101T000000-aaaaaa")
    assert "not promoted: production stays: mask.AP 0.310; t@ffffffffffff has 0.400; margin 0.005" in out
    assert "go on with" not in out


def test_runs_tells_how_to_go_on_with_a_training(masklake: Masklake, lake: str) -> None:
    _record(lake, state="running", updated_at="2026-11-01T00:00:00+00:00")
    _, out, _ = masklake("runs", lake)
    assert "20261101T000000-aaaaaa: no sign of life for" in out
    _, out, _ = masklake("run", "show", lake, "20261101T000000-aaaaaa")
    assert f"go on with:  masklake train {lake} --resume 20261101T000000-aaaaaa" in out


FIGURES = {"mask": {"AP": 0.5, "AP50": 0.7}, "box": {"AP": 0.6}, "keypoints": None}


@pytest.mark.parametrize(
    ("production", "promoted"), [(None, True), (0.495, True), (0.4951, False), (0.5, False), (0.9, False)]
)
def test_the_gate(production: float | None, promoted: bool) -> None:
    before = production if production is None else {"mask": {"AP": production}}
    decision = promotion.decide("mask.AP", 0.005, FIGURES, before)
    assert (decision["promoted"], decision["candidate"], decision["production"]) == (
        promoted,
        0.5,
        production,
    )


def test_a_metric_that_the_split_does_not_have() -> None:
    with pytest.raises(UserError, match=r"--metric keypoints\.AP: is not defined on split val"):
        promotion.decide("keypoints.AP", 0.0, FIGURES, None)


def test_from_labels_to_a_model(
    lake: str, scenes: Path, run_cli: Callable[..., CliResult], tmp_path: Path
) -> None:
    """One class, an image that is gone and one that is broken: the rest is learnt, and the result is measured."""
    gathered = trainings.lake_of(lake)
    from masklake.pipeline.train import dataset as training_set

    uris = training_set.gather(gathered).uris(range(4))
    moved = scenes / "gone.png"
    broken, gone = Path(uris[0]), Path(uris[1])
    kept = broken.read_bytes()
    gone.rename(moved)
    broken.write_bytes(kept[:200])
    try:
        result = run_cli(
            "train", lake, "--backbone", "tiny", "--epochs", "1", "--batch-size", "4", "--classes", "person",
            "--name", "people", "--half", "--out", "out",
        )  # fmt: skip
    finally:
        moved.rename(gone)
        broken.write_bytes(kept)
    assert result.code == 0, result.stdout + result.stderr
    record = trainings.only(lake)
    assert f"note: {gone} was left out: gone since it was labelled" in result.stdout
    assert record.skipped[str(broken)].startswith("cannot be decoded")
    assert len(record.skipped) == 2
    used = tomllib.loads((Path(lake) / "runs" / record.run / "options.toml").read_text())
    assert (used["backbone"], used["epochs"], used["classes"]) == ("tiny", 1.0, ["person"])
    assert used["learning-rate"] == record.options["recipe"]["learning_rate"]
    images = record.data["images"]
    assert record.state == "complete"
    assert record.model
    assert record.position["step"] == images // 4
    assert record.data["classes"].keys() == {"person"}
    assert 0 <= record.figures["mask"]["AP"] <= 1
    assert {"box", "mask", "keypoints"} <= {k for k, v in record.figures.items() if v}
    spec = trainings.spec(record)
    assert [info["name"] for info in spec["classes"]] == ["person"]
    assert spec["metrics"]["mask"] == record.figures["mask"]
    assert spec["lineage"]["digest"] == record.position["digest"]
    assert trainings.checkpoints(record) == [], "nothing of a complete training is gone on with"
    assert not any(file.is_file() for file in (Path(lake) / "runs" / record.run / "start").rglob("*"))
    steps = [step for step, _ in trainings.events(record)["loss/mask"]]
    assert steps == list(range(1, record.position["step"] + 1))
    assert f"masklake models promote {lake} {record.model}" in result.stdout
    assert (tmp_path / "out" / "model.json").read_text() == (
        Path(lake) / "models" / record.model.replace("@", "/") / "model.json"
    ).read_text()
