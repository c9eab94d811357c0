"""healthcheck.py against a server, and against the Ray node that compose.yaml starts."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from tests.helpers.infra.dockerfile import stages
from tests.helpers.paths import ROOT

SCRIPT = ROOT / "infra" / "image" / "healthcheck.py"


def check(url: str | None, **env: str) -> int:
    """The script's exit code."""
    settings = os.environ | env | ({} if url is None else {"RAY_HEALTH_URL": url})
    return subprocess.run([sys.executable, SCRIPT], env=settings, check=False).returncode


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    for open_socket in sockets:
        open_socket.bind(("127.0.0.1", 0))
    ports = [open_socket.getsockname()[1] for open_socket in sockets]
    for open_socket in sockets:
        open_socket.close()
    return ports


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/well" else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_it_is_the_images_health_check() -> None:
    (health,) = stages(ROOT / "infra" / "Dockerfile")[-1].all("HEALTHCHECK")
    (copied,) = [c for c in stages(ROOT / "infra" / "Dockerfile")[-1].all("COPY") if "healthcheck" in c]
    assert copied.split()[0] == str(SCRIPT.relative_to(ROOT))
    assert health.endswith(f'CMD ["python", "{copied.split()[1]}"]')


def test_success_is_0_and_all_else_is_1(server: str) -> None:
    assert check(f"{server}/well") == 0
    assert check(f"{server}/ill") == 1
    assert check("http://127.0.0.1:1/") == 1


def test_no_proxy_is_asked(server: str) -> None:
    assert check(f"{server}/well", http_proxy="http://127.0.0.1:1") == 0


@pytest.mark.slow
def test_a_head_as_compose_starts_it_becomes_healthy_with_a_token_set(tmp_path: Path) -> None:
    compose = yaml.safe_load((ROOT / "infra" / "compose.yaml").read_text())
    command = compose["services"]["head"]["command"]
    gcs, dashboard, agent, metrics = free_ports(4)
    # Its ports, as others of this machine's Rays may have them; and the loopback.
    mine = [f"--port={gcs}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    arguments = [
        part for part in command if not part.startswith(("--metrics-export-port", "--dashboard-host"))
    ]
    temporary = Path("/tmp") / f"ml-{os.getpid()}"  # Ray's sockets need a short path
    env = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "RAY_USAGE_STATS_ENABLED": "0"}
    log = (tmp_path / "log").open("w+")
    node = subprocess.Popen(
        [
            str(Path(sys.executable).parent / arguments[0]), *arguments[1:], *mine, f"--metrics-export-port={metrics}",
            "--node-ip-address=127.0.0.1", f"--temp-dir={temporary}", "--object-store-memory=100000000",
        ],
        env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    url = f"http://127.0.0.1:{agent}/api/healthz"
    try:
        end = time.monotonic() + 120
        while check(url) != 0:
            if node.poll() is not None or time.monotonic() > end:
                log.seek(0)
                pytest.fail(f"the head did not become healthy\n{log.read()[-3000:]}")
            time.sleep(1)
        with closing(socket.create_connection(("127.0.0.1", dashboard), 5)):
            pass
        node.send_signal(signal.SIGTERM)
        node.wait(60)
        assert check(url) == 1
    finally:
        with suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL)
        log.close()
        subprocess.run(["rm", "-rf", str(temporary)], check=False)
