"""A proxy on the loopback before an S3 server, that breaks some answers: a plan says what becomes of each request."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from masklake.jobs.demo.loopback_s3 import LoopbackS3

Plan = Callable[[str, str, int], str]
"""Method, path with query, and how many requests of that method and path came before: the name of a fault, or ""."""
_HOP = ("connection", "transfer-encoding", "content-length", "keep-alive")
_ERRORS = {
    "slow down": (503, "SlowDown"),
    "internal": (500, "InternalError"),
    "expired": (400, "ExpiredToken"),
}


@dataclass(frozen=True)
class Answer:
    """What the server said."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


@contextlib.contextmanager
def faulty(server: LoopbackS3, plan: Plan) -> Iterator[str]:
    """The proxy's URL. Faults: slow down, internal, expired (answers of S3), reset, cut off, cut off with its length,
    no length, stall, trickle (a byte a second), answer lost, page again (the answer to the request before)."""
    counts: dict[tuple[str, str], int] = {}
    last: dict[str, Answer] = {}
    ended = threading.Event()
    upstream = urlsplit(server.endpoint)

    class Proxy(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            with contextlib.suppress(OSError):
                super().handle_one_request()

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            key = (self.command, self.path)
            fault = plan(self.command, self.path, counts.get(key, 0))
            counts[key] = counts.get(key, 0) + 1
            if fault in _ERRORS:
                status, code = _ERRORS[fault]
                text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
                self._send(Answer(status, [("Content-Type", "application/xml")], text.encode()), "")
                return
            answer = last["page"] if fault == "page again" and "page" in last else self._ask(body)
            if "list-type" in self.path:
                last["page"] = answer
            self._send(answer, fault)

        def _ask(self, body: bytes) -> Answer:
            connection = http.client.HTTPConnection(str(upstream.hostname), upstream.port, timeout=30)
            headers = dict(self.headers.items())
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            answer = Answer(response.status, response.getheaders(), response.read())
            connection.close()
            return answer

        def _send(self, answer: Answer, fault: str) -> None:
            if fault == "answer lost":
                self._reset()
                return
            body = answer.body[: len(answer.body) // 2] if fault.startswith("cut off") else answer.body
            given = len(body) if fault == "cut off with its length" else len(answer.body)
            self.send_response(answer.status)
            for name, value in answer.headers:
                if name.lower() not in _HOP:
                    self.send_header(name, value)
            length = {name.lower(): value for name, value in answer.headers}.get("content-length")
            self.close_connection = bool(fault)
            if fault != "no length":
                self.send_header(
                    "Content-Length", str(length if self.command == "HEAD" and length else given)
                )
            self.end_headers()
            if self.command == "HEAD":
                return
            if fault in ("stall", "trickle"):
                for byte in body:
                    if fault == "stall" or ended.wait(1):
                        break
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                ended.wait(60)
                return
            self.wfile.write(body[: len(body) // 2] if fault == "reset" else body)
            self.wfile.flush()
            if fault == "reset":
                time.sleep(0.05)
                self._reset()

        def _reset(self) -> None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _serve  # noqa: N815  # http.server's names

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        proxy.daemon_threads = True
        threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{proxy.server_port}"
        finally:
            ended.set()
            proxy.shutdown()
