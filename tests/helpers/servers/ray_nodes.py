"""A Ray cluster on this machine: a head with its job server, and nodes that come and are killed, each a `ray start`.

Each node is a machine on a network of the cluster's own, with Ray's usual ports, where that can be made. Else all have
the address 127.0.0.1, and ports of their own. Either way they want the cluster's token.
"""

from __future__ import annotations

import contextlib
import http.client
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
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
from masklake.jobs.demo.loopback_s3 import LoopbackS3

from tests.helpers.servers import network
from tests.helpers.servers.network import Machine, Network
from tests.helpers.servers.ports import free_port

LOOPBACK = "127.0.0.1"
_MARK = "MASKLAKE_TEST_NODE"
# Ray takes a loopback address for a mistake, and listens on all interfaces instead.
_START = "from ray.scripts.scripts import main; main()"
_START_ON_LOOPBACK = """
from ray._private import ray_constants, services
ray_constants.ENABLE_RAY_CLUSTER = True
services.resolve_ip_for_localhost = str
from ray.scripts.scripts import main
main()
"""
_PORTS = (
    "object-manager-port", "node-manager-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port",
    "runtime-env-agent-port", "metrics-export-port",
)  # fmt: skip
_STORE_BYTES = 256 * 2**20
# Ray gives up a node that does not answer after a minute; here after a quarter of one.
_HEALTH = {"period_ms": "1000", "timeout_ms": "4000", "failure_threshold": "3"}


