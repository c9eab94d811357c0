"""Runs in processes of this machine alone: whatever dies or raises, every image has one row, and the reason is told."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest
from masklake.pipeline.errors import UserError
from masklake.pipeline.segment.job import Progress
from masklake.pipeline.segment.local_engine import LocalEngine
from masklake.pipeline.segment.local_worker import CallingLedger
from masklake.pipeline.segment.planned import Planned
from masklake.pipeline.segment.run import run
from masklake.pipeline.storage.store import Storage

from tests.helpers.faults.processes import driving
from tests.helpers.faults.table import struck
from tests.helpers.images import solid
from tests.helpers.predictors import ENDLESS, POISON, ContentPredictor
from tests.helpers.runs import SMALL, assert_exactly_once, execute, fill, make_job, resume_job, table

WORKER = "masklake.pipeline.segment.local_worker"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    fill(tmp_path / "photos", 40)
    return tmp_path / "photos"


@pytest.fixture
def lake(tmp_path: Path) -> str:
    return str(tmp_path / "lake")


def _uris(folder: Path) -> list[str]:
    return [str(path) for path in sorted(folder.iterdir())]


def _workers(parent: int | None = None) -> list[psutil.Process]:
    children = psutil.Process(parent).children()
    return [process for process in children if WORKER in process.cmdline()]


def test_only_images_over_which_a_process_has_died_are_asked_about() -> None:
    driver = mock.Mock()
    driver.ask.return_value = 1
    ledger = CallingLedger(driver, {7})
    assert ledger.begin("decode", (1, 2)) == 0
    driver.tell.assert_called_once_with("begin", "decode", (1, 2))
    driver.ask.assert_not_called()
    assert ledger.begin("decode", (2, 7)) == 1
    driver.ask.assert_called_once_with("begin", "decode", (2, 7))


def test_images_that_kill_their_worker_get_a_row_that_says_so(photos: Path, lake: str) -> None:
    """Two in one packet, one in another, and the rest of both packets is done."""
    for name in ("00005a.png", "00006a.png", "00030a.png"):
        (photos / name).write_bytes(solid(POISON, (8, 8)))
    struck()
    job = make_job(str(photos), lake)
    record, _ = execute(job, SMALL, LocalEngine)
    assert (record.state, record.error, record.engine) == ("complete", None, "local")
    assert assert_exactly_once(lake, record.run, _uris(photos)) == {"ok": 40, "failed": 3}
    failed = table(lake, "images", record.run).filter(
        [status == "failed" for status in table(lake, "images", record.run)["status"].to_pylist()]
    )
    assert set(failed["error"].to_pylist()) == {
        "its infer worker was killed 2 times over it alone, or took longer than 300 s"
    }
    assert _workers() == []


def test_an_image_that_holds_its_worker_for_ever_gets_a_row_that_says_so(photos: Path, lake: str) -> None:
    (photos / "00011a.png").write_bytes(solid(ENDLESS, (8, 8)))
    struck()
    record, _ = execute(make_job(str(photos), lake), replace(SMALL, image_seconds=0.5), LocalEngine)
    assert (record.state, record.error) == ("complete", None)
    assert assert_exactly_once(lake, record.run, _uris(photos)) == {"ok": 40, "failed": 1}
    errors = [error for error in table(lake, "images", record.run)["error"].to_pylist() if error]
    assert errors == ["its infer worker was killed 2 times over it alone, or took longer than 0.5 s"]
    assert _workers() == []


def test_a_worker_that_is_killed_from_outside_costs_no_image(photos: Path, lake: str) -> None:
    killed: list[int] = []

    def watch(progress: Progress) -> None:
        if progress.snapshot.get("counts") and len(killed) < 2:
            struck()
            for process in _workers():
                process.kill()
                killed.append(process.pid)

    job = make_job(str(photos), lake, seconds=0.1)
    record, _ = run(job, Planned(job), SMALL, watch, LocalEngine)
    assert killed
    assert (record.state, record.error) == ("complete", None)
    assert assert_exactly_once(lake, record.run, _uris(photos)) == {"ok": 40}


class Faulty:
    """A predictor with a bug."""

    def predict(self, images: Any, frames: Any = None) -> list[Any]:
        raise ZeroDivisionError("a bug in the model")


class NotLoadable:
    def __init__(self) -> None:
        raise UserError("weights.safetensors: is broken; fetch it again")


class Killed:
    def __init__(self) -> None:
        print("no memory left", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        pytest.param(Faulty, "ZeroDivisionError: a bug in the model", marks=pytest.mark.slow),
        (NotLoadable, "weights.safetensors: is broken; fetch it again"),
        (
            Killed,
            "the predictor's process ended 3 times before it began with an image (SIGKILL; its last words: "
            "no memory left); is there memory enough?",
        ),
    ],
)
def test_a_predictor_that_cannot_work_fails_the_run_with_its_reason(
    photos: Path, lake: str, factory: Callable[[], Any], said: str
) -> None:
    record, _ = execute(replace(make_job(str(photos), lake), predictor=factory), SMALL, LocalEngine)
    assert (record.state, record.error) == ("failed", said)
    assert _workers() == []
    resumed, _ = execute(resume_job(lake, record.run), SMALL, LocalEngine)
    assert resumed.state == "complete"
    assert_exactly_once(lake, record.run, _uris(photos))


@pytest.mark.parametrize("signal_", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_stops_the_run_and_resume_finishes_it(photos: Path, lake: str, signal_: int) -> None:
    """The first Ctrl-C keeps what is done, though no part is full; SIGTERM ends at once. Then Ray's engine would do as well."""
    job = make_job(str(photos), lake, seconds=0.1)
    sent = threading.Event()

    def watch(progress: Progress) -> None:
        if progress.snapshot.get("stages", {}).get("infer", {}).get("images") and not sent.is_set():
            sent.set()
            struck()
            os.kill(os.getpid(), signal_)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        record, _ = run(job, Planned(job), replace(SMALL, commit_images=1000), watch, LocalEngine)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (record.state, record.error) == ("stopped", None)
    assert _workers() == []
    kept = table(lake, "images", record.run).num_rows if record.counts else 0
    assert (kept > 0) == (signal_ == signal.SIGINT)
    assert kept < 40
    resumed, progress = execute(resume_job(lake, record.run), SMALL, LocalEngine)
    assert (resumed.state, progress.skipped) == ("complete", kept)
    assert_exactly_once(lake, record.run, _uris(photos))


