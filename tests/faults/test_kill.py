"""SIGKILL and worse, at every moment of a run over S3: each image once, none doubled, the proof clean."""

from __future__ import annotations

import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from masklake.jobs.demo.loopback_s3 import LoopbackS3
from masklake.pipeline.lake.record import new_run_id

from tests.conftest import Bucket, _client
from tests.helpers.faults.setting import Setting, new_setting, title
from tests.helpers.images import solid
from tests.helpers.predictors import ENDLESS, POISON
from tests.helpers.runs import assert_exactly_once, part_names, table
from tests.helpers.servers import rgw

pytestmark = pytest.mark.slow

INFER = "ray::MapWorker(MapBatches(Infer))"
N = 96
PARTS = N // 8


@pytest.fixture
def setting(s3_bucket: Bucket) -> Setting:
    return new_setting(s3_bucket, N)


def test_driver_killed_while_it_lists(setting: Setting) -> None:
    with setting.drive("--list-seconds", 0.1) as driver:
        driver.wait_until(lambda: len(setting.listed()) >= 2)
        driver.kill()
        assert not any(key.endswith("complete.json") for key in setting.listed())
        setting.finish()


@pytest.mark.parametrize("parts", [1, PARTS // 2, PARTS - 1])
def test_driver_killed_at_a_commit(setting: Setting, parts: int) -> None:
    with setting.drive("--seconds", 0.05) as driver:
        setting.await_commits(driver, parts)
        driver.kill()
        committed = table(setting.lake, "images", setting.run).num_rows
        result = setting.finish()
    assert result["skipped"] >= committed >= 8 * parts


def test_driver_killed_between_its_last_commit_and_its_record(setting: Setting) -> None:
    with setting.drive() as driver:
        setting.await_commits(driver, PARTS)
        driver.kill()
    if setting.folder.load().state == "complete":
        pytest.skip("the proof was quicker than the kill")
    assert setting.finish()["skipped"] == N


HOSTILE = [
    "photos/a b/%2B+ü*?[x].png",
    "photos//double.png",
    "photos/../up.png",
    "photos/'; drop table images; --.png",
    "photos/" + "n" * 900 + ".png",
    "photos/日本語/🖼.png",
    "photos/trailing space ",
    "photos/no suffix",
]


def test_hostile_keys_are_listed_and_resumed_like_any_other(setting: Setting) -> None:
    """The listing goes on behind a key, the resume looks rows up by it, the proof compares it."""
    for key in HOSTILE:
        setting.bucket.put(key, solid((1, 1, 1)))
    uris = sorted([*setting.uris, *(f"{setting.bucket.uri}/{key}" for key in HOSTILE)], key=str.encode)
    hostile = replace(setting, uris=uris)
    with hostile.drive("--list-seconds", 0.1) as driver:
        driver.wait_until(lambda: len(setting.listed()) >= 2)
        driver.kill()
    hostile.finish()


def test_driver_killed_again_and_again(setting: Setting) -> None:
    """Each attempt gets a little further, the stragglers of the one before still around it."""
    for attempt in range(1, 5):
        with setting.drive("--seconds", 0.03, *(["--resume"] if attempt > 1 else [])) as driver:
            setting.await_commits(driver, setting.committed() + 2)
            driver.kill()
    setting.finish(attempt=5)


def test_resumed_at_once_while_the_killed_drivers_workers_still_live(setting: Setting) -> None:
    """No pause between the kill and the next attempt, and the family of the first is not cleared away."""
    with setting.drive("--seconds", 0.05) as first:
        setting.await_commits(first, 2)
        first.kill()
        setting.finish()


def test_a_killed_drivers_processes_end_by_themselves(setting: Setting) -> None:
    with setting.drive("--seconds", 0.05) as driver:
        setting.await_commits(driver, 1)
        driver.kill()
        end = time.monotonic() + 120
        while driver.family() and time.monotonic() < end:
            time.sleep(0.2)
        assert [" ".join(p.cmdline())[:80] for p in driver.family()] == []


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_driver(setting: Setting, signal_: signal.Signals) -> None:
    with setting.drive("--seconds", 0.05) as driver:
        setting.await_commits(driver, 2)
        driver.signal(signal_)
        result = driver.result()
        assert driver.process.returncode == 130
        assert (result["state"], result["error"]) == ("stopped", None)
        assert driver.family() == []
    images, instances = (part_names(setting.lake, t, setting.run) for t in ("images", "instances"))
    assert images <= instances
    # the first Ctrl-C also commits what no part was full of
    rows = table(setting.lake, "images", setting.run).num_rows
    assert rows == 8 * len(images) or (signal_ == signal.SIGINT and rows < 8 * len(images))
    assert setting.folder.load().counts == result["counts"] == {"ok": rows}
    assert setting.finish()["skipped"] == rows


# ---- killed workers ----


def test_predictor_actors_killed(setting: Setting) -> None:
    with setting.drive("--seconds", 0.08) as driver:
        for parts in (1, 3, 5):
            setting.await_commits(driver, parts)
            (actor, *_) = driver.wait_until(lambda: driver.workers(INFER))
            driver.signal(signal.SIGKILL, actor)
        result = setting.whole_in_one_attempt(driver)
    assert result["counts"] == {"ok": N}


@pytest.mark.parametrize("seed", range(3))
def test_any_worker_killed(setting: Setting, seed: int) -> None:
    """Fetch, decode, encode, write, the reader of the manifest, idle ones, the predictor: none is special.

    Deaths from outside may cost no image, as long as the same one is not hit three times."""
    rnd = random.Random(seed)  # noqa: S311  # which worker to kill
    with setting.drive("--seconds", 0.05) as driver:
        setting.await_commits(driver, 1)
        for _ in range(8):
            if workers := [p for p in driver.workers() if not re.search("Ledger|Agent", title(p))]:
                driver.signal(signal.SIGKILL, rnd.choice(workers))
            time.sleep(0.4)
        result = setting.whole_in_one_attempt(driver)
    assert result["counts"] == {"ok": N}


def test_the_source_killed(setting: Setting) -> None:
    """The task that reads the manifest is the oldest of all; made anew, it hands out the same packets."""
    with setting.drive("--seconds", 0.05, "--list-seconds", 0.05) as driver:
        setting.await_commits(driver, 1)
        for reader in driver.workers("ray::ReadManifest"):
            driver.signal(signal.SIGKILL, reader)
        result = setting.whole_in_one_attempt(driver)
    assert result["counts"] == {"ok": N}


def test_the_ledger_killed(setting: Setting) -> None:
    with setting.drive("--seconds", 0.05) as driver:
        for parts in (1, 4):
            setting.await_commits(driver, parts)
            for ledger in driver.wait_until(lambda: driver.workers("ray::Ledger")):
                driver.signal(signal.SIGKILL, ledger)
        result = setting.whole_in_one_attempt(driver)
    assert result["counts"] == {"ok": N}


@pytest.mark.parametrize("server", ["/raylet/raylet", "/gcs/gcs_server"])
def test_rays_own_servers_killed(setting: Setting, server: str) -> None:
    """The embedded cluster is lost with them, and so is this attempt. Ray ends the driver: after a quarter of a
    minute without its raylet, after a minute without its GCS."""
    with setting.drive("--seconds", 0.05) as driver:
        setting.await_commits(driver, 2)
        victims = [process for process in driver.family() if server in title(process)]
        assert victims
        for process in victims:
            driver.signal(signal.SIGKILL, process)
        assert driver.process.wait(timeout=300) != 0
    setting.finish()


@pytest.mark.parametrize("poison", [[50], [0], [48, 50, 51, 95]])
def test_images_that_kill_their_worker(setting: Setting, poison: list[int]) -> None:
    for i in poison:
        setting.bucket.put(f"photos/{i:05d}.png", solid(POISON, (12, 8)))
    with setting.drive() as driver:
        result = driver.result()
        assert driver.process.returncode == 0, result
    assert result["counts"] == {"ok": N - len(poison), "failed": len(poison)}
    assert_exactly_once(setting.lake, setting.run, setting.uris)
    rows = table(setting.lake, "images", setting.run).to_pylist()
    failed = {row["uri"]: row["error"] for row in rows if row["status"] == "failed"}
    assert set(failed) == {setting.uris[i] for i in poison}
    assert set(failed.values()) == {
        "its infer worker was killed 2 times over it alone, or took longer than 300 s"
    }


def test_an_image_that_holds_its_worker_for_ever(setting: Setting) -> None:
    """The predictor does not come back, and holds the interpreter's lock: the worker is ended, the image found."""
    setting.bucket.put("photos/00050.png", solid(ENDLESS, (12, 8)))
    with setting.drive("--image-seconds", 3) as driver:
        result = driver.result()
        assert driver.process.returncode == 0, result
    assert result["counts"] == {"ok": N - 1, "failed": 1}
    assert_exactly_once(setting.lake, setting.run, setting.uris)
    errors = [row["error"] for row in table(setting.lake, "images", setting.run).to_pylist() if row["error"]]
    assert errors == ["its infer worker was killed 2 times over it alone, or took longer than 3 s"]


# ---- storage that does not do what it is told ----


@pytest.fixture
def busy(use_s3: Callable[[LoopbackS3], None]) -> Iterator[Setting]:
    """A Ceph RGW that answers 503 SlowDown above four requests at once."""
    reason = rgw.available()
    if reason is not None:
        pytest.skip(reason)
    with rgw.RGW(max_concurrent=4) as host:
        use_s3(host.server)
        bucket = Bucket(name="busy", host=host, client=_client(host.server))
        bucket.client.create_bucket(Bucket=bucket.name)
        yield new_setting(bucket, 300)


@pytest.mark.rgw
def test_a_server_that_asks_to_slow_down(busy: Setting) -> None:
    with busy.drive() as driver:
        result = busy.whole_in_one_attempt(driver)
    assert result["counts"] == {"ok": 300}


@pytest.mark.parametrize("s3_bucket", ["moto"], indirect=True)  # on RGW the guest owns what it wrote
def test_the_right_to_write_is_lost_midway(setting: Setting, use_s3: Callable[[LoopbackS3], None]) -> None:
    owner = setting.bucket.server
    reading = ("s3:ListBucket", "s3:GetObject")
    setting.bucket.allow_guest(*reading, "s3:PutObject", "s3:DeleteObject")
    use_s3(setting.bucket.guest)
    with setting.drive("--seconds", 0.05) as driver:
        setting.await_commits(driver, 2)
        setting.bucket.allow_guest(*reading)
        result = driver.result()
        assert driver.process.returncode in (1, 2), result
        assert "denied" in result["error"].lower()
    use_s3(owner)
    setting.finish()


@pytest.mark.parametrize("s3_bucket", ["moto"], indirect=True)  # on RGW the guest owns what it wrote
def test_the_source_may_not_be_read_midway(setting: Setting, use_s3: Callable[[LoopbackS3], None]) -> None:
    """Rights to some of the objects only: those are rows, the others are failed rows with the reason."""
    setting.bucket.allow_guest(
        "s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject", prefix="lake/"
    )
    use_s3(setting.bucket.guest)
    with setting.drive() as driver:
        result = driver.result()
    assert (result["state"], result["counts"]) == ("complete", {"failed": N})
    use_s3(setting.bucket.server)
    rows = table(setting.lake, "images", setting.run)
    assert all("permission denied" in error for error in rows["error"].to_pylist())
    retry = replace(setting, run=new_run_id())
    with retry.drive() as driver:
        result = driver.result()
    assert result["counts"] == {"ok": N}, "failed rows must not count as covered"
