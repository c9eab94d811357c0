"""Embedded Ray: reachable from this machine and this run only."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import psutil
import pytest
from masklake.jobs.cluster.cluster import ray_cluster
from masklake.pipeline.errors import UserError

from tests.helpers.traps import Traps


def test_an_embedded_ray_is_of_this_machine_and_of_what_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traps = Traps(tmp_path / "here")
    monkeypatch.chdir(traps.folder)
    with ray_cluster(None, 0) as cluster:
        assert cluster.cpus >= 1
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        listening = {
            connection.laddr.ip
            for process in family
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        import ray

        @ray.remote
        def imported() -> list[str]:
            for name in ("numpy", "pyarrow", "masklake.pipeline.errors"):
                importlib.import_module(name)
            return sys.path

        path = ray.get(imported.remote())
    assert {str(traps.folder), str(Path(sys.argv[0]).resolve().parent)}.isdisjoint(path)
    assert traps.sprung() == ""
    assert listening
    assert listening <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


def test_more_gpus_than_there_are() -> None:
    with pytest.raises(UserError, match=r"--gpus 9"), ray_cluster(None, 9):
        pytest.fail("a cluster with nine GPUs was found")


def test_a_cluster_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"127\.0\.0\.1:1"), ray_cluster("127.0.0.1:1", None):
        pytest.fail("joined a cluster that is not there")
