"""A network for a cluster on one machine: a bridge, and machines on it that share nothing with each other but the disk.

A machine is a process in namespaces of its own: network (one cable, to the bridge; no route to anywhere else), PIDs,
hostname, /etc/hosts. Nothing of it has a name outside, so all of it ends with the process that made it; what is left of
a test that was killed is the bridge, which the next one removes.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

FORCED = "CLUSTER_NETWORK"
"""The environment variable that, set to `loopback`, has clusters do without a network."""
_LOOPBACK = "127.0.0.1"
_PROGRAMS = ("ip", "unshare", "setpriv", "mount", "sh")
# The machine from inside. Its end of the cable appears when it is plugged in.
_BOOT = """
set -e
echo "$1" > /proc/sys/kernel/hostname
mount --bind "$3" /etc/hosts
ip link set lo up
tries=0
until ip link show eth0 >/dev/null 2>&1; do
    tries=$((tries + 1)); test $tries -lt 200; sleep 0.05
done
ip address add "$2/24" dev eth0
ip link set eth0 up
shift 3
exec "$@"
"""


@functools.cache
def unavailable() -> str | None:
    """Why there can be no such network here, or None where one was made and a machine on it reached the bridge."""
    if os.environ.get(FORCED) == "loopback":
        return f"{FORCED}=loopback"
    if missing := [program for program in _PROGRAMS if shutil.which(program) is None]:
        return f"{', '.join(missing)} not installed"
    try:
        with Network() as network, socket.create_server((network.host, 0)) as server:
            call = f"import socket; socket.create_connection({server.getsockname()!r}, 5).sendall(b'here')"
            machine = network.start("probe", lambda _: [sys.executable, "-c", call], env=dict(os.environ))
            server.settimeout(15)
            with server.accept()[0] as heard:
                heard.settimeout(5)
                peer, message = heard.getpeername()[0], heard.recv(4)
            machine.process.wait(timeout=10)
    except (OSError, subprocess.SubprocessError) as error:
        message = getattr(error, "stderr", None) or error
        return f"no network namespaces: {str(message).strip()}"
    return None if (peer, message) == (machine.address, b"here") else f"heard {message!r} from {peer}"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine on the network."""

    address: str
    process: subprocess.Popen[bytes]
    """SIGKILL switches it off: all of its processes are gone at once. They say goodbye to others unless it was unplugged."""
    cable: str

    def unplug(self) -> None:
        """Cut it off. Nobody is told: packets to and from it are lost."""
        _ip("link", "set", self.cable, "down")

    def plug(self) -> None:
        """Connect it again."""
        _ip("link", "set", self.cable, "up")


@dataclass(kw_only=True)
class Network:
    """A context manager that leaves no machine and no bridge behind."""

    bridge: str = field(init=False)
    folder: Path = field(init=False)
    """For what belongs to the machines; a short path, for sockets."""
    _subnet: str = field(init=False, repr=False)
    _claim: socket.socket = field(init=False, repr=False)
    _machines: list[Machine] = field(init=False, repr=False, default_factory=list)
    _loop: asyncio.AbstractEventLoop = field(init=False, repr=False, default_factory=asyncio.new_event_loop)
    _numbers: Iterator[int] = field(init=False, repr=False, default_factory=lambda: itertools.count(2))

    def __enter__(self) -> Network:
        number = self._claimed()
        self.bridge, self._subnet = f"mlk{number}", f"10.213.{number}"
        self.folder = Path("/tmp") / self.bridge
        try:
            self._remove()
            self.folder.mkdir(mode=0o700)
            _ip("link", "add", self.bridge, "type", "bridge")
            _ip("address", "add", f"{self.host}/24", "dev", self.bridge)
            _ip("link", "set", self.bridge, "up")
        except BaseException:
            self.__exit__()
            raise
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for machine in self._machines:
            machine.process.kill()
        for machine in self._machines:
            machine.process.wait()
        self._loop.call_soon_threadsafe(self._loop.stop)
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            self._remove()
        self._claim.close()

    @property
    def host(self) -> str:
        """The address of this machine itself, by which the others reach it."""
        return f"{self._subnet}.1"

    def start(
        self,
        name: str,
        command: Callable[[str], list[str]],
        *,
        env: Mapping[str, str],
        output: IO[bytes] | None = None,
    ) -> Machine:
        """Run what `command` makes of its address on a new machine of that hostname. Raises SubprocessError where that is
        not permitted."""
        number = next(self._numbers)
        address, hosts = f"{self._subnet}.{number}", self.folder / f"{name}.hosts"
        hosts.write_text(f"{_LOOPBACK} localhost\n{address} {name}\n")
        process = subprocess.Popen(
            [
                # It ends with this process, however that ends; and the machine's processes with it.
                "setpriv", "--pdeathsig", "KILL", "--",
                "unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc",
                "sh", "-c", _BOOT, "sh", name, address, str(hosts), *command(address),
            ],
            cwd="/",
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output or subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        machine = Machine(address=address, process=process, cable=f"{self.bridge}-{number}")
        self._machines.append(machine)
        _await_own_network(process)
        _ip("link", "add", machine.cable, "type", "veth", "peer", "name", "eth0", "netns", str(process.pid))
        _ip("link", "set", machine.cable, "master", self.bridge, "up")
        return machine

    def forward(self, port: int) -> int:
        """Have the machines reach what listens at `port` of this machine's loopback: the port of `host` for it."""
        future = asyncio.run_coroutine_threadsafe(self._forwarding(port), self._loop)
        return future.result(timeout=10)

    async def _forwarding(self, port: int) -> int:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                connection = await asyncio.open_connection(_LOOPBACK, port)
                await asyncio.gather(_copy(reader, connection[1]), _copy(connection[0], writer))

        server = await asyncio.start_server(serve, self.host, 0)
        forwarded: int = server.sockets[0].getsockname()[1]
        return forwarded

    def _claimed(self) -> int:
        """A number that no other network of this machine has; it is free again when this process ends."""
        for number in range(1, 255):
            claim = socket.socket(socket.AF_UNIX)
            try:
                claim.bind(f"\0masklake-test-network-{number}")
            except OSError:
                claim.close()
                continue
            self._claim = claim
            return number
        raise OSError("no number is free for a network")

    def _remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        # A machine's cable goes with it, but some time after.
        for link in Path("/sys/class/net").iterdir():
            if link.name == self.bridge or link.name.startswith(f"{self.bridge}-"):
                with contextlib.suppress(subprocess.CalledProcessError):
                    _ip("link", "delete", link.name)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        writer.close()


def _await_own_network(process: subprocess.Popen[bytes]) -> None:
    ours, end = Path("/proc/self/ns/net").readlink(), time.monotonic() + 10
    while True:
        if process.poll() is not None:
            raise subprocess.SubprocessError("unshare is not permitted")
        with contextlib.suppress(OSError):
            if Path(f"/proc/{process.pid}/ns/net").readlink() != ours:
                return
        if time.monotonic() > end:
            raise subprocess.SubprocessError("unshare does not come to an end")
        time.sleep(0.01)


def _ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True, capture_output=True, text=True, timeout=10)
