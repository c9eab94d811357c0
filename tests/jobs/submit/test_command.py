"""What may be submitted, what is sent, how a job's end is told; and a real job server that wants a token."""

from __future__ import annotations

import http.server
import importlib.metadata
import json
import os
import platform
import secrets
import signal
import threading
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from masklake.jobs.submit import follow
from masklake.jobs.submit.job_server import checked_address
from masklake.jobs.submit.package import package
from masklake.jobs.submit.remote_command import understood
from masklake.model import scenes
from masklake.pipeline.errors import UserError

from tests.conftest import CliResult
from tests.helpers.servers.ray_nodes import RayNodes, ray_nodes

Run = Callable[..., tuple[int, str, str]]
SEGMENT = ("segment", "s3://photos/", "s3://lake")


def test_the_shell_gets_exactly_what_was_typed() -> None:
    order = understood(["segment", "s3://p/a b;$(c)/", "s3://lake", "--model", "demo"], shared_files=False)
    assert order.entrypoint(installed=True) == (
        "exec masklake segment --address=auto 's3://p/a b;$(c)/' s3://lake --model demo"
    )
    assert order.entrypoint(installed=False).startswith(
        "exec python -P -m masklake.jobs.cli segment --address=auto "
    )
    assert order.text() == "masklake segment 's3://p/a b;$(c)/' s3://lake --model demo"


@pytest.mark.parametrize("form", [["--address", "http://h:8265"], ["--address=http://h:8265"]])
def test_the_address_may_stand_among_the_commands_options(form: list[str]) -> None:
    order = understood([*SEGMENT, *form, "--gpus", "2"], shared_files=False)
    assert (order.address, order.gpus) == ("http://h:8265", 2)
    assert order.command == [*SEGMENT, "--gpus", "2"]


@pytest.mark.parametrize(
    ("command", "object_"),
    [
        ([], "submit:"),
        (["query", "select 1"], "submit query:"),
        (["segment", "photos/", "s3://lake"], "SOURCE photos/:"),
        (["segment", "s3://photos/", "/data/lake"], "LAKE /data/lake:"),
        (["segment", "file:///photos", "s3://lake"], "SOURCE file:///photos:"),
        ([*SEGMENT, "--model", "./mine"], "--model ./mine:"),
        ([*SEGMENT, "--weights-dir", "weights"], "--weights-dir weights:"),
        (["train", "s3://lake", "--out", "out"], "--out out:"),
        (["eval", "s3://lake", "--coco", "/data/coco"], "--coco /data/coco:"),
        ([*SEGMENT, "--addr", "h:1"], "--address h:1:"),
    ],
)
def test_what_cannot_run_there_is_told_here(command: list[str], object_: str) -> None:
    with pytest.raises(UserError) as refused:
        understood(command, shared_files=False)
    assert str(refused.value).startswith(object_)
    assert ";" in str(refused.value)


def test_files_that_every_node_has() -> None:
    assert (
        understood(["segment", "/data/photos", "/data/lake"], shared_files=True).command[1] == "/data/photos"
    )
    with pytest.raises(UserError, match="photos"):
        understood(["segment", "photos", "/data/lake"], shared_files=True)
    for name in ("demo", "production", "cells@1a2b3c", "cells:production", "s3://models/cells"):
        understood([*SEGMENT, "--model", name], shared_files=False)


@pytest.mark.parametrize(
    "argument",
    [
        "https://me:hunter2@host/list.txt",
        "https://hunter2@host/list.txt",
        "https://b.s3.amazonaws.com/k?X-Amz-Signature=hunter2",
        "s3://photos/AKIAIOSFODNN7EXAMPLE/",
    ],
)
def test_credentials_are_not_sent(argument: str) -> None:
    with pytest.raises(UserError, match="carries a credential") as refused:
        understood(["segment", argument, "s3://lake"], shared_files=False)
    assert "hunter2" not in str(refused.value)
    assert "AKIAIOS" not in str(refused.value)


def test_the_package_is_whole_and_always_the_same(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = package(tmp_path / "a"), package(tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "there")
    assert {
        "masklake/__init__.py",
        "masklake/jobs/cli.py",
        "masklake/pipeline/segment/run.py",
        "masklake/model/weights/demo/model.safetensors",
    } <= names
    assert not [name for name in names if "__pycache__" in name]
    (distribution,) = importlib.metadata.distributions(name="masklake", path=[str(tmp_path / "there")])
    assert distribution.version == importlib.metadata.version("masklake")


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("head:8265", "http://head:8265"),
        ("http://head", "http://head:8265"),
        ("https://ray.example.com/team/", "https://ray.example.com/team"),
        ("http://[::1]:8265", "http://[::1]:8265"),
    ],
)
def test_addresses(address: str, url: str) -> None:
    assert checked_address(address) == url


