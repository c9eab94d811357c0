"""Ten thousand images, and a process killed every few seconds: nothing is lost, and nobody's memory grows."""

from __future__ import annotations

import random
import re
import signal
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import psutil
import pytest
from masklake.pipeline.lake.record import new_run_id
from masklake.pipeline.storage.store import Storage

from tests.helpers.faults.processes import Driver, driving
from tests.helpers.faults.setting import title
from tests.helpers.runs import assert_exactly_once, fill

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

N = 10_000
EVERY_S = 5
COMMIT = 128
GROWTH = 30_000
"""Bytes an image that a process may grow by: 300 MB in this run; of a million images that would be 30 GB."""
Samples = dict[str, list[tuple[int, int]]]
"""Of each kind of process, or of each driver: images in the lake, and resident bytes of the largest."""


def kind(process: psutil.Process) -> str:
    """A process as the table names it."""
    text = title(process)
    found = re.match(r"ray::(?:MapWorker\()?(?:MapBatches\()?(\w+)", text)
    if found:
        return found[1]
    return "driver" if "faults.driver" in text else ""


def sample(driver: Driver, done: int, samples: Samples) -> None:
    largest: dict[str, int] = defaultdict(int)
    for process in driver.family():
        try:
            name, resident = kind(process), process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
        largest[name] = max(largest[name], resident)
    for name in ("driver", "Infer", "Ledger"):
        if largest[name]:
            samples[name].append((done, largest[name]))


def test_ten_thousand_images_and_a_fault_every_five_seconds(tmp_path: Path) -> None:
    fill(tmp_path / "photos", N)
    uris = [str(path) for path in sorted((tmp_path / "photos").iterdir())]
    lake, run = str(tmp_path / "lake"), new_run_id()
    rnd, kills = random.Random(5), 0  # noqa: S311  # which process to kill
    samples: Samples = defaultdict(list)
    began = time.monotonic()
    sizes = ["--packet-images", 16, "--commit-images", COMMIT]
    with driving(tmp_path / "photos", lake, run, *sizes) as driver:
        next_fault = 0.0
        while driver.process.poll() is None:
            done = COMMIT * len(Storage().list(f"{lake}/images/run={run}"))
            if done:
                sample(driver, done, samples)
                next_fault = next_fault or time.monotonic() + EVERY_S
            if done and time.monotonic() > next_fault:
                if workers := [p for p in driver.workers() if not re.search("Agent|IDLE", title(p))]:
                    driver.signal(signal.SIGKILL, rnd.choice(workers))
                    kills += 1
                next_fault += EVERY_S
            time.sleep(1)
        result = driver.result()
    assert (result["state"], result["counts"]) == ("complete", {"ok": N}), result
    assert_exactly_once(lake, run, uris)
    print(f"{N:,} images, {kills} kills, {time.monotonic() - began:.0f} s")
    for name, pairs in samples.items():
        steady = [(done, resident) for done, resident in pairs if done > N / 4] or pairs
        done, resident = np.array(steady, float).T
        slope = np.polyfit(done, resident, 1)[0] if len(set(done)) > 1 else 0.0
        print(
            f"{name}: {resident[0] / 1e6:.0f} to {resident[-1] / 1e6:.0f} MB, {slope / 1e3:+.2f} MB per 1,000 images"
        )
        assert slope < GROWTH, f"{name} grows"
