"""A server of one command: on which address it listens, by which names it may be asked there, and that Ctrl-C ends it."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.terminal.tables import plain_console
from masklake.jobs.terminal.text import say
from masklake.pipeline.errors import UserError


class LocalServer(ThreadingHTTPServer):
    """Listens on `host` (an address of this machine) and `port` (0: one that is free). Raises OSError where it cannot."""

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self.loopback = is_loopback(host)
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), handler)
        self._address = f"[{host}]" if ":" in host else host
        self.hosts = host_headers(self._address, self.server_port) if self.loopback else frozenset()
        """Values of the Host header that mean this server; empty on other addresses, where a token must say who asks."""

    @property
    def url(self) -> str:
        """What it is asked by."""
        return f"http://{self._address}:{self.server_port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_headers(address: str, port: int) -> frozenset[str]:
    """The Host headers of requests to a server on the loopback. A page elsewhere can have its own name point here, not these."""
    names = {address, "localhost", "127.0.0.1"}
    # Who asks on HTTP's own port leaves it out.
    return frozenset(f"{name}:{port}" for name in names) | (names if port == 80 else set())


def serve(make: Callable[[], LocalServer], place: str, line: Callable[[str], str]) -> int:
    """Serve what `make` opens on `place` until Ctrl-C; `line` says at its start, with its URL, what it is.

    Raises UserError where nothing can be served there.
    """
    try:
        server = make()
    except OSError as error:
        raise UserError(
            f"{place}: cannot be served on ({error.strerror or error}); choose another --host or --port"
        ) from error
    with server:
        say(plain_console(), f"{line(server.url)} (Ctrl-C ends it)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return ExitCode.DONE
    return ExitCode.DONE
