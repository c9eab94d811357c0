"""As much of Google Cloud Storage's XML API as obstore uses, with generations; and one that ignores conditions.

The emulators on PyPI (gcp-storage-emulator, fake-gcs-server) take x-goog-if-generation-match and do not heed it.
"""

from __future__ import annotations

import datetime
import email.utils
import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


@dataclass
class _Object:
    data: bytes
    generation: int
    written_at: datetime.datetime


@dataclass
class Gcs:
    """The server. `heeds`: whether it heeds conditions of writes; `status`: what it answers to all, if not 0."""

    heeds: bool = True
    status: int = 0
    objects: dict[str, _Object] = field(default_factory=dict)
    generations: int = 1000
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    gcs: Gcs

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _key(self) -> tuple[str, dict[str, list[str]]]:
        url = urlsplit(self.path)
        return unquote(url.path).lstrip("/").partition("/")[2], parse_qs(url.query)

    def _refused(self) -> bool:
        if self.gcs.status:
            self._answer(self.gcs.status)
        return bool(self.gcs.status)

    def do_PUT(self) -> None:
        key, _ = self._key()
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self._refused():
            return
        with self.gcs.lock:
            present = self.gcs.objects.get(key)
            generation = self.headers.get("x-goog-if-generation-match")
            if (
                generation is not None
                and self.gcs.heeds
                and int(generation) != (present.generation if present else 0)
            ):
                self._answer(412)
                return
            self.gcs.generations += 1
            stored = _Object(data, self.gcs.generations, datetime.datetime.now(datetime.UTC))
            self.gcs.objects[key] = stored
        self._answer(200, **_headers(stored))

    def do_GET(self) -> None:
        key, query = self._key()
        if self._refused():
            return
        if not key:
            self._answer(200, self._listing(query.get("prefix", [""])[0]))
            return
        stored = self.gcs.objects.get(key)
        if stored is None:
            self._answer(404)
            return
        status, data, more = 200, stored.data, {}
        if span := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(span[1]), int(span[2] or len(data) - 1)
            status, data = 206, data[start : end + 1]
            more = {"Content_Range": f"bytes {start}-{start + len(data) - 1}/{len(stored.data)}"}
        self._answer(status, data, **_headers(stored) | more | {"Content_Length": str(len(data))})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        if not self._refused():
            self._answer(204 if self.gcs.objects.pop(self._key()[0], None) else 404)

    def _listing(self, prefix: str) -> bytes:
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(stored.data)}</Size><ETag>{_etag(stored)}</ETag>"
            f"<LastModified>{stored.written_at:%Y-%m-%dT%H:%M:%S.%fZ}</LastModified></Contents>"
            for key, stored in sorted(self.gcs.objects.items())
            if key.startswith(prefix)
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>".encode()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _etag(stored: _Object) -> str:
    return f'"{hashlib.md5(stored.data + str(stored.generation).encode()).hexdigest()}"'  # noqa: S324  # as GCS does


def _headers(stored: _Object) -> dict[str, str]:
    return {
        "ETag": _etag(stored),
        "x_goog_generation": str(stored.generation),
        "Last_Modified": email.utils.format_datetime(stored.written_at, usegmt=True),
    }


@contextmanager
def gcs_server(*, heeds: bool = True) -> Iterator[Gcs]:
    """Start and stop one, of any bucket."""
    gcs = Gcs(heeds=heeds)
    handler = type("Handler", (_Handler,), {"gcs": gcs})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True  # clients keep their connections
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        gcs.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield gcs
        finally:
            server.shutdown()
            thread.join()
