"""Trainings that are killed, stopped, starved and fed nonsense: they go on with the same batches, or say why not."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from masklake.jobs.train.command import EXIT_CODES
from masklake.pipeline.storage.store import Storage
from masklake.pipeline.train.record import TrainingRecord, load
from masklake.pipeline.train.record import trainings as ids

from tests.conftest import Bucket, CliResult
from tests.helpers import trainings
from tests.helpers.faults.processes import Driver, driving

pytestmark = pytest.mark.slow

WORKER = "ray::RayTrainWorker"
STEPS = 60
TINY = ["--backbone", "tiny", "--batch-size", "4", "--name", "t", "--learning-rate", "1e-3"]
OFTEN = ["--checkpoint-minutes", "0.03"]

RunCli = Callable[..., CliResult]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    trainings.scenes_lake(folder)
    return folder


@pytest.fixture
def lake(scenes: Path, tmp_path: Path) -> str:
    shutil.copytree(scenes / "lake" / "labels", tmp_path / "lake" / "labels")
    return str(tmp_path / "lake")


@pytest.fixture(scope="module")
def undisturbed(scenes: Path) -> TrainingRecord:
    """A training of STEPS steps that nothing happened to."""
    args = ["train", str(scenes / "lake"), *TINY, "--steps", str(STEPS)]
    with driving(*args, module="masklake.jobs.cli") as driver:
        assert "trained: t@" in driver.output()
    return trainings.only(str(scenes / "lake"))


@contextlib.contextmanager
def training(lake: str, *options: str) -> Iterator[Driver]:
    with driving("train", lake, *options, module="masklake.jobs.cli") as driver:
        yield driver


def await_checkpoint(driver: Driver, lake: str, newer_than: str = "") -> str:
    """Wait for a checkpoint that is newer; its name."""

    def newest() -> str | None:
        runs = ids(lake, Storage())
        names = trainings.checkpoints(load(lake, runs[0], Storage())) if runs else []
        return names[-1] if names and names[-1] > newer_than else None

    newest_step: str = driver.wait_until(newest)
    return newest_step


def assert_same(record: TrainingRecord, undisturbed: TrainingRecord) -> None:
    """It made the same steps, and came to the same weights, bit by bit."""
    trainings.counted_steps(record, STEPS)
    assert record.state == "complete"
    assert (record.position["step"], record.position["digest"]) == (STEPS, undisturbed.position["digest"])
    expected = trainings.weights(undisturbed)
    for name, tensor in trainings.weights(record).items():
        assert torch.equal(tensor, expected[name]), name


def test_a_killed_driver_loses_nothing(lake: str, undisturbed: TrainingRecord, run_cli: RunCli) -> None:
    """SIGKILL twice, at other places; the third attempt ends where an undisturbed training does."""
    with training(lake, *TINY, *OFTEN, "--steps", str(STEPS)) as driver:
        first = await_checkpoint(driver, lake)
        driver.kill()
    with training(lake, "--resume", "last", *OFTEN) as driver:
        await_checkpoint(driver, lake, first)
        driver.kill()
    result = run_cli("train", lake, "--resume", "last")
    assert result.code == 0, result.stdout + result.stderr
    assert "attempt 3 from step" in result.stdout
    record = trainings.only(lake)
    assert record.attempt == 3
    assert_same(record, undisturbed)


def test_a_killed_worker_is_started_again(lake: str, undisturbed: TrainingRecord) -> None:
    with training(lake, *TINY, *OFTEN, "--steps", str(STEPS)) as driver:
        await_checkpoint(driver, lake)
        [worker] = driver.workers(WORKER)
        driver.signal(signal.SIGKILL, worker)
        output = driver.output()
    assert driver.process.returncode == 0, output
    record = trainings.only(lake)
    assert record.attempt == 1
    assert_same(record, undisturbed)


def test_a_worker_that_is_killed_too_often_ends_it(lake: str) -> None:
    with training(lake, *TINY, *OFTEN, "--steps", "5000", "--max-failures", "0") as driver:
        await_checkpoint(driver, lake)
        driver.workers(WORKER)[0].kill()
        output = driver.output()
    assert driver.process.returncode == 1
    record = trainings.only(lake)
    assert record.state == "failed"
    assert f"go on with: masklake train {lake} --resume {record.run}" in output


def test_ctrl_c_makes_a_checkpoint(lake: str, undisturbed: TrainingRecord, run_cli: RunCli) -> None:
    with training(lake, *TINY, "--steps", str(STEPS), "--checkpoint-minutes", "60") as driver:
        driver.wait_until(lambda: (runs := ids(lake, Storage())) and load(lake, runs[0], Storage()).run)
        driver.wait_until(lambda: driver.workers("ray::MapWorker(MapBatches(_Loader))"))
        driver.signal(signal.SIGINT)
        output = driver.output()
    assert driver.process.returncode == 130, output
    record = trainings.only(lake)
    assert record.state == "stopped"
    assert f"the last checkpoint is kept; go on with: masklake train {lake} --resume {record.run}" in output
    assert run_cli("train", lake, "--resume", record.run).code == 0
    assert_same(trainings.only(lake), undisturbed)


def test_two_workers_see_the_same_batches(lake: str, undisturbed: TrainingRecord) -> None:
    """And when one of two is killed, both start again from the checkpoint."""
    with training(lake, *TINY, *OFTEN, "--steps", str(STEPS), "--workers", "1:2") as driver:
        await_checkpoint(driver, lake)
        workers = driver.workers(WORKER)
        assert len(workers) == 2
        driver.signal(signal.SIGKILL, workers[0])
        output = driver.output()
    assert driver.process.returncode == 0, output
    record = trainings.only(lake)
    trainings.counted_steps(record, STEPS)
    assert (record.position["step"], record.position["digest"]) == (STEPS, undisturbed.position["digest"])


def test_a_loss_that_is_no_number_stops_it(lake: str, run_cli: RunCli) -> None:
    result = run_cli(
        "train", lake, *TINY, *OFTEN, "--steps", "500", "--learning-rate", "1e12", "--warm-up", "0"
    )
    assert result.code == EXIT_CODES["diverged"] == 1, result.stdout + result.stderr
    record = trainings.only(lake)
    assert record.state == "diverged"
    assert record.error
    named = [uri for uri in record.error.partition("its images: ")[2].split(", ") if Path(uri).is_file()]
    assert len(named) == 4
    assert "a lower --learning-rate may help" in result.stdout
    assert trainings.versions(lake) == []


def test_photos_that_are_all_gone(scenes: Path, lake: str, run_cli: RunCli) -> None:
    hidden = scenes / "elsewhere"
    (scenes / "scenes").rename(hidden)
    try:
        result = run_cli("train", lake, *TINY, "--steps", "500")
    finally:
        hidden.rename(scenes / "scenes")
    assert result.code == 1, result.stdout
    record = trainings.only(lake)
    assert record.state == "failed"
    assert record.error == "32 of the first 32 images could not be had"
    assert "was left out: gone since it was labelled" in result.stdout


def test_a_disk_that_is_full(scenes: Path, tmp_path: Path, run_cli: RunCli) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this user cannot mount a small disk")
    try:
        lake = str(disk / "lake")
        shutil.copytree(scenes / "lake" / "labels", f"{lake}/labels")
        result = run_cli("train", lake, *TINY, *OFTEN, "--steps", "40", "--max-failures", "0")
        record = trainings.only(lake)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
    assert result.code in (1, 2), result.stdout + result.stderr
    assert "No space left on device" in result.stdout + result.stderr
    assert (record.state, record.model) in (("failed", None), ("running", None))


def test_a_class_that_is_new_leaves_the_others_as_they_were(lake: str, scenes: Path, run_cli: RunCli) -> None:
    """The demo model, trained further on two of its classes, by a rate of almost nothing, still knows both."""
    result = run_cli(
        "train", lake, "--model", "demo", "--steps", "1", "--classes", "person,star", "--learning-rate", "1e-9",
        "--average", "0",
    )  # fmt: skip
    assert result.code == 0, result.stdout + result.stderr
    record = trainings.only(lake)
    assert record.start["fresh"] == []
    assert record.figures["mask"]["AP50"] > 0.8
    assert record.figures["keypoints"]["AP50"] > 0.7


def test_only_what_is_better_is_promoted(lake: str, run_cli: RunCli) -> None:
    """Three nights: nothing stands yet; a good model beats it; one that learnt shuffled labels does not."""
    name = ["--name", "night", "--promote"]
    first = run_cli("train", lake, "--backbone", "tiny", "--steps", "2", *name)
    assert first.code == 0, first.stdout + first.stderr
    poor = trainings.only(lake)
    assert "promoted: mask.AP" in first.stdout
    assert "there was none" in first.stdout

    second = run_cli("train", lake, "--model", "demo", "--steps", "4", *name)
    assert second.code == 0, second.stdout + second.stderr
    good = trainings.only(lake)
    assert f"{poor.model} has 0.0" in second.stdout
    assert good.decision
    assert good.decision["promoted"]

    third = run_cli(
        "train", lake, "--steps", "40", "--learning-rate", "2e-3", "--average", "0", "--shuffle-labels",
        "--promote",
    )  # fmt: skip
    assert third.code == 0, third.stdout + third.stderr
    bad = trainings.only(lake)
    assert "not promoted: production stays" in third.stdout
    assert bad.decision
    assert not bad.decision["promoted"]
    assert bad.decision["production_model"] == good.model
    assert bad.start["from"] == good.model
    assert run_cli("models", "show", lake, "night:production").stdout.count(good.model.split("@")[1])
    assert trainings.versions(lake) == sorted([poor.model, good.model, bad.model])
    again = run_cli("train", lake, "--resume", bad.run)
    assert again.code == 2
    assert "is complete" in again.stderr


def test_over_s3(s3_bucket: Bucket, scenes: Path, run_cli: RunCli, tmp_path: Path) -> None:
    """Photos, labels, checkpoints and the model in a bucket; killed once."""
    for file in (scenes / "scenes").iterdir():
        s3_bucket.put(f"photos/{file.name}", file.read_bytes())
    lake = f"{s3_bucket.uri}/lake"
    for split, truth in trainings.truths(scenes).items():
        options = ["--uri-prefix", f"{s3_bucket.uri}/photos/", "--split", split]
        imported = run_cli("labels", "import", truth, lake, *options)
        assert imported.code == 0, imported.stderr
    with training(lake, *TINY, *OFTEN, "--steps", str(STEPS)) as driver:
        await_checkpoint(driver, lake)
        driver.kill()
    result = run_cli("train", lake, "--resume", "last", "--promote")
    assert result.code == 0, result.stdout + result.stderr
    record = trainings.only(lake)
    trainings.counted_steps(record, STEPS)
    assert (record.state, record.position["step"]) == ("complete", STEPS)
    steps = {step for step, _ in trainings.events(record)["loss/mask"]}
    assert max(steps) == STEPS
    secret = s3_bucket.server.env["AWS_SECRET_ACCESS_KEY"].encode()
    for key in s3_bucket.all_keys("lake/"):
        assert secret not in s3_bucket.get(key), key
    out = run_cli("segment", f"{s3_bucket.uri}/photos/", lake, "--model", "t:production", "--limit", "2")
    assert out.code == 0, out.stdout + out.stderr
