"""GPUs that were asked for and are not there yet: counted, waited for, and the user told."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from masklake.jobs.cluster import cluster
from masklake.jobs.cluster import gpus as cluster_gpus
from masklake.jobs.cluster.cluster import ray_cluster
from masklake.jobs.cluster.gpus import noting_missing_gpus


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, float]]:
    """A cluster that only answers what it has; change that."""
    import ray
    import ray.data

    resources: dict[str, float] = {"CPU": 4.0, "memory": 8e9}
    monkeypatch.setattr(cluster, "_require_answer", lambda address: None)
    monkeypatch.setattr(ray, "init", lambda **options: None)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: dict(resources))
    monkeypatch.setattr(ray, "nodes", list)
    monkeypatch.setattr(cluster_gpus, "_LOOK_S", 0.01)
    return resources


def _wait_for(text: str, capsys: pytest.CaptureFixture[str]) -> str:
    printed, end = "", time.monotonic() + 10
    while text not in printed and time.monotonic() < end:
        time.sleep(0.01)
        printed += capsys.readouterr().err
    assert text in printed
    return printed


def test_what_is_asked_of_a_cluster_counts_before_its_nodes_are_there(
    joined: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    with ray_cluster("10.0.0.1:6379", 2) as joined_cluster:
        assert (joined_cluster.gpus, joined_cluster.cpus) == (2, 4)
        printed = _wait_for("--gpus 2: Ray has 0; waiting until nodes with GPUs join", capsys)
        assert printed.count("waiting") == 1
        joined["GPU"] = 2.0
        _wait_for("--gpus 2: they are there", capsys)


@pytest.mark.parametrize(("requested", "expected"), [(None, 1), (0, 0), (1, 1)])
def test_nothing_is_said_where_nothing_lacks(
    joined: dict[str, float], capsys: pytest.CaptureFixture[str], requested: int | None, expected: int
) -> None:
    joined["GPU"] = 1.0
    with ray_cluster("10.0.0.1:6379", requested) as joined_cluster:
        assert joined_cluster.gpus == expected
    assert capsys.readouterr().err == ""


def test_a_wait_that_is_long_is_told_again_and_ends_with_the_block(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cluster_gpus, "_LOOK_S", 0.01)
    monkeypatch.setattr(cluster_gpus, "_TOLD_AFTER_S", (0.0, 0.1, 0.2))
    with noting_missing_gpus(3, lambda: 1):
        printed = _wait_for("waiting for 0 min until", capsys)
    assert "--gpus 3: Ray has 1; waiting until" in printed
    assert "`ray status`" in printed
    time.sleep(0.1)
    capsys.readouterr()
    time.sleep(0.3)
    assert capsys.readouterr().err == ""
