"""Training and measuring on a cluster: submitted, stopped, resumed, and the node that trains is switched off."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from masklake.jobs.cli import main
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.storage.store import Storage
from masklake.pipeline.train import dataset as training_set
from masklake.pipeline.train.record import TrainingRecord, load, record_uri
from masklake.pipeline.train.shuffle import BatchOrder
from masklake.pipeline.train.worker import Position

from tests.conftest import Bucket, CliResult
from tests.helpers import trainings
from tests.helpers.faults.laptop import Laptop
from tests.helpers.faults.table import struck
from tests.helpers.servers.ray_nodes import RayNodes, ray_nodes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize("s3_bucket", [pytest.param("rgw", marks=pytest.mark.rgw)], indirect=True),
]

BATCH = 4
TINY = ("--backbone", "tiny", "--batch-size", str(BATCH), "--name", "t")
OFTEN = ("--checkpoint-minutes", "0.03")


@pytest.fixture
def lake(s3_bucket: Bucket, tmp_path: Path) -> str:
    """Scenes and their labels in a bucket."""
    assert main(["scenes", str(tmp_path / "scenes"), "--images", "48", "--seed", "3"]) == 0
    for file in (tmp_path / "scenes").glob("*.jpg"):
        s3_bucket.put(f"photos/{file.name}", file.read_bytes())
    uri = f"{s3_bucket.uri}/lake"
    for split, truth in trainings.truths(tmp_path).items():
        options = ["--uri-prefix", f"{s3_bucket.uri}/photos/", "--split", split]
        assert main(["labels", "import", str(truth), uri, *options]) == 0
    return uri


def digest_of(lake: str, steps: int) -> str:
    """What the first `steps` batches of a training are called, by their definition."""
    labels = training_set.gather(Lake(lake, Storage()), classes=None, as_of=None, shuffled=None)
    order, position = BatchOrder(len(labels), BATCH, 1, labels.wide), Position()
    for step in range(steps):
        position.digest = position.after(order.of_step(step).tobytes())
    return position.digest


def await_checkpoint(cluster: RayNodes, lake: str, run: str) -> str:
    """The name of the first checkpoint in which something was learnt."""
    cluster.wait_until(lambda: Storage().exists(record_uri(lake, run)), 120)  # the run's id is printed before
    record = load(lake, run, Storage())

    def newest() -> str | None:
        names = trainings.checkpoints(record)
        return names[-1] if names and names[-1] > "step-00000000" else None

    return str(cluster.wait_until(newest, 120))


def assert_done(record: TrainingRecord, attempt: int, steps: int) -> None:
    """It made all steps, each with the batch that it should have."""
    trainings.counted_steps(record, steps)
    assert (record.state, record.attempt) == ("complete", attempt)
    assert (record.position["step"], record.position["digest"]) == (steps, digest_of(record.lake, steps))
    assert record.position["images"] == steps * BATCH
    assert trainings.versions(record.lake) == [record.model]


def trainers(cluster: RayNodes) -> dict[str, str]:
    """The nodes of the workers that train now, by the workers' ids."""
    names = cluster.node_ids()
    return {
        actor["actor_id"]: names[actor["node_id"]]
        for actor in cluster.listed("actors", state="ALIVE")
        if "RayTrainWorker" in actor["class_name"] and actor["node_id"] in names
    }


def test_a_training_is_submitted_stopped_resumed_and_measured(
    s3_bucket: Bucket, lake: str, run_cli: Callable[..., CliResult]
) -> None:
    with ray_nodes(s3=s3_bucket.server) as cluster:
        cluster.add("one", 1)
        cluster.add("two", 1)
        masklake = Laptop(cluster=cluster, run_cli=run_cli)
        first = masklake.submit("train", lake, *TINY, *OFTEN, "--steps", "80")
        run = masklake.run_of(first)
        await_checkpoint(cluster, lake, run)
        stopped = masklake("jobs", "stop", first)
        assert stopped.code == 0
        record = load(lake, run, Storage())
        assert record.state == "stopped"
        assert 0 < record.position["step"] < 80
        [hint] = [line for line in stopped.stderr.splitlines() if "go on with" in line]
        again = shlex.split(hint.partition("go on with: masklake ")[2])
        assert again == ["submit", "train", lake, "--resume", run]

        second = masklake.submit(*again[1:])
        done = masklake("jobs", "logs", second, "--follow")
        assert done.code == 0, done.stdout + done.stderr
        assert f"attempt 2 from step {record.position['step']}:" in done.stdout
        record = load(lake, run, Storage())
        assert_done(record, attempt=2, steps=80)
        assert (
            Counter(step for step, _ in trainings.events(record)["loss/mask"])[1] == 1
        )  # no step was made twice

        measured = masklake("submit", "--wait", "eval", lake, "--model", str(record.model))
        assert measured.code == 0, measured.stdout + measured.stderr
        unknown = masklake("submit", "--wait", "eval", lake, "--run", "20200101T000000-abcdef")
        assert unknown.code == 2, unknown.stdout + unknown.stderr


def test_the_node_that_trains_is_switched_off(
    s3_bucket: Bucket, lake: str, run_cli: Callable[..., CliResult]
) -> None:
    """Two workers on two nodes of three; what is left goes on from the checkpoint."""
    with ray_nodes(s3=s3_bucket.server) as cluster:
        for name in ("one", "two", "three"):
            cluster.add(name, 1)
        masklake = Laptop(cluster=cluster, run_cli=run_cli)
        job = masklake.submit("train", lake, *TINY, *OFTEN, "--workers", "1:2", "--steps", "40")
        run = masklake.run_of(job)
        cluster.wait_until(lambda: trainers(cluster), 120)
        first = await_checkpoint(cluster, lake, run)
        before = trainers(cluster)
        began = time.monotonic()
        struck()
        cluster.kill(sorted(before.values())[0])
        done = masklake("jobs", "logs", job, "--follow")
        print(
            f"trained by {before}, killed after {first}; {time.monotonic() - began:.0f} s from the kill to the end"
        )
        assert done.code == 0, done.stdout + done.stderr
    assert_done(load(lake, run, Storage()), attempt=1, steps=40)
