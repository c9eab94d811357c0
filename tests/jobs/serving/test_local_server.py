"""Addresses, and the names by which a server may be asked there."""

from __future__ import annotations

import socket
from http.server import BaseHTTPRequestHandler

import pytest
from masklake.jobs.serving.local_server import LocalServer, host_headers, is_loopback, serve
from masklake.pipeline.errors import UserError


def test_only_addresses_of_this_machine_are_loopback() -> None:
    for host in ("localhost", "127.0.0.1", "127.8.8.8", "::1"):
        assert is_loopback(host)
    for host in ("", "0.0.0.0", "::", "10.0.0.1", "localhost.evil.example", "127.0.0.1.evil.example"):  # noqa: S104  # that is the question
        assert not is_loopback(host)


def test_names_go_with_the_port() -> None:
    assert host_headers("[::1]", 9090) == {"[::1]:9090", "localhost:9090", "127.0.0.1:9090"}
    assert host_headers("localhost", 80) == {"localhost:80", "127.0.0.1:80", "localhost", "127.0.0.1"}


def test_a_server_is_named_by_its_address() -> None:
    with LocalServer("127.0.0.1", 0, BaseHTTPRequestHandler) as server:
        assert server.url == f"http://127.0.0.1:{server.server_port}"
        assert f"localhost:{server.server_port}" in server.hosts
    with LocalServer("0.0.0.0", 0, BaseHTTPRequestHandler) as server:  # noqa: S104  # it is closed at once
        assert not server.hosts


def test_an_address_that_is_taken_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"^x:{port}: cannot be served on .*; choose another --host or"):
            serve(lambda: LocalServer("127.0.0.1", port, BaseHTTPRequestHandler), f"x:{port}", str)
