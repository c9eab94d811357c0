"""The RayJobs' entrypoints, run by a shell with a `masklake` that only notes its arguments."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.infra.manifests import one, overlay

SETTINGS = {
    "MASKLAKE_SOURCE": "s3://photos/a b/",
    "MASKLAKE_LAKE": "s3://lake/",
    "MASKLAKE_MODEL": "production",
    "MASKLAKE_FIRST_MODEL": "coco",
    "MASKLAKE_WORKERS": "1:4",
}
SEGMENT = shlex.split(
    "segment 's3://photos/a b/' s3://lake/ --model production --first-model coco --address auto --lock segment "
    "--actors 1:4"
)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., tuple[int, list[list[str]]]]:
    """Run a RayJob's entrypoint; its exit code, and the arguments of each `masklake`."""

    def run(rayjob: str, *, resumed: int = 0, fresh: int = 0) -> tuple[int, list[list[str]]]:
        fake, calls = tmp_path / "masklake", tmp_path / "calls"
        fake.write_text(
            f'#!/bin/sh\nfor word; do printf "%s\\0" "$word"; done >> {calls}; echo >> {calls}\n'
            f'case "$*" in *--resume*) exit {resumed};; *) exit {fresh};; esac\n'
        )
        fake.chmod(0o755)
        entrypoint = one(overlay("prod"), "RayCronJob", rayjob)["spec"]["jobTemplate"]["entrypoint"]
        # KubeRay's submitter gives it to its shell, as words of `ray job submit -- …`, which joins them again.
        words = subprocess.run(
            ["bash", "-ec", f"printf '%s\\0' {entrypoint}"],
            capture_output=True,
            text=True,
            check=True,
            env={},
        )
        command = shlex.join(words.stdout.split("\0")[:-1])
        process = subprocess.run(
            ["sh", "-c", command], env=SETTINGS | {"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False
        )
        lines = calls.read_text().splitlines()
        return process.returncode, [line.split("\0")[:-1] for line in lines]

    return run


def test_segment_goes_on_with_a_run_that_was_cut_short(
    run: Callable[..., tuple[int, list[list[str]]]],
) -> None:
    assert run("masklake-segment") == (0, [[*SEGMENT, "--resume", "last"]])


def test_segment_starts_a_run_when_there_is_none_to_go_on_with(
    run: Callable[..., tuple[int, list[list[str]]]],
) -> None:
    assert run("masklake-segment", resumed=2) == (0, [[*SEGMENT, "--resume", "last"], SEGMENT])


@pytest.mark.parametrize("code", [1, 3, 130])
def test_segment_fails_with_the_run_so_that_the_next_try_goes_on(
    run: Callable[..., tuple[int, list[list[str]]]], code: int
) -> None:
    assert run("masklake-segment", resumed=code) == (code, [[*SEGMENT, "--resume", "last"]])


def test_segment_leaves_the_work_to_the_run_that_holds_the_lock(
    run: Callable[..., tuple[int, list[list[str]]]],
) -> None:
    """A refusal (75) is no failure: KubeRay would make a new cluster with GPUs to ask again."""
    assert run("masklake-segment", resumed=75) == (0, [[*SEGMENT, "--resume", "last"]])
    assert run("masklake-segment", resumed=2, fresh=75)[0] == 0
    assert run("masklake-segment", resumed=2, fresh=3)[0] == 3


@pytest.mark.parametrize(("code", "ends"), [(0, 0), (1, 1), (75, 0)])
def test_train_leaves_the_work_to_the_training_that_holds_the_lock(
    run: Callable[..., tuple[int, list[list[str]]]], code: int, ends: int
) -> None:
    assert run("masklake-train", fresh=code)[0] == ends


def test_the_command_line_knows_these_options(run: Callable[..., tuple[int, list[list[str]]]]) -> None:
    from masklake.jobs.cli import understood

    for rayjob in ("masklake-segment", "masklake-train"):
        assert understood(run(rayjob)[1][-1]).options.cluster.address == "auto"


def test_train_promotes(run: Callable[..., tuple[int, list[list[str]]]]) -> None:
    assert run("masklake-train") == (
        0,
        [shlex.split("train s3://lake/ --promote --address auto --lock train --workers 1:4")],
    )
