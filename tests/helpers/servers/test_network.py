"""The network that clusters of tests have, where it can be made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT
from tests.helpers.servers import network
from tests.helpers.servers.network import Network

_KILLED = """
import os, sys, time
from tests.helpers.servers.network import Network
with Network() as made:
    print(made.bridge, made.start("left", lambda _: ["sleep", "600"], env=dict(os.environ)).process.pid, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _permitted() -> None:
    if reason := network.unavailable():
        pytest.skip(f"clusters are on the loopback here: {reason}")


def test_a_machine_reaches_the_network_and_nothing_else(tmp_path: Path) -> None:
    with Network() as net:
        with (tmp_path / "said").open("wb") as output:
            command = "uname -n; ip -o -4 address; ip route; ls -d /proc/[0-9]*"
            machine = net.start("far", lambda _: ["sh", "-c", command], env=dict(os.environ), output=output)
            machine.process.wait(10)
        lines = (tmp_path / "said").read_text()
    subnet = net.host.rpartition(".")[0]
    assert lines.startswith("far\n"), lines
    assert [line.split()[3] for line in lines.splitlines() if " inet " in line] == [
        "127.0.0.1/8",
        f"{subnet}.2/24",
    ]
    assert [
        line.split()[0] for line in lines.splitlines() if " dev eth0 " in line and "inet" not in line
    ] == [f"{subnet}.0/24"]
    assert "/proc/1\n" in lines
    assert f"/proc/{os.getpid()}\n" not in lines
    assert not Path("/sys/class/net", net.bridge).exists()


def test_two_networks_at_once_are_two() -> None:
    with Network() as first, Network() as second:
        assert first.host != second.host


def test_what_a_killed_test_leaves_is_removed() -> None:
    process = subprocess.Popen([sys.executable, "-c", _KILLED], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        bridge, pid = process.stdout.readline().split()
    assert Path("/sys/class/net", bridge).exists()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    end = time.monotonic() + 10
    while Path("/proc", pid, "exe").exists():
        assert time.monotonic() < end, "its machine runs on"
        time.sleep(0.05)
    with Network() as net:  # takes the first name that nobody uses
        assert net.bridge == bridge
    assert not Path("/sys/class/net", bridge).exists()
