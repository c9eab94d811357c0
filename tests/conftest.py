"""Fixtures that more than one test folder uses: S3 servers, photos, the command line."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from masklake.jobs.demo.loopback_s3 import LoopbackS3

from tests.helpers.faults.table import table as fault_table
from tests.helpers.paths import SHARED
from tests.helpers.servers import rgw
from tests.helpers.servers.label_studio import LABEL_STUDIO
from tests.helpers.servers.moto import Moto, moto
from tests.helpers.servers.rgw import RGW
from tests.helpers.share import (  # noqa: F401  # hooks of pytest, by their names
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_runtest_setup,
    pytest_terminal_summary,
)

# No test is judged by its time: on a busy machine any example may take a second.
settings.register_profile("masklake", deadline=None)
settings.load_profile("masklake")


def pytest_configure(config: pytest.Config) -> None:
    """Keep this machine's settings out of the tests and of every process they start."""
    config.pluginmanager.register(fault_table)
    for name in list(os.environ):
        # Without bytecode every Ray worker would compile torch again.
        settings_ = name.startswith(("AWS_", "MASKLAKE_", "LABEL_STUDIO_")) and name != LABEL_STUDIO
        if settings_ or name == "PYTHONDONTWRITEBYTECODE":
            del os.environ[name]
        if name.lower() in ("http_proxy", "https_proxy", "all_proxy"):
            del os.environ[name]
    os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_AUTH_MODE"] = "token"  # Ray reads it when it is first imported, by whichever test
    os.environ.pop("RAY_ADDRESS", None)


@pytest.fixture(scope="session", autouse=True)
def _loopback_only() -> Iterator[None]:
    """Refuse TCP connections of this process to other machines (C++ clients are not covered)."""
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

    def check(sock: socket.socket, address: Any) -> None:
        # Ray "connects" a datagram socket, which sends nothing, to learn this machine's own address.
        tcp = sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type & socket.SOCK_STREAM
        if tcp and not _is_this_machine(sock.family, address[0]):
            raise RuntimeError(f"a test connected to {address[0]}:{address[1]}: tests are for loopback only")

    def checked_connect(sock: socket.socket, address: Any) -> None:
        check(sock, address)
        connect(sock, address)

    def checked_connect_ex(sock: socket.socket, address: Any) -> int:
        check(sock, address)
        return connect_ex(sock, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", checked_connect)
        patch.setattr(socket.socket, "connect_ex", checked_connect_ex)
        yield


def _is_this_machine(family: int, host: str) -> bool:
    try:
        if ipaddress.ip_address(host).is_loopback:
            return True
    except ValueError:
        return host in ("localhost", socket.gethostname())
    # Only a machine's own addresses can be bound.
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


@pytest.fixture(autouse=True)
def _fresh_s3_clients() -> Iterator[None]:
    """Clients are cached by their arguments, blind to the environment that the next test changes."""
    yield
    _forget_s3_clients()


def _forget_s3_clients() -> None:
    if "s3fs" in sys.modules:
        sys.modules["s3fs"].S3FileSystem.clear_instance_cache()
    if "masklake.pipeline.storage.store" in sys.modules:
        sys.modules["masklake.pipeline.storage.store"]._s3_store.cache_clear()


@pytest.fixture(scope="session")
def moto_s3() -> Iterator[Moto]:
    """The moto server of this session; only its own keys are accepted."""
    with moto() as server:
        yield server


@pytest.fixture(scope="session")
def rgw_s3() -> Iterator[RGW]:
    """The Ceph RGW of this session; the test is skipped where RGW is not installed."""
    reason = rgw.available()
    if reason is not None:
        pytest.skip(reason)
    with RGW() as server:
        yield server


@pytest.fixture
def use_s3(monkeypatch: pytest.MonkeyPatch) -> Callable[[LoopbackS3], None]:
    """Call with a server or its guest: from here on this process, and its children, are that user."""

    def use(server: LoopbackS3) -> None:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        _forget_s3_clients()

    return use


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """A fresh bucket."""

    name: str
    host: Moto | RGW
    client: Any = field(repr=False)
    """A botocore client of the owner: puts and looks at objects behind the back of the code under test."""

    @property
    def uri(self) -> str:
        return f"s3://{self.name}"

    @property
    def server(self) -> LoopbackS3:
        return self.host.server

    @property
    def guest(self) -> LoopbackS3:
        return self.host.guest

    def allow_guest(self, *actions: str, prefix: str = "") -> None:
        self.host.allow_guest(self.name, *actions, prefix=prefix)

    def put(self, key: str, data: bytes = b"x") -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=data)

    def get(self, key: str) -> bytes:
        body: bytes = self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
        return body

    def all_keys(self, prefix: str = "") -> list[str]:
        """Every key below `prefix`, in the server's order."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


@functools.cache
def _client(server: LoopbackS3) -> Any:
    return server.client()


@pytest.fixture(params=["moto", pytest.param("rgw", marks=pytest.mark.rgw)])
def s3_bucket(request: pytest.FixtureRequest, use_s3: Callable[[LoopbackS3], None]) -> Bucket:
    """A fresh bucket on each server in turn, with the environment set to its owner's keys.

    One server only: `@pytest.mark.parametrize("s3_bucket", ["moto"], indirect=True)`.
    """
    host: Moto | RGW = request.getfixturevalue(f"{request.param}_s3")
    use_s3(host.server)
    bucket = Bucket(name=f"test-{uuid.uuid4().hex[:12]}", host=host, client=_client(host.server))
    bucket.client.create_bucket(Bucket=bucket.name)
    return bucket


@pytest.fixture(scope="session")
def photos() -> Path:
    """The folder of real photos: `images/`, `instances.json`, `person_keypoints.json`."""
    folder = SHARED / "data" / "coco-sample"
    if not (folder / "instances.json").is_file():
        pytest.skip("the COCO sample photos are not on this machine")
    return folder


@dataclass(frozen=True, kw_only=True)
class CliResult:
    code: int
    stdout: str
    stderr: str


@pytest.fixture
def run_cli(tmp_path: Path) -> Callable[..., CliResult]:
    """Run `masklake ARGS…` in a process of its own, in `tmp_path`.

    `env` is added to the environment; `timeout` is in seconds. A command that leaves processes behind fails.
    """

    def run(*args: str | Path, env: Mapping[str, str] | None = None, timeout: float = 240) -> CliResult:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "masklake.jobs.cli", *map(str, args)],
            cwd=tmp_path,
            env=os.environ | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            stdout, stderr = process.communicate()
            pytest.fail(f"masklake {args} ran past {timeout} s\n{stdout[-4000:]}\n{stderr[-4000:]}")
        finally:
            left = not _group_ended(process.pid, seconds=10)
        if left:
            pytest.fail(f"masklake {args} left processes behind")
        return CliResult(code=process.returncode, stdout=stdout, stderr=stderr)

    return run


def _group_ended(group: int, *, seconds: float) -> bool:
    """Wait until no process of the group is left; kill the rest at the end."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    return False
