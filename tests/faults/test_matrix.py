"""Each process of a run is killed again and again, and held for longer than its deadline, on both engines: nothing is lost.

What a fault hits: a local worker, the predictor's actor, a worker of another stage, the ledger, Ray's node and its head, the driver.
`test_kill.py` kills each of them at chosen moments.
"""

from __future__ import annotations

import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.lake.record import SIGN_OF_LIFE_S
from masklake.pipeline.storage.store import Storage

from tests.conftest import Bucket, CliResult
from tests.helpers.faults.processes import Driver, driving
from tests.helpers.faults.setting import Setting, new_setting, title
from tests.helpers.faults.table import counted
from tests.helpers.runs import part_names, table

pytestmark = pytest.mark.slow
ON_MOTO = pytest.mark.parametrize("s3_bucket", ["moto"], indirect=True)

N = 240
IMAGE_SECONDS = 4.0
MINUTE_S = SIGN_OF_LIFE_S + 2.0
"""For so long a process is held, unless its deadline ends it before."""
BUSY_S = 8.0


@pytest.fixture
def setting(s3_bucket: Bucket) -> Setting:
    return new_setting(s3_bucket, N)


def local_workers(driver: Driver) -> list[psutil.Process]:
    return [process for process in driver.family() if "segment.local_worker" in title(process)]


def hold(driver: Driver, seconds: float, *processes: psutil.Process) -> None:
    """SIGSTOP, and after so many seconds SIGCONT; sooner where all of them were ended meanwhile."""
    driver.signal(signal.SIGSTOP, *processes)
    if processes:
        psutil.wait_procs(processes, timeout=seconds)
    else:
        time.sleep(seconds)
    driver.signal(signal.SIGCONT, *processes)


# ---- the local engine ----


def test_local_workers_killed_through_a_whole_run(setting: Setting) -> None:
    """A worker after each pair of parts that is new in the lake."""
    rnd = random.Random(7)  # noqa: S311  # which worker to kill
    kills = 0
    with setting.drive("--local", "--seconds", 0.02) as driver:
        for parts in range(1, N // 8 - 4, 4):
            setting.await_commits(driver, parts)
            if workers := local_workers(driver):
                driver.signal(signal.SIGKILL, rnd.choice(workers))
                kills += 1
        assert setting.whole_in_one_attempt(driver)["counts"] == {"ok": N}
    assert kills > 4


@ON_MOTO
def test_local_workers_held_for_longer_than_their_deadline(setting: Setting) -> None:
    """Their clock goes on while they stand still: they end themselves, and their images are done by others."""
    with setting.drive("--local", "--seconds", 0.05, "--image-seconds", IMAGE_SECONDS) as driver:
        setting.await_commits(driver, 2)
        held = local_workers(driver)
        assert held
        hold(driver, MINUTE_S, *held)
        assert setting.whole_in_one_attempt(driver)["counts"] == {"ok": N}


def test_local_driver_killed_every_few_parts(setting: Setting) -> None:
    attempt = 0
    while setting.committed() < N // 8 - 6:
        attempt += 1
        before = setting.committed()
        with setting.drive("--local", "--seconds", 0.02, *(["--resume"] if attempt > 1 else [])) as driver:
            setting.await_commits(driver, before + 4)
            driver.kill()
    assert attempt > 3
    setting.finish("--local", attempt=attempt + 1)


@ON_MOTO
def test_a_held_driver_keeps_its_run_and_goes_on(setting: Setting) -> None:
    """Nobody can know that it will never go on, so a resume is refused at first."""
    with setting.drive("--local", "--seconds", 0.05) as driver:
        setting.await_commits(driver, 2)
        driver.signal(signal.SIGSTOP)
        with setting.drive("--local", "--resume") as second:
            refused = second.result()
        assert (second.process.returncode, refused["state"]) == (2, None)
        assert "showed life" in refused["error"]
        driver.signal(signal.SIGCONT)
        assert setting.whole_in_one_attempt(driver)["counts"] == {"ok": N}


@ON_MOTO
def test_a_driver_held_for_more_than_a_minute_is_overtaken(setting: Setting) -> None:
    """When it goes on, the run is complete, and it changes nothing."""
    with setting.drive("--local", "--seconds", 0.05) as driver:
        setting.await_commits(driver, 2)
        driver.signal(signal.SIGSTOP)
        time.sleep(MINUTE_S)
        setting.finish("--local")
        record = setting.folder.load()
        driver.signal(signal.SIGCONT)
        result = driver.result()
        assert (driver.process.returncode, result["state"]) == (130, "stopped")
    setting.assert_whole()
    assert setting.folder.load() == record


@ON_MOTO
@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT], [signal.SIGINT, signal.SIGINT]])
def test_a_local_driver_that_is_stopped(setting: Setting, signals: list[signal.Signals]) -> None:
    with setting.drive("--local", "--seconds", 0.05) as driver:
        setting.await_commits(driver, 2)
        for signal_ in signals:
            driver.signal(signal_)
            time.sleep(0.1)
        result = driver.result()
        assert driver.process.returncode == 130
        assert (result["state"], result["error"]) == ("stopped", None)
        assert driver.family() == []
    assert part_names(setting.lake, "images", setting.run) <= part_names(
        setting.lake, "instances", setting.run
    )
    rows = table(setting.lake, "images", setting.run).num_rows
    assert setting.folder.load().counts == {"ok": rows}
    assert setting.finish("--local")["skipped"] == rows


