"""Embedded Ray: reachable from this machine and this run only."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from masklake.jobs.cluster import start
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


def test_a_ray_that_does_not_start_is_tried_once_more_and_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tries = []

    def slow(**_: object) -> None:
        tries.append(1)
        raise Exception("The current node timed out during startup.\nmore")  # as Ray does

    monkeypatch.setattr("ray.init", slow)
    with (
        pytest.raises(UserError, match=r"Ray does not start .*timed out during startup\.\)"),
        ray_cluster(None, 0),
    ):
        pytest.fail("it started")
    assert len(tries) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_slow_node_is_waited_for_and_a_dead_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray._private.node as ray_node
    import ray._private.services as services

    answers = iter([RuntimeError("not yet"), RuntimeError("not yet"), {"node": 1}])

    def get_node(*_: object) -> object:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    exit_codes: list[int | None] = [None]
    process = SimpleNamespace(process=SimpleNamespace(poll=lambda: exit_codes[0]))
    killed: list[bool] = []
    node = SimpleNamespace(
        all_processes={"raylet": [process]}, kill_all_processes=lambda **_: killed.append(True)
    )
    monkeypatch.setattr(services, "get_node", get_node)
    monkeypatch.setattr(ray_node.Node, "start_head_processes", lambda self: None)
    monkeypatch.setattr(start, "_LOOK_S", 0.0)
    with start._patient():
        ray_node.Node.start_head_processes(node)
        assert services.get_node("address", "id") == {"node": 1}
    assert killed == []
    answers, exit_codes[0] = iter([RuntimeError("not yet")]), 1
    with pytest.raises(OSError, match="its raylet ended at once"), start._patient():
        ray_node.Node.start_head_processes(node)
        services.get_node("address", "id")
    assert killed == [True]