@dataclass(kw_only=True)
class Node:
    """One node's processes: `ray start`, the raylet, its agents and workers."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    mark: str = field(repr=False)
    machine: Machine | None

    def family(self) -> list[psutil.Process]:
        """Those that carry the mark, and their children: Ray's agents overwrite their environment with a title."""
        processes = set()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                if process.environ().get(_MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    processes |= {process, *process.children(recursive=True)}
        return list(processes)

    def kill(self) -> None:
        """SIGKILL all of it at once."""
        self.process.kill()
        for _ in range(3):  # what a process started while it was being killed
            family = self.family()
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(family, timeout=10)
        self.process.wait(timeout=10)


class RayNodes:
    """A head without CPUs, unless it is given some. A context manager that leaves no process behind.

    s3: a server of this machine, which the nodes, and only they, have the keys of. env: more for their environment.
    """

    def __init__(
        self, *, cpus: int = 0, s3: LoopbackS3 | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self.token = secrets.token_hex(32)
        self.nodes: list[Node] = []
        self.network: Network | None = None
        self._unplugged: list[Node] = []
        self._cpus, self._s3, self._env = cpus, s3, dict(env or {})
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> RayNodes:
        with self._stack:
            self._begin()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _begin(self) -> None:
        reason = network.unavailable()
        if reason is None:
            self.network = self._stack.enter_context(Network())
            self._folder = self.network.folder
            self._gcs, self._dashboard = 6379, 8265
        else:
            # Its sockets need short paths.
            self._folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
            self._stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
            self._gcs, self._dashboard = free_port(), free_port()
        print(f"cluster: {'each node a machine on a network' if reason is None else f'loopback ({reason})'}")
        self._env = self._s3_env() | self._env
        self._stack.callback(self._end)
        self._start("head", self._cpus)
        self.wait_until(lambda: self.names() == {"head"}, 120)

    def _end(self) -> None:
        for node in reversed(self.nodes + self._unplugged):
            node.kill()

    def _s3_env(self) -> dict[str, str]:
        if self._s3 is None:
            return {}
        if self.network is None:
            return self._s3.env
        host, port = self.network.host, urllib.parse.urlsplit(self._s3.endpoint).port or 80
        environment = replace(self._s3, endpoint=f"http://{host}:{self.network.forward(port)}").env
        return environment | {name: f"{environment[name]},{host}" for name in ("NO_PROXY", "no_proxy")}

    @property
    def host(self) -> str:
        """The head's address."""
        machine = self.nodes[0].machine
        return LOOPBACK if machine is None else machine.address

    @property
    def address(self) -> str:
        """Of the job server."""
        return f"http://{self.host}:{self._dashboard}"

    @property
    def env(self) -> dict[str, str]:
        """What a client's environment needs."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    def add(self, name: str, cpus: int, *, wait: bool = True) -> Node:
        """One more node of the cluster."""
        node = self._start(name, cpus)
        if wait:
            self.wait_until(lambda: name in self.names(), 120)
        return node

    def kill(self, name: str) -> None:
        """SIGKILL a node."""
        self._take(name).kill()

    def unplug(self, name: str) -> None:
        """A node's network vanishes, and nobody is told. What runs on it runs on."""
        node = self._take(name)
        assert node.machine is not None, "nodes on the loopback have no network of their own"
        node.machine.unplug()
        self._unplugged.append(node)

    def plug(self, name: str) -> None:
        """Give a node its network back. It may end: it was given up."""
        node = next(node for node in self._unplugged if node.name == name)
        assert node.machine is not None
        node.machine.plug()

    def _take(self, name: str) -> Node:
        node = next(node for node in self.nodes if node.name == name)
        self.nodes.remove(node)
        return node

    def exposed(self) -> set[str]:
        """Where the cluster's processes wait for connections that others than this machine and the cluster can make."""
        addresses = set()
        ours = Path("/proc/self/ns/net").readlink()
        for process in (process for node in self.nodes for process in node.family()):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
                # A machine of the network has no way to anywhere else.
                if self.network is None or Path(f"/proc/{process.pid}/ns/net").readlink() == ours:
                    addresses |= {
                        c.laddr.ip for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN
                    }
        return addresses - {LOOPBACK, f"::ffff:{LOOPBACK}", "::1"}

    def ask(self, path: str) -> Any:
        """What the dashboard answers."""
        connection = http.client.HTTPConnection(self.host, self._dashboard)
        connection.sock = _Direct()
        with contextlib.closing(connection):
            connection.sock.settimeout(30)
            connection.sock.connect((self.host, self._dashboard))
            connection.request("GET", path, headers={"Authorization": f"Bearer {self.token}"})
            answer = connection.getresponse()
            if answer.status != http.HTTPStatus.OK:
                raise OSError(f"{path}: HTTP {answer.status}")
            return json.load(answer)

    def listed(self, kind: str, **where: str) -> list[dict[str, Any]]:
        """Ray's state of `nodes`, `actors` or `tasks`; of those whose fields are as in `where`."""
        query = [("detail", "1"), ("limit", "10000")]
        for key, value in where.items():
            query += [("filter_keys", key), ("filter_predicates", "="), ("filter_values", value)]
        answer = self.ask(f"/api/v0/{kind}?{urllib.parse.urlencode(query)}")
        entries: list[dict[str, Any]] = answer["data"]["result"]["result"]
        return entries

    def node_ids(self) -> dict[str, str]:
        """The names of all nodes there ever were, by their ids."""
        return {node["node_id"]: node["node_name"] for node in self.listed("nodes")}

    def wait_until(self, condition: Callable[[], Any], seconds: float) -> Any:
        """What `condition` returns once that is true. Fails when a node ends by itself before."""
        end = time.monotonic() + seconds
        while not (value := condition()):
            for node in self.nodes:
                assert node.process.poll() is None, f"node {node.name} ended:\n{node.log.read_text()[-4000:]}"
            assert time.monotonic() < end, f"waited {seconds} s"
            time.sleep(0.2)
        return value

    def names(self) -> set[str]:
        """Of the nodes that are alive, as the cluster sees it."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            return {node["node_name"] for node in self.listed("nodes") if node["state"] == "ALIVE"}
        return set()

    def _start(self, name: str, cpus: int) -> Node:
        mark, log = uuid.uuid4().hex, self._folder / f"{name}.log"
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))
        }
        env = {
            **inherited,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            **self.env,
            **{f"RAY_health_check_{name}": value for name, value in _HEALTH.items()},
            **self._env,
            _MARK: mark,
        }
        machine = None
        with log.open("wb") as output:
            if self.network is not None:
                machine = self.network.start(
                    name, lambda address: self._command(name, cpus, address), env=env, output=output
                )
                process = machine.process
            else:
                process = subprocess.Popen(
                    self._command(name, cpus, LOOPBACK),
                    cwd="/",
                    env=env | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        node = Node(name=name, process=process, log=log, mark=mark, machine=machine)
        self.nodes.append(node)
        return node

    def _command(self, name: str, cpus: int, address: str) -> list[str]:
        """`ray start` at that address; the first is the head."""
        options = [
            f"--node-ip-address={address}", f"--node-name={name}", f"--num-cpus={cpus}", "--num-gpus=0",
            f"--object-store-memory={_STORE_BYTES}", "--disable-usage-stats",
            "--min-worker-port=0", "--max-worker-port=0",
            # Nodes that share a folder unpack a job's code into the same place, under each other's feet.
            f"--temp-dir={self._folder}/{name}",
        ]  # fmt: skip
        if self.nodes:
            options += [f"--address={self.host}:{self._gcs}"]
        else:
            options += ["--head", f"--port={self._gcs}", f"--dashboard-port={self._dashboard}"]
            options += [f"--dashboard-host={address}"]
        start = _START
        if self.network is None:
            start, ports = _START_ON_LOOPBACK, [*_PORTS]
            if not self.nodes:
                ports += ["ray-client-server-port"]
            options += [f"--{port}={free_port()}" for port in ports]
        return [sys.executable, "-c", start, "start", "--block", *options]


class _Direct(socket.socket):
    """Goes past the guard of the tests, to which the cluster's network is none of this machine's."""

    def connect(self, address: Any) -> None:
        socket.SocketType.connect(self, address)


@contextlib.contextmanager
def ray_nodes(**options: Any) -> Iterator[RayNodes]:
    """A cluster for the length of the block."""
    with RayNodes(**options) as cluster:
        yield cluster
