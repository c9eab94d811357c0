"""What a run or training says while the cluster has no room for it."""

from __future__ import annotations

import io
from collections.abc import Mapping

import pytest
from masklake.jobs.cluster import waiting
from masklake.jobs.cluster.waiting import lacking, telling
from rich.console import Console

NEEDED = {"CPU": 0.5, "GPU": 1.0}
FULL = ({"CPU": 4.0}, {"CPU": 8.0, "GPU": 2.0})


@pytest.mark.parametrize(
    ("free", "total"),
    [
        pytest.param({"CPU": 4.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 2.0}, id="there is room"),
        pytest.param({"CPU": 4.0}, {"CPU": 8.0}, id="there are no GPUs, which is told elsewhere"),
    ],
)
def test_nothing_is_said_where_nothing_is_waited_for(
    free: Mapping[str, float], total: Mapping[str, float]
) -> None:
    assert lacking("it", NEEDED, free, total, 60) is None


def test_it_says_what_is_needed_and_what_is_free() -> None:
    line = lacking("the training", NEEDED, *FULL, 60)
    assert line is not None
    assert line.startswith(
        "waiting for the cluster (1 min 00 s): the training needs 0.5 CPU and 1 GPU, and 0 of 2 GPUs are free; "
    )


def test_it_is_said_ever_more_rarely_until_work_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(waiting.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(waiting, "_resources", lambda: FULL)
    output, watched = io.StringIO(), []
    tell = telling(watched.append, bool, "it", NEEDED, Console(file=output, width=500))
    lines = []
    for now, started in ((5, False), (25, False), (30, False), (65, False), (400, True), (9999, False)):
        clock[0] = float(now)
        tell(started)
        lines.append(output.getvalue().count("waiting"))
    assert lines == [0, 1, 1, 2, 2, 2]
    assert watched == [False, False, False, False, True, False]