def test_workers_end_with_a_driver_that_is_killed(photos: Path, lake: str) -> None:
    job = make_job(str(photos), lake)
    with driving(str(photos), lake, job.record.run, "--seconds", 0.1, "--local") as driver:
        driver.wait_until(lambda: Storage().list(f"{lake}/images"))
        workers = _workers(driver.process.pid)
        assert workers
        driver.kill()
        psutil.wait_procs(workers, timeout=60)
        assert not any(worker.is_running() and worker.status() != "zombie" for worker in workers)
    resumed, progress = execute(resume_job(lake, job.record.run), SMALL, LocalEngine)
    assert resumed.state == "complete"
    assert progress.skipped >= 8
    assert_exactly_once(lake, job.record.run, _uris(photos))


@dataclass
class Counted(ContentPredictor):
    """Leaves a file for each process that predicts."""

    folder: str = ""

    def predict(self, images: Any, frames: Any = None) -> list[Any]:
        Path(self.folder, str(os.getpid())).touch()
        time.sleep(0.05)
        return super().predict(images, frames)


def test_every_worker_has_its_share(photos: Path, lake: str, tmp_path: Path) -> None:
    (tmp_path / "seen").mkdir()
    job = replace(make_job(str(photos), lake), predictor=_counting(tmp_path / "seen"))
    record, _ = execute(job, replace(SMALL, actors=(3, 3), packet_images=2), LocalEngine)
    assert record.state == "complete"
    assert record.stages["infer"]["workers"] == 3
    assert len(list((tmp_path / "seen").iterdir())) == 3


def _counting(folder: Path) -> Callable[[], Counted]:
    import functools

    return functools.partial(Counted, folder=str(folder))
