"""The demo's S3 server: it takes the user's own account out of play, and never outlives its user."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.fs
import pytest
from botocore.exceptions import ClientError
from masklake.jobs.demo.loopback_s3 import LoopbackS3, serve
from masklake.pipeline.errors import UserError
from masklake.pipeline.storage.store import Storage


def _answers(server: LoopbackS3) -> bool:
    host, port = server.endpoint.removeprefix("http://").split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def test_the_users_own_settings_stay_out(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = "http://127.0.0.1:1"
    mine = {
        "AWS_PROFILE": "mine",
        "AWS_SESSION_TOKEN": "mine",
        "AWS_ACCESS_KEY_ID": "mine",
        "AWS_ENDPOINT_URL_S3": elsewhere,
        "HTTP_PROXY": elsewhere,
        "http_proxy": elsewhere,
        "NO_PROXY": "example.org",
    }
    for name, value in mine.items():
        monkeypatch.setenv(name, value)
    with serve() as server:
        server.client().create_bucket(Bucket="photos")
        with server.applied():
            storage = Storage()
            storage.write("s3://photos/a b.jpg", b"data")
            assert storage.read("s3://photos/a b.jpg") == b"data"
            filesystem, path = pyarrow.fs.FileSystem.from_uri("s3://photos/a%20b.jpg")
            assert filesystem.open_input_stream(path).read() == b"data"
            assert "example.org" in os.environ["NO_PROXY"]
            assert "AWS_PROFILE" not in os.environ
        assert {name: os.environ[name] for name in mine} == mine
        assert "AWS_SECRET_ACCESS_KEY" not in os.environ
    assert not _answers(server)


def test_strict_credentials() -> None:
    with serve(strict_credentials=True) as server:
        server.client().create_bucket(Bucket="photos")
        for field in ("access_key", "secret_key"):
            with pytest.raises(ClientError, match=r"InvalidAccessKeyId|SignatureDoesNotMatch"):
                replace(server, **{field: "wrong"}).client().list_objects_v2(Bucket="photos")
        assert server.secret_key not in repr(server)


def test_it_ends_with_a_parent_that_is_killed() -> None:
    code = "from masklake.jobs.demo.loopback_s3 import serve\nwith serve() as s:\n  print(s.endpoint, flush=True)\n  input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        server = LoopbackS3(endpoint=parent.stdout.readline().strip(), access_key="", secret_key="")
        assert _answers(server)
        parent.kill()
    end = time.monotonic() + 30
    while _answers(server) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _answers(server)


def test_nothing_is_left_when_the_block_fails() -> None:
    with pytest.raises(RuntimeError, match="the job failed"), serve() as server:
        raise RuntimeError("the job failed")
    assert not _answers(server)


def test_a_server_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'ModuleNotFoundError: no moto' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(UserError, match=r"exited \(ModuleNotFoundError: no moto\).*make setup"), serve():
        pass
