"""Memory and disks that end: a worker that the machine's memory does not hold, a full object store, a full disk."""

from __future__ import annotations

import contextlib
import functools
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from masklake.model import scenes
from masklake.pipeline.segment.local_engine import LocalEngine
from masklake.pipeline.storage.store import Storage
from ray._private.utils import get_system_memory

from tests.conftest import Bucket, CliResult
from tests.helpers.faults.processes import driving
from tests.helpers.faults.setting import Setting, new_setting
from tests.helpers.faults.table import struck
from tests.helpers.images import solid
from tests.helpers.predictors import HUNGER_BYTES, HUNGRY, Starved
from tests.helpers.runs import SMALL, assert_exactly_once, execute, fill, make_job, table

pytestmark = pytest.mark.slow
ON_MOTO = pytest.mark.parametrize("s3_bucket", ["moto"], indirect=True)
N = 32


@pytest.fixture
def setting(s3_bucket: Bucket) -> Setting:
    return new_setting(s3_bucket, N)


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A disk of its own at `folder`."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user cannot mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def kill_workers_beyond(free: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Ray's memory monitor kill workers once `free` bytes more are in use on this machine than now."""
    memory = psutil.virtual_memory()
    if memory.available < 2 * HUNGER_BYTES:
        pytest.skip("this machine has not the memory to waste")
    if abs(get_system_memory() - memory.total) > HUNGER_BYTES / 4:
        pytest.skip("a container has a limit of its own, and what else lives in it is not known")
    limit = (memory.total - memory.available + free) / memory.total
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{limit:.3f}")


@ON_MOTO
def test_ray_kills_a_worker_for_its_memory(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a threshold that an image's predictor crosses and nothing else (Ray itself takes 1.3 GB): the image is found."""
    kill_workers_beyond(HUNGER_BYTES * 0.6, monkeypatch)
    setting.bucket.put("photos/00020.png", solid(HUNGRY, (12, 8)))
    struck()
    with setting.drive("--seconds", 0.02) as driver:
        result = setting.whole_in_one_attempt(driver)
    assert result["counts"] == {"ok": N - 1, "failed": 1}
    [error] = [row["error"] for row in table(setting.lake, "images", setting.run).to_pylist() if row["error"]]
    assert error.startswith("its infer worker was killed 2 times over it alone")


@ON_MOTO
def test_memory_that_others_keep(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray kills every worker: the run ends with one line that says so, and a resume with more room completes it."""
    # Far below what is in use: a test beside this one may give back what it has.
    memory = psutil.virtual_memory()
    kill_workers_beyond(-0.75 * (memory.total - memory.available), monkeypatch)
    struck()
    with setting.drive() as driver:
        result = driver.result()
    monkeypatch.delenv("RAY_memory_usage_threshold")
    print(result)
    assert result["state"] == "failed"
    assert "memory" in result["error"]
    assert "\n" not in result["error"]
    setting.finish()


@ON_MOTO
def test_an_object_store_that_is_full_spills(setting: Setting) -> None:
    for i in range(N):
        setting.bucket.put(f"photos/{i:05d}.png", solid((i % 4, 0, 0), (1000, 900)))
    struck()
    with setting.drive("--store-bytes", 80 * 2**20, "--seconds", 0.1) as driver:
        result = setting.whole_in_one_attempt(driver)
    assert result["counts"] == {"ok": N}
    assert result["spilled"] > 0


@ON_MOTO
def test_a_disk_that_is_full_while_the_object_store_spills(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes through, or ends with one line, and a resume with more room completes it."""
    for i in range(N):
        setting.bucket.put(f"photos/{i:05d}.png", solid((i % 4, 0, 0), (1000, 900)))
    with small_disk(tmp_path / "spill", "4m") as disk:
        config = {"type": "filesystem", "params": {"directory_path": str(disk)}}
        monkeypatch.setenv("RAY_object_spilling_config", json.dumps(config))
        struck()
        with setting.drive("--store-bytes", 80 * 2**20, "--seconds", 0.1) as driver:
            result = driver.result()
    monkeypatch.delenv("RAY_object_spilling_config")
    print(result)
    if result["state"] != "complete":
        assert result["error"]
        assert "\n" not in result["error"]
        setting.finish()
    setting.assert_whole()


@pytest.mark.parametrize("room", [20_000_000])
def test_a_predictor_without_memory(tmp_path: Path, room: int) -> None:
    """A limit on its process: it halves its batches, gives images up, or dies over them; each image ends as a row."""
    from masklake.jobs.models.resolve import resolve

    scenes.write(tmp_path / "scenes", N, 3)
    lake = str(tmp_path / "lake")
    uris = [str(path) for path in sorted((tmp_path / "scenes").glob("*.jpg"))]
    job = replace(
        make_job(str(tmp_path / "scenes"), lake),
        predictor=functools.partial(Starved, room),
        vocabulary=resolve("demo", Storage()).vocabulary(),
    )
    struck()
    record, _ = execute(job, replace(SMALL, actors=(1, 1), packet_images=16), LocalEngine)
    print(record.state, record.error, record.counts)
    assert (record.state, record.error) == ("complete", None)
    statuses = assert_exactly_once(lake, record.run, uris)
    assert statuses.keys() <= {"ok", "failed"}
    reasons = {row["error"] for row in table(lake, "images", record.run).to_pylist() if row["error"]}
    assert all("out of memory" in reason or "killed 2 times" in reason for reason in reasons), reasons


def test_a_disk_that_is_full_while_a_lake_is_written(
    tmp_path: Path, run_cli: Callable[..., CliResult]
) -> None:
    """One line that says so; with more room the run is resumed and whole."""
    n = 400
    fill(tmp_path / "photos", n)
    uris = [str(path) for path in sorted((tmp_path / "photos").iterdir())]
    run = "20261128T000000-aaaaaa"
    with small_disk(tmp_path / "disk", "1m") as disk:
        lake = str(disk / "lake")
        struck()
        with driving(tmp_path / "photos", lake, run, "--local") as driver:
            result = driver.result()
        assert driver.process.returncode in (1, 2)
        print(result)
        reason = "cannot write to the lake: No space left on device; make room, or choose another folder"
        assert result["error"] == f"{lake}: {reason}"
        assert [str(path) for path in disk.rglob("*.tmp")] == []
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        with driving(tmp_path / "photos", lake, run, "--local", "--resume") as driver:
            result = driver.result()
        assert driver.process.returncode == 0, result
        assert_exactly_once(lake, run, uris)
