"""What Masklake asks of Label Studio's API, answered in this process as version 1.23 answers it; and its failures, on demand."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

LEGACY = "fedcba9876543210fedcba9876543210fedcba98"
PERSONAL = "aGVhZA.cmVmcmVzaA.c2lnbg"
_MOST_PER_PAGE = 1000

Answer = tuple[int, Any]


@dataclass
class StudioTwin:
    """The server's state, to be set up and looked at."""

    configs: dict[int, str] = field(default_factory=dict)
    """The labelling interface of each project."""
    tasks: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    enterprise: bool = False
    """Whether imports are done later, by a job."""
    tokens: set[str] = field(default_factory=lambda: {f"Token {LEGACY}"})
    """Values of Authorization that are let in."""
    failures: list[int | str] = field(default_factory=list)
    """What the next requests meet: a status; `drop`, a connection that ends before the answer; `lost`, one that ends after
    the work; `half`, one that ends within the answer; or an address to which they are sent on."""
    asked: list[str] = field(default_factory=list)
    """METHOD path of every request."""
    url: str = ""
    on_page: Callable[[], None] = lambda: None
    """Called after every page of tasks."""

    def add(self, project: int, task: dict[str, Any]) -> dict[str, Any]:
        """A task, with the id that is next."""
        number = max((known["id"] for known in self.tasks), default=0) + 1
        made = {"annotations": [], **task, "id": number, "project": project}
        self.tasks.append(made)
        return made

    def annotate(self, task: dict[str, Any], results: list[dict[str, Any]], **more: Any) -> None:
        time = "2026-11-28T09:18:48.906062Z"
        annotation = {
            "id": 1000 + len(task["annotations"]),
            "result": results,
            "was_cancelled": False,
            "ground_truth": False,
        }
        task["annotations"].append(annotation | {"created_at": time, "updated_at": time} | more)

    def answer(self, method: str, path: str, query: dict[str, str], body: Any, token: str) -> Answer:
        """What the server says."""
        if path == "/api/token/refresh/":
            if body != {"refresh": PERSONAL}:
                return 401, _refusal(401, "Token is invalid")
            access = f"access-{len(self.tokens)}"
            self.tokens.add(f"Bearer {access}")
            return 200, {"access": access}
        if token not in self.tokens:
            return 401, _refusal(
                401, "Invalid token." if token else "Authentication credentials were not provided."
            )
        parts = path.strip("/").split("/")
        match [method, *parts]:
            case ["GET", "api", "tasks"]:
                return self._page(query)
            case ["GET", "data", "upload", *_] if path in self.files:
                return 200, self.files[path]
            case ["GET", "api", "import", "file-upload", number]:
                return 200, {"id": int(number), "file": list(self.files)[int(number)].removeprefix("/data/")}
            case [_, "api", "projects", number, *rest] if int(number) in self.configs:
                return self._project(method, int(number), rest, query, body)
            case [_, "api", "projects", _, *_]:
                return 404, _refusal(404, "No Project matches the given query.")
        return 404, b"<!doctype html><title>404 | Label Studio</title>"

    def _project(self, method: str, number: int, rest: list[str], query: dict[str, str], body: Any) -> Answer:
        match [method, *rest]:
            case ["GET"]:
                return 200, {"id": number, "label_config": self.configs[number] or None}
            case ["PATCH"]:
                self.configs[number] = body["label_config"]
                return 200, {"id": number, "label_config": self.configs[number]}
            case ["POST", "import"] if query.get("commit_to_project") == "false":
                name = f"/data/upload/{number}/{len(self.files):08x}-photo.jpg"
                self.files[name] = body
                return 201, {"task_count": 1, "file_upload_ids": [len(self.files) - 1]}
            case ["POST", "import"]:
                for task in body:
                    self.add(number, task)
                return 201, {"import": 7} if self.enterprise else {"task_count": len(body)}
            case ["GET", "imports", "7"]:
                return 200, {"id": 7, "status": "completed", "task_ids": []}
        return 404, b"<!doctype html>"

    def _page(self, query: dict[str, str]) -> Answer:
        [after] = json.loads(query["query"])["filters"]["items"]
        assert (after["filter"], after["operator"]) == ("filter:tasks:id", "greater")
        chosen = [t for t in self.tasks if t["project"] == int(query["project"]) and t["id"] > after["value"]]
        chosen.sort(key=lambda task: task["id"])
        page = chosen[: min(int(query["page_size"]), _MOST_PER_PAGE)]
        names = query["include"].split(",")
        self.on_page()
        return 200, {
            "total": len(chosen),
            "tasks": [{n: v for n, v in t.items() if n in names} for t in page],
        }


@contextmanager
def studio_twin() -> Iterator[StudioTwin]:
    """Serve one on the loopback."""
    twin = StudioTwin()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body: Any = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get_content_type() == "application/json":
                body = json.loads(body)
            parts = urlsplit(self.path)
            twin.asked.append(f"{self.command} {parts.path}")
            failure = twin.failures.pop(0) if twin.failures else None
            if failure == "drop":
                return self._drop()
            if isinstance(failure, str) and failure not in ("lost", "half"):
                return self._send(302, b"", {"Location": failure})
            if isinstance(failure, int):
                return self._send(failure, b"<html>a proxy</html>", {})
            token = self.headers.get("Authorization", "")
            code, value = twin.answer(self.command, parts.path, dict(parse_qsl(parts.query)), body, token)
            if failure == "lost":
                return self._drop()
            content = value if isinstance(value, bytes) else json.dumps(value).encode()
            type_ = "text/html" if value is content else "application/json"
            return self._send(code, content, {"Content-Type": type_}, half=failure == "half")

        do_POST = do_PATCH = do_GET  # noqa: N815  # http.server's names

        def _drop(self) -> None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

        def _send(self, code: int, content: bytes, headers: dict[str, str], *, half: bool = False) -> None:
            self.send_response(code)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if half else content)
            if half:
                self._drop()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        twin.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield twin
        server.shutdown()


def _refusal(code: int, detail: str) -> dict[str, Any]:
    return {"id": "0", "status_code": code, "version": "1.23.2", "detail": detail, "exc_info": None}