@ON_MOTO
def test_the_command_killed_and_resumed(
    s3_bucket: Bucket, tmp_path: Path, run_cli: Callable[..., CliResult]
) -> None:
    """`masklake segment`, with the demo model, twice by SIGKILL; what is said then is `--resume last`."""
    n = 120
    made = run_cli("scenes", tmp_path / "scenes", "--images", n)
    assert made.code == 0, made.stderr
    for photo in sorted((tmp_path / "scenes").glob("*.jpg")):
        s3_bucket.put(f"photos/{photo.name}", photo.read_bytes())
    source, lake = f"{s3_bucket.uri}/photos/", f"{s3_bucket.uri}/lake"
    arguments = ["segment", source, lake, "--model", "demo", "--commit-images", "8"]

    def parts() -> int:
        return len(s3_bucket.all_keys("lake/images/"))

    for attempt in range(2):
        before = parts()
        resume = ["--resume", "last"] if attempt else []
        with driving(
            *arguments[:5], *resume, *([] if attempt else arguments[5:]), module="masklake.jobs.cli"
        ) as driver:
            driver.wait_until(lambda before=before: parts() >= before + 2)
            driver.kill()
    done = run_cli(*arguments[:5], "--resume", "last")
    assert done.code == 0, done.stdout + done.stderr
    [run] = Lake(lake, Storage()).runs()
    assert run.record is not None
    assert (run.record.state, run.record.attempt) == ("complete", 3)
    images = table(lake, "images", run.id)
    rows = Counter(images["uri"].to_pylist())
    counted(n, len(images), lost=n - len(rows), doubled=len(images) - len(rows))
    assert (len(images), len(rows)) == (n, n)
    owners = Counter(table(lake, "instances", run.id)["uri"].to_pylist())
    assert [owners[uri] for uri in images["uri"].to_pylist()] == images["n_instances"].to_pylist()


# ---- Ray ----


@ON_MOTO
def test_rays_workers_held_for_longer_than_their_deadline(setting: Setting) -> None:
    """The predictor's actor, those of the other stages, and the ledger, in turn."""
    with setting.drive("--seconds", 0.05, "--image-seconds", IMAGE_SECONDS) as driver:
        for parts, name in enumerate(
            ["MapBatches(Infer)", "MapBatches(load_packet)", "ReadManifest", "Ledger"], 1
        ):
            setting.await_commits(driver, 2 * parts)
            if held := [process for process in driver.workers() if name in title(process)]:
                hold(driver, MINUTE_S, *held)
        assert setting.whole_in_one_attempt(driver)["counts"] == {"ok": N}


@ON_MOTO
def test_rays_own_servers_held(setting: Setting) -> None:
    """For seconds, as a busy machine holds them: the run goes on."""
    with setting.drive("--seconds", 0.05) as driver:
        for parts, server in enumerate(["/gcs/gcs_server", "/raylet/raylet"], 1):
            setting.await_commits(driver, 2 * parts)
            held = [process for process in driver.family() if server in title(process)]
            assert held
            hold(driver, BUSY_S, *held)
        assert setting.whole_in_one_attempt(driver)["counts"] == {"ok": N}


@ON_MOTO
@pytest.mark.parametrize("server", ["/gcs/gcs_server", "/raylet/raylet"])
def test_rays_own_servers_held_for_a_minute(setting: Setting, server: str) -> None:
    """Ray may take them for dead, and end this attempt."""
    with setting.drive("--seconds", 0.05) as driver:
        setting.await_commits(driver, 2)
        held = [process for process in driver.family() if server in title(process)]
        assert held
        hold(driver, MINUTE_S, *held)
        print("exit code", driver.process.wait(timeout=180))
    if setting.folder.load().state == "complete":
        setting.assert_whole()
    else:
        setting.finish()


@ON_MOTO
def test_a_driver_of_ray_held_and_then_killed(setting: Setting) -> None:
    with setting.drive("--seconds", 0.05) as driver:
        setting.await_commits(driver, 2)
        hold(driver, MINUTE_S)
        setting.await_commits(driver, setting.committed() + 2)
        driver.signal(signal.SIGSTOP)
        time.sleep(BUSY_S)
        driver.kill()
        setting.finish()


@pytest.mark.parametrize("s3_bucket", [pytest.param("rgw", marks=pytest.mark.rgw)], indirect=True)
def test_a_process_killed_every_two_seconds(setting: Setting) -> None:
    """Any of Ray's workers, the ledger among them, through the whole run."""
    rnd = random.Random(11)  # noqa: S311  # as above
    with setting.drive("--seconds", 0.08) as driver:
        setting.await_commits(driver, 1)
        kills = 0
        while driver.process.poll() is None and setting.committed() < N // 8 - 2:
            if workers := [p for p in driver.workers() if not re.search("Agent|IDLE", title(p))]:
                driver.signal(signal.SIGKILL, rnd.choice(workers))
                kills += 1
            time.sleep(2)
        assert setting.whole_in_one_attempt(driver)["counts"] == {"ok": N}
    assert kills > 2
