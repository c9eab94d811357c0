"""What a machine has, seen without Ray: limits of containers count, and GPUs that are hidden do not."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
from masklake.jobs.cluster import machine as machine_module
from masklake.jobs.cluster.machine import machine


def test_this_machine() -> None:
    here = machine(None)
    assert 1 <= here.cpus <= (os.cpu_count() or 1)
    assert here.cpus == here.node_cpus
    assert 2**27 < here.memory < math.inf


def test_a_containers_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "_CGROUP", tmp_path)
    unlimited = machine(None)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert machine(None).cpus == unlimited.cpus
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text(f"{2**30}\n")
    assert machine(None).cpus == 1
    assert machine(None).memory <= 2**30


@pytest.mark.parametrize(
    ("visible", "asked", "gpus"),
    [("", None, 0), ("-1", None, 0), ("0", None, 1), ("0,1", None, 2), ("GPU-4f,GPU-5a", 1, 1), ("0", 0, 0)],
)
def test_gpus(monkeypatch: pytest.MonkeyPatch, visible: str, asked: int | None, gpus: int) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine(asked).gpus == gpus