@pytest.mark.parametrize(
    "address", ["auto", "ray://head:10001", "http://me:hunter2@head:8265", "http://head:x", ""]
)
def test_what_is_no_address(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    with pytest.raises(UserError) as refused:
        checked_address(address)
    assert "hunter2" not in str(refused.value)


def test_a_line_is_shown_once_however_often_the_output_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    lines = follow._Lines()
    lines.add("one\ntw")
    lines.add("o\nthr")
    lines.again()
    lines.add("one\ntwo\nthree\n\x1b[31mred")
    lines.rest("one\ntwo\nthree\n\x1b[31mred")
    assert capsys.readouterr().out.splitlines() == ["one", "two", "three", "\\x1b[31mred"]


def test_a_lost_connection_loses_and_doubles_no_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Server:
        """One whose first connection breaks, and whose second ends before the last line."""

        address, option, tries = "http://head:8265", "", 0

        def info(self, _: str) -> SimpleNamespace:
            return SimpleNamespace(status="SUCCEEDED" if self.tries > 1 else "RUNNING", message="")

        def logs(self, _: str) -> str:
            return "one\ntwo\nthree\nfour\n"

        async def tail(self, _: str) -> AsyncIterator[str]:
            self.tries += 1
            yield "one\ntwo\n"
            if self.tries == 1:
                raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")
            yield "three\n"

    monkeypatch.setattr(follow, "_AGAIN_S", 0.01)
    server: Any = Server()
    assert follow.follow(server, "job").status == "SUCCEEDED"
    output = capsys.readouterr()
    assert output.out.splitlines() == ["one", "two", "three", "four"]
    assert "the connection to http://head:8265 is lost, trying again" in output.err


@pytest.mark.parametrize(
    ("status", "code", "message", "exits", "because"),
    [
        ("SUCCEEDED", 0, "", 0, ""),
        ("STOPPED", None, "", 130, ""),
        (
            "FAILED",
            3,
            "failed with exit code 3, logs:\nmasklake: error: x",
            3,
            "exit code 3: masklake: error: x",
        ),
        ("FAILED", -9, "", 1, "killed by signal 9"),
        ("FAILED", None, "runtime_env setup failed", 1, "runtime_env setup failed"),
        ("FAILED", 127, "sh: masklake: not found", 127, "--image-has-it"),
    ],
)
def test_how_a_job_ended(status: str, code: int | None, message: str, exits: int, because: str) -> None:
    info = SimpleNamespace(status=status, driver_exit_code=code, message=message)
    assert follow.exit_code(info) == exits
    assert because in follow.reason(info)


@dataclass
class Pretender:
    """A job server that says what it is told to say, and keeps what it is sent."""

    answers: dict[str, tuple[int, Any]]
    address: str = ""
    requests: list[tuple[str, str, bytes]] = field(default_factory=list)


@pytest.fixture
def pretender(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pretender]:
    import ray

    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")  # which the command sets
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # for good: Ray reads it once a process
    metadata = {"data": {"pythonVersion": platform.python_version()}}
    server = Pretender(
        {
            "/api/version": (200, {"version": "4", "ray_version": ray.__version__}),
            "/api/v0/cluster_metadata": (200, metadata),
            "/api/jobs/": (200, {"job_id": "x", "submission_id": "x"}),
        }
    )

    class Handler(http.server.BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            server.requests.append((self.command, self.path, body))
            known = "/packages/" in self.path or self.path.endswith("/stop")
            code, answer = server.answers.get(self.path, (200 if known else 404, {"stopped": True}))
            self.send_response(code)
            self.end_headers()
            self.wfile.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode())

        do_GET = do_POST = do_PUT = _answer  # noqa: N815  # the base class's names

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        server.address = f"http://127.0.0.1:{listening.server_port}"
        threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        listening.shutdown()


def posted(server: Pretender) -> list[dict[str, Any]]:
    return [
        json.loads(body) for method, path, body in server.requests if (method, path) == ("POST", "/api/jobs/")
    ]


def test_nothing_of_the_environment_is_sent(
    masklake: Run, pretender: Pretender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    code, out, _ = masklake("submit", "--address", pretender.address, "--env", "AWS_REGION=eu", *SEGMENT)
    (request,) = posted(pretender)
    assert code == 0
    assert out == request["submission_id"] + "\n"
    assert request["metadata"] == {"command": "masklake segment s3://photos/ s3://lake"}
    assert request["runtime_env"]["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "60", "AWS_REGION": "eu"}
    everything = b"".join(body for _, _, body in pretender.requests)
    assert b"hunter2" not in everything
    assert os.environ["RAY_AUTH_TOKEN"].encode() not in everything


@pytest.mark.parametrize(
    ("path", "answer", "cause"),
    [
        ("/api/version", (200, {"version": "4", "ray_version": "2.10.0"}), "runs Ray 2.10.0, this machine"),
        (
            "/api/v0/cluster_metadata",
            (200, {"data": {"pythonVersion": "3.9.1"}}),
            "runs Python 3.9.1, this machine",
        ),
        ("/api/version", (404, b"not here"), "is no Ray job server"),
        ("/api/version", (200, b"<html>"), "is no Ray job server"),
        ("/api/version", (401, b"Missing"), "wants a token"),
        ("/api/version", (403, b"Invalid"), "refuses the token"),
        ("/api/jobs/", (500, b"Traceback\nValueError: no room"), "no room"),
    ],
)
def test_what_can_be_wrong_with_a_cluster(
    masklake: Run, pretender: Pretender, path: str, answer: tuple[int, Any], cause: str
) -> None:
    pretender.answers[path] = answer
    code, out, err = masklake("submit", "--address", pretender.address, *SEGMENT)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert pretender.address in err
    assert cause in err
    assert len(posted(pretender)) == (path == "/api/jobs/")


@pytest.mark.parametrize(("number", "stops"), [(signal.SIGINT, False), (signal.SIGTERM, True)])
def test_who_waits_is_told_to_end(
    masklake: Run, pretender: Pretender, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, stops: bool
) -> None:
    def interrupted(*_: object) -> None:
        signal.raise_signal(number)

    monkeypatch.setattr(follow, "follow", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code, _, err = masklake("submit", "--address", pretender.address, "--wait", *SEGMENT)
    finally:
        signal.signal(signal.SIGINT, before)
    job = posted(pretender)[0]["submission_id"]
    assert code == 130
    assert (("POST", f"/api/jobs/{job}/stop") in [(m, p) for m, p, _ in pretender.requests]) == stops
    assert f"{job} {'is asked to stop' if stops else 'goes on'}" in err


def test_versions_do_not_matter_where_the_image_has_it(masklake: Run, pretender: Pretender) -> None:
    pretender.answers["/api/version"] = (200, {"version": "4", "ray_version": "2.55.0"})
    assert masklake("submit", "--image-has-it", "--address", pretender.address, *SEGMENT)[0] == 0
    (request,) = posted(pretender)
    assert "working_dir" not in request["runtime_env"]
    assert not [path for _, path, _ in pretender.requests if "/packages/" in path]


def test_gpus_that_are_not_there(masklake: Run, pretender: Pretender) -> None:
    nodes = [
        {"state": "ALIVE", "resources_total": {"CPU": 8, "GPU": 1}},
        {"state": "DEAD", "resources_total": {"GPU": 4}},
    ]
    pretender.answers["/api/v0/nodes?detail=1&limit=10000"] = (200, {"data": {"result": {"result": nodes}}})
    code, _, err = masklake("submit", "--address", pretender.address, *SEGMENT, "--gpus", "2")
    assert code == 0
    assert "--gpus 2: the cluster has 1 GPU on 1 node; the job waits" in err


@pytest.mark.parametrize(
    "options", [["--env", "AWS_SECRET_ACCESS_KEY=x"], ["--env", "x"], [*SEGMENT, "--score", "3"]]
)
def test_mistakes_that_the_parsers_find(masklake: Run, options: list[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        masklake("submit", "--address", "http://127.0.0.1:1", *options)
    assert refused.value.code == 2


def test_a_cluster_that_is_not_there(masklake: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    for command in (["submit", *SEGMENT], ["jobs"], ["jobs", "stop", "x"]):
        code, _, err = masklake(*command)
        assert code == 1
        assert err.startswith("masklake: error: http://127.0.0.1:1: the cluster's job server does not answer")


@pytest.fixture(scope="module")
def head() -> Iterator[RayNodes]:
    with ray_nodes(cpus=1) as cluster:
        yield cluster


def test_a_job_server_with_a_token(
    head: RayNodes, tmp_path: Path, run_cli: Callable[..., CliResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_MODE")
    scenes.write(tmp_path / "photos", 2, 1)
    address_option = ("--address", head.address)
    dry = ("segment", tmp_path / "photos", tmp_path / "lake", "--model", "demo", "--dry-run")
    wrong = run_cli(
        "submit", *address_option, "--shared-files", *dry, env=head.env | {"RAY_AUTH_TOKEN": "0" * 64}
    )
    assert wrong.code == 2
    assert "refuses the token; set RAY_AUTH_TOKEN" in wrong.stderr
    none = run_cli("jobs", *address_option, env={"HOME": str(tmp_path)})
    assert none.code == 2
    assert "wants a token" in none.stderr

    file = tmp_path / "token"
    file.write_text(head.token)
    env = {"RAY_AUTH_TOKEN_PATH": str(file)}
    finished = run_cli("submit", *address_option, "--wait", "--shared-files", *dry, env=env)
    assert finished.code == 0, finished.stderr
    assert "would run demo@" in finished.stdout
    failed = run_cli("submit", *address_option, "--wait", "--shared-files", "eval", tmp_path, env=env)
    assert failed.code == 2
    assert "failed: exit code 2: masklake: error:" in failed.stderr

    listed = json.loads(run_cli("jobs", *address_option, "--json", env=env).stdout)
    assert [(job["state"], job["exit_code"]) for job in listed] == [("failed", 2), ("succeeded", 0)]
    listing = json.dumps(head.ask("/api/jobs/"))
    assert head.token not in listing
    assert os.environ["PATH"] not in listing
