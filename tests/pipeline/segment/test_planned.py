"""Listing and stages share a driver, and drivers share a lake."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.segment import planned
from masklake.pipeline.segment.planned import Planned, let_stages_begin
from masklake.pipeline.storage.store import Storage

from tests.helpers.paths import ROOT
from tests.helpers.runs import fill, make_job


def _looks(monkeypatch: pytest.MonkeyPatch, images: int, begun_at: int, since: float) -> int:
    """How often the listing looks whether the stages have begun, which they have at the look `begun_at`."""
    looks = 0

    def begun() -> bool:
        nonlocal looks
        looks += 1
        return looks >= begun_at

    monkeypatch.setattr(planned, "_LOOK_AGAIN_S", 0.001)
    let_stages_begin(images, begun, since)
    return looks


def test_a_large_listing_waits_until_the_stages_have_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _looks(monkeypatch, 2**15, 5, time.monotonic()) == 5
    assert _looks(monkeypatch, 2**15 - 1, 5, time.monotonic()) == 0


def test_a_listing_does_not_wait_for_nodes_that_do_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _looks(monkeypatch, 2**15, 5, time.monotonic() - 61) == 1
    monkeypatch.setattr(planned, "_BEGIN_S", 0.05)
    assert _looks(monkeypatch, 2**15, 10**9, time.monotonic()) > 1


@pytest.mark.slow
def test_two_drivers_fill_one_lake_from_two_prefixes(tmp_path: Path) -> None:
    """At the same time, in processes of their own. The next run over all of it finds everything covered."""
    source, lake = tmp_path / "photos", str(tmp_path / "lake")
    for number, prefix in enumerate(("a", "b")):
        fill(source / prefix, 40, first=100 * number)
    drivers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.bench.null_job", str(source / prefix), lake, "local"], cwd=ROOT
        )
        for prefix in ("a", "b")
    ]
    assert [driver.wait(300) for driver in drivers] == [0, 0]
    reader = Lake(lake, Storage())
    assert [run.record and run.record.state for run in reader.runs()] == ["complete", "complete"]
    uris = Counter(reader.dataset("images").to_table(["uri"])["uri"].to_pylist())
    assert uris == {str(path): 1 for path in source.rglob("*.png")}
    job = make_job(str(source), lake)
    same = replace(job.record, model=reader.runs()[0].record.model)  # type: ignore[union-attr]
    following = Planned(replace(job, record=same))
    assert (following.first, following.totals.covered) == (None, 80)
