"""The backend's server: who may ask, how much, how long."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from masklake.jobs.backend import server as servers
from masklake.jobs.backend.predicting import TaskPredictor
from masklake.jobs.backend.protocol import Protocol
from masklake.jobs.backend.server import TOKEN, BackendServer
from masklake.pipeline.errors import UserError

EVERYWHERE = "0.0.0.0"  # noqa: S104  # that is what is refused
Serve = Callable[..., BackendServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A server on the loopback, whose model is not asked for."""
    started: list[BackendServer] = []

    def start(host: str = "127.0.0.1") -> BackendServer:
        predictor = TaskPredictor.__new__(TaskPredictor)
        server = BackendServer(host, 0, Protocol(predictor))
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def webhook(server: BackendServer, **more: Any) -> requests.Response:
    sent = {"json": {"action": "ANNOTATION_CREATED"}, **more}
    return requests.post(f"{server.url}/webhook", timeout=10, **sent)


def test_who_is_on_this_machine_is_answered_under_its_own_name(serve: Serve) -> None:
    server = serve()
    assert webhook(server).json() == {"status": "ignored"}
    rebound = webhook(server, headers={"Host": "evil.example:80"})
    assert (rebound.status_code, rebound.json()) == (421, {"error": "this server has another name"})
    page = webhook(server, json=None, data='{"action": "x"}', headers={"Content-Type": "text/plain"})
    assert page.status_code == 415, "what a page of another site can send"
    assert "Access-Control-Allow-Origin" not in page.headers


def test_elsewhere_a_token_is_needed(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    for host in (EVERYWHERE, "::"):
        with pytest.raises(UserError, match=f"others could ask there; set {TOKEN}"):
            serve(host)
    monkeypatch.setenv(TOKEN, "a-sentinel")
    server = serve(EVERYWHERE)
    for answer in (webhook(server), webhook(server, auth=("label-studio", "other"))):
        assert answer.status_code == 401 and "a-sentinel" not in answer.text + str(answer.headers)
    assert webhook(server, headers={"Authorization": "Basic ///"}).status_code == 401
    assert webhook(server, auth=("label-studio", "a-sentinel")).ok
    assert webhook(server, headers={"Authorization": "Bearer a-sentinel"}).ok
    assert webhook(serve(), auth=("x", "a-sentinel")).ok, "and here, where one is set"
    assert webhook(serve()).status_code == 401


def test_a_refusal_reaches_the_user_by_the_reason_line(serve: Serve) -> None:
    answer = requests.post(f"{serve().url}/train", json={}, timeout=10)
    assert answer.status_code == 501 and answer.reason.startswith(
        "this backend does not train: `masklake labels pull`"
    )
    assert answer.json()["error"] == answer.reason
    assert requests.get(f"{serve().url}/admin", timeout=10).status_code == 404
    assert requests.put(f"{serve().url}/predict", timeout=10).status_code == 501


def raw(server: BackendServer, request: bytes, *, more: bytes = b"") -> bytes:
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as connection:
        connection.sendall(request + more)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_requests_have_limits(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve()
    head = f"POST /webhook HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\nContent-Type: application/json\r\n".encode()
    assert b" 411 " in raw(server, head + b"\r\n")
    assert b" 411 " in raw(server, head + b"Content-Length: -1\r\n\r\n")
    assert b" 413 " in raw(server, head + b"Content-Length: 99999999999\r\n\r\n")
    assert raw(server, head + b"Content-Length: 10\r\n\r\n", more=b"{") == b"", "it ended within the request"
    for content in (b"{", b"\xff\xfe", b"[" * 100_000):
        length = f"Content-Length: {len(content)}\r\n\r\n".encode()
        assert b" 400 " in raw(server, head + length, more=content)
    assert webhook(server, json=[1]).status_code == 400
    monkeypatch.setattr(servers, "_READ_S", -1.0)
    assert webhook(server).status_code == 408


def test_who_asks_while_too_many_do_is_told_to_come_later(serve: Serve) -> None:
    server = serve()
    taken = [server.places.acquire(blocking=False) for _ in range(servers._MOST_AT_ONCE)]
    assert all(taken) and webhook(server).status_code == 503
    server.places.release()
    assert webhook(server).ok


def test_a_line_break_in_a_reason_makes_no_header(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve()

    def fail(*_: Any) -> Any:
        raise UserError("a\r\nSet-Cookie: x=1\r\n\r\n<html> é 漢")

    monkeypatch.setattr(server.protocol, "post", fail)
    answer = webhook(server)
    assert answer.status_code == 500 and "Set-Cookie" not in answer.headers
    assert json.loads(answer.text)["error"].startswith("a\r\nSet-Cookie")
