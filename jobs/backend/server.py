"""The HTTP server of `masklake backend`: who may ask, how much, and for how long.

On the loopback it answers who is on this machine, and with a token in the environment who has it; elsewhere it needs one.
Label Studio sends it as the password of HTTP's basic authentication.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

from masklake.jobs.backend.protocol import Protocol, RefusedError
from masklake.jobs.serving.local_server import LocalServer, is_loopback
from masklake.jobs.terminal.text import note, one_line
from masklake.pipeline.errors import UserError

TOKEN = "MASKLAKE_BACKEND_TOKEN"  # noqa: S105  # the name of the variable
_MOST_BYTES = 64_000_000
"""Of a request: a thousand tasks with predictions in them are less."""
_READ_S = 30.0
"""In which a request must have come."""
_MOST_AT_ONCE = 16


class BackendServer(LocalServer):
    """Serves `protocol` on `host` and `port` (0: one that is free). Raises UserError where that would be open to others."""

    daemon_threads = False  # a request that is being answered is answered before the process ends
    request_queue_size = _MOST_AT_ONCE

    def __init__(self, host: str, port: int, protocol: Protocol) -> None:
        self.protocol = protocol
        self.token = os.environ.get(TOKEN, "")
        if not self.token and not is_loopback(host):
            raise UserError(
                f"--host {host}: others could ask there; set {TOKEN}, and give it to Label Studio as the password of basic "
                "authentication (Settings > Model), or serve on the loopback"
            )
        self.places = threading.BoundedSemaphore(_MOST_AT_ONCE)
        super().__init__(host, port, _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: BackendServer
    timeout = _READ_S
    server_version, sys_version = "masklake", ""

    def do_GET(self) -> None:
        self._answer(self.server.protocol.get)

    def do_POST(self) -> None:
        self._answer(lambda path: self.server.protocol.post(path, self._body()))

    def _answer(self, answer: Any) -> None:
        try:
            self._require_known()
            if not self.server.places.acquire(blocking=False):
                raise RefusedError(503, f"{_MOST_AT_ONCE} requests are being answered")
            try:
                self._send(200, answer(urlsplit(self.path).path))
            finally:
                self.server.places.release()
        except RefusedError as refused:
            self._send(refused.code, {"error": str(refused)}, str(refused))
        except UserError as error:
            note(str(error))
            self._send(500, {"error": str(error)}, str(error))
        except (ConnectionError, TimeoutError):  # who asked has gone
            self.close_connection = True

    def _require_known(self) -> None:
        """Raises RefusedError for who may not ask."""
        if self.server.token:
            if not hmac.compare_digest(self._password().encode(), self.server.token.encode()):
                raise RefusedError(401, f"give the token of {TOKEN} as the password of basic authentication")
        elif self.headers.get("Host") not in self.server.hosts:
            raise RefusedError(421, "this server has another name")

    def _password(self) -> str:
        kind, _, value = self.headers.get("Authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return value.strip()
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, ValueError):
            return ""

    def _body(self) -> Any:
        # A browser sends this type to another site only where that allows it, and this one does not.
        if self.headers.get_content_type() != "application/json":
            raise RefusedError(415, "the request is not application/json")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 15):
            raise RefusedError(411, "the request does not say how long it is")
        if int(length) > _MOST_BYTES:
            raise RefusedError(413, f"the request has {int(length):,} bytes; {_MOST_BYTES:,} is the most")
        try:
            return json.loads(self._bytes(int(length)))
        except (ValueError, RecursionError):
            raise RefusedError(400, "the request is not JSON") from None

    def _bytes(self, length: int) -> bytes:
        deadline = time.monotonic() + _READ_S
        chunks: list[bytes] = []
        while length:
            chunk = self.rfile.read1(min(length, 1 << 20))
            if not chunk:
                raise ConnectionError("it ended within the request")
            if time.monotonic() > deadline:
                raise RefusedError(408, f"the request did not come in {_READ_S:.0f} s")
            chunks.append(chunk)
            length -= len(chunk)
        return b"".join(chunks)

    def _send(self, code: int, value: dict[str, Any], reason: str | None = None) -> None:
        """Label Studio shows its users the reason line of an error, and nothing else of it."""
        content = json.dumps(value).encode()
        line = None if reason is None else one_line(reason).encode("latin-1", "replace").decode("latin-1")
        self.send_response(code, line)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if code == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="masklake"')
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Nothing: what matters is told by the protocol."""
