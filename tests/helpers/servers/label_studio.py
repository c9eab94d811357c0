"""A real Label Studio (PyPI `label-studio`) on the loopback, where one is installed: in a virtual environment of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from tests.helpers.servers.ports import free_port

LABEL_STUDIO = "MASKLAKE_LABEL_STUDIO"
"""The environment variable with its executable, where it is not on the PATH."""
TOKEN = "0123456789abcdef0123456789abcdef01234567"
_START_S = 300.0
"""It makes its database first."""


def executable() -> str | None:
    """Label Studio's program, or None where it is not installed."""
    return os.environ.get(LABEL_STUDIO) or shutil.which("label-studio")


@dataclass(frozen=True, kw_only=True)
class LabelStudio:
    """A server, asked as its only user."""

    url: str
    session: requests.Session

    def ask(self, method: str, path: str, **more: Any) -> Any:
        """The JSON that it answers; an error of its for any other answer."""
        answer = self.session.request(method, f"{self.url}/api/{path}", timeout=60, **more)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def new_project(self, title: str, label_config: str = "<View></View>") -> int:
        project = self.ask("POST", "projects/", json={"title": title, "label_config": label_config})
        return int(project["id"])

    def tasks(self, project: int) -> list[dict[str, Any]]:
        """With annotations and predictions."""
        asked = {"project": project, "fields": "all", "page_size": 1000}
        tasks: list[dict[str, Any]] = self.ask("GET", "tasks/", params=asked)["tasks"]
        return sorted(tasks, key=lambda task: task["id"])

    def annotate(self, task: int, results: list[dict[str, Any]], **more: Any) -> int:
        return int(self.ask("POST", f"tasks/{task}/annotations/", json={"result": results, **more})["id"])


@contextmanager
def label_studio(folder: Path) -> Iterator[LabelStudio]:
    """Start and stop one with its data in `folder`."""
    program, port = executable(), free_port()
    assert program is not None
    arguments = [program, "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(port)]
    arguments += ["--data-dir", str(folder), "--username", "a@example.com", "--password", "not-a-secret"]
    environment = os.environ | {
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder),
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "ML_BLOCK_LOCAL_IP": "false",  # the backend of these tests is on the loopback
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
    }
    url = f"http://127.0.0.1:{port}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*arguments, "--user-token", TOKEN],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait(url, process, folder / "log")
        session = requests.Session()
        session.headers["Authorization"] = f"Token {TOKEN}"
        yield LabelStudio(url=url, session=session)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            if requests.get(f"{url}/health", timeout=5).ok:
                return
        except requests.ConnectionError:
            time.sleep(0.5)
    raise AssertionError(f"Label Studio does not start: {log.read_text()[-2000:]}")
