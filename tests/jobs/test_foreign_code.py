"""Whatever lies in the folder where a command is run: none of it is imported, neither by the command nor by Ray's workers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import trainings
from tests.helpers.servers.ray_nodes import ray_nodes
from tests.helpers.traps import Traps

MASKLAKE = [str(Path(sys.executable).parent / "masklake")]
MODULE = [sys.executable, "-m", "masklake"]
SMALL = (
    "--backbone",
    "tiny",
    "--steps",
    "2",
    "--batch-size",
    "2",
    "--min-size",
    "128",
    "--precision",
    "float32",
)


@pytest.fixture
def traps(tmp_path: Path) -> Traps:
    return Traps(tmp_path / "here")


def run(traps: Traps, *args: str | Path, program: list[str] = MASKLAKE, **env: str) -> str:
    """What the command prints, run among the traps as a user has it: without the tests' PYTHONPATH."""
    process = subprocess.run(
        [*program, *map(str, args)],
        cwd=traps.folder,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert traps.sprung() == ""
    assert process.returncode == 0, process.stdout[-4000:] + process.stderr[-4000:]
    return process.stdout


def test_commands_without_ray(traps: Traps, tmp_path: Path) -> None:
    trainings.scenes_lake(tmp_path, images=6)
    count = ("query", "select count(*) n from labelled", "--lake", tmp_path / "lake", "--format", "csv")
    assert run(traps, *count) == '"n"\n6\n'
    # Python itself looks for some of its own modules there, before it runs ours.
    other_traps = Traps(tmp_path / "there", standard=False)
    assert run(other_traps, *count, program=MODULE) == '"n"\n6\n'


@pytest.mark.slow
def test_embedded(traps: Traps, tmp_path: Path) -> None:
    lake = trainings.scenes_lake(tmp_path, images=6)
    assert "complete: 6 of 6" in run(
        traps, "segment", tmp_path / "scenes", lake, "--model", "demo", "--gpus", "0"
    )
    run(traps, "train", lake, *SMALL, "--name", "t", "--gpus", "0")


@pytest.mark.slow
def test_submitted(traps: Traps, tmp_path: Path) -> None:
    """Masklake sent along, and as it is installed on the nodes."""
    lake = trainings.scenes_lake(tmp_path, images=6)
    with ray_nodes(cpus=2) as cluster:
        submit = ("submit", "--address", cluster.address, "--wait", "--shared-files")
        segment = ("segment", tmp_path / "scenes", lake, "--model", "demo", "--gpus", "0")
        assert "complete: 6 of 6" in run(traps, *submit, *segment, **cluster.env)
        train = ("train", lake, *SMALL, "--name", "t", "--gpus", "0")
        run(traps, *submit, "--image-has-it", *train, **cluster.env)
