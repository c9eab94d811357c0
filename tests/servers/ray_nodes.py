"""A Ray cluster on the loopback: a head with its job server, and nodes that come and are killed, each a `ray start`.

Every node has the address 127.0.0.1 and ports of its own, and wants the cluster's token.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

HOST = "127.0.0.1"
_MARK = "MASKLAKE_TEST_NODE"
# Ray takes a loopback address for a mistake, and listens on all interfaces instead.
_START = """
from ray._private import ray_constants, services
ray_constants.ENABLE_RAY_CLUSTER = True
services.resolve_ip_for_localhost = str
from ray.scripts.scripts import main
main()
"""
_STORE_BYTES = 256 * 2**20


@dataclass(kw_only=True)
class Node:
    """One node's processes: `ray start`, the raylet, its agents and workers."""

    name: str
    process: subprocess.Popen[bytes]
    said: Path
    mark: str = field(repr=False)

    def family(self) -> list[psutil.Process]:
        """Those that carry the mark, and their children: Ray's agents overwrite their environment with a title."""
        found = set()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                if process.environ().get(_MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found |= {process, *process.children(recursive=True)}
        return list(found)

    def kill(self) -> None:
        """SIGKILL all of it at once, as when the machine is switched off."""
        for _ in range(3):  # what a process started while it was being killed
            family = self.family()
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(family, timeout=10)
        self.process.wait(timeout=10)


class RayNodes:
    """A head without CPUs, unless it is given some. A context manager that leaves no process behind."""

    def __init__(self, *, cpus: int = 0, env: Mapping[str, str] | None = None) -> None:
        self.token = secrets.token_hex(32)
        self.nodes: list[Node] = []
        # Its sockets need short paths.
        self._folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
        self._gcs, self._dashboard = _free_port(), _free_port()
        self._cpus, self._env = cpus, dict(env or {})

    def __enter__(self) -> RayNodes:
        try:
            self._start(
                "head",
                self._cpus,
                "--head",
                f"--port={self._gcs}",
                f"--dashboard-host={HOST}",
                f"--dashboard-port={self._dashboard}",
                f"--ray-client-server-port={_free_port()}",
            )
            self.wait_until(lambda: self._names() == {"head"}, 120)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        for node in reversed(self.nodes):
            node.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def address(self) -> str:
        """Of the job server."""
        return f"http://{HOST}:{self._dashboard}"

    @property
    def env(self) -> dict[str, str]:
        """What a client's environment needs."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    def add(self, name: str, cpus: int, *, wait: bool = True) -> Node:
        """One more node of the cluster."""
        node = self._start(name, cpus, f"--address={HOST}:{self._gcs}")
        if wait:
            self.wait_until(lambda: name in self._names(), 120)
        return node

    def kill(self, name: str) -> None:
        """SIGKILL a node."""
        node = next(one for one in self.nodes if one.name == name)
        node.kill()
        self.nodes.remove(node)

    def ask(self, path: str) -> Any:
        """What the dashboard answers."""
        request = urllib.request.Request(  # noqa: S310  # http, by construction
            f"{self.address}{path}", headers={"Authorization": f"Bearer {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.load(answer)

    def listed(self, what: str, **where: str) -> list[dict[str, Any]]:
        """Ray's state of `nodes`, `actors` or `tasks`; of those whose fields are as in `where`."""
        query = [("detail", "1"), ("limit", "10000")]
        for key, value in where.items():
            query += [("filter_keys", key), ("filter_predicates", "="), ("filter_values", value)]
        answer = self.ask(f"/api/v0/{what}?{urllib.parse.urlencode(query)}")
        found: list[dict[str, Any]] = answer["data"]["result"]["result"]
        return found

    def node_ids(self) -> dict[str, str]:
        """The names of all nodes there ever were, by their ids."""
        return {node["node_id"]: node["node_name"] for node in self.listed("nodes")}

    def wait_until(self, true: Callable[[], Any], seconds: float) -> Any:
        """What `true` returns once it is true. Fails when a node ends by itself before."""
        end = time.monotonic() + seconds
        while not (found := true()):
            for node in self.nodes:
                assert node.process.poll() is None, (
                    f"node {node.name} ended:\n{node.said.read_text()[-4000:]}"
                )
            assert time.monotonic() < end, f"waited {seconds} s"
            time.sleep(0.2)
        return found

    def _names(self) -> set[str]:
        with contextlib.suppress(OSError):
            return {node["node_name"] for node in self.listed("nodes") if node["state"] == "ALIVE"}
        return set()

    def _start(self, name: str, cpus: int, *options: str) -> Node:
        mark, said = uuid.uuid4().hex, self._folder / f"{name}.log"
        ports = (
            "object-manager-port", "node-manager-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port",
            "runtime-env-agent-port", "metrics-export-port",
        )  # fmt: skip
        own = {port: _free_port() for port in ports}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))}
        with said.open("wb") as output:
            process = subprocess.Popen(
                [
                    sys.executable, "-c", _START, "start", "--block", *options,
                    f"--node-ip-address={HOST}", f"--node-name={name}", f"--num-cpus={cpus}", "--num-gpus=0",
                    f"--object-store-memory={_STORE_BYTES}", "--disable-usage-stats",
                    "--min-worker-port=0", "--max-worker-port=0",
                    # Nodes that share a folder unpack a job's code into the same place, under each other's feet.
                    f"--temp-dir={self._folder}/{name}",
                    *(f"--{port}={number}" for port, number in own.items()),
                ],
                cwd="/",
                env={
                    **kept,
                    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
                    **self.env,
                    **self._env,
                    _MARK: mark,
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        node = Node(name=name, process=process, said=said, mark=mark)
        self.nodes.append(node)
        return node


def _free_port() -> int:
    with socket.socket() as one:
        one.bind((HOST, 0))
        port: int = one.getsockname()[1]
        return port


@contextlib.contextmanager
def ray_nodes(**options: Any) -> Iterator[RayNodes]:
    """A cluster for the length of the block."""
    with RayNodes(**options) as cluster:
        yield cluster
