"""The daemon's metrics endpoint: on the loopback, only where it is asked for, and true at each scrape."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from masklake.jobs.schedule.metrics import metrics_served
from masklake.jobs.schedule.store import Store
from masklake.pipeline.errors import UserError

from tests.helpers.schedules import schedule, wait_until
from tests.helpers.servers.ports import free_port


def scraped(port: int) -> str:
    return urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()


def test_a_schedule_that_is_added_or_paused_is_told_at_the_next_scrape(tmp_path: Path) -> None:
    store, port = Store(tmp_path / "s.db"), free_port()
    with metrics_served(store, "127.0.0.1", port):
        assert 'schedule="' not in scraped(port)
        store.add(schedule(tmp_path))
        assert 'masklake_schedule_next_timestamp_seconds{schedule="s"}' in scraped(port)
        assert 'masklake_schedule_firings{outcome="missed",schedule="s"} 0.0' in scraped(port)
        store.set_paused("s", True, None)
        text = scraped(port)
        assert 'masklake_schedule_paused{schedule="s"} 1.0' in text
        assert "next_timestamp_seconds{" not in text
        store.remove("s")
        assert 'schedule="' not in scraped(port)
    with pytest.raises(urllib.error.URLError):
        scraped(port)


def test_without_a_port_none_is_opened(tmp_path: Path) -> None:
    with metrics_served(Store(tmp_path / "s.db"), "not.a.host.invalid", None):
        pass


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken_port:
        port = taken_port.getsockname()[1]
        with (
            pytest.raises(UserError, match=rf"--metrics-port {port}: cannot be served at 127\.0\.0\.1"),
            metrics_served(Store(tmp_path / "s.db"), "127.0.0.1", port),
        ):
            pass


@pytest.mark.parametrize("port", ["0", "65536", "x"])
def test_what_is_no_port_is_refused(
    masklake: Callable[..., tuple[int, str, str]], port: str, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit):
        masklake("schedule", "serve", "--metrics-port", port, "--store", tmp_path / "s.db")


def test_the_daemon_answers_while_it_serves(tmp_path: Path) -> None:
    store, port = tmp_path / "s.db", free_port()
    command = [sys.executable, "-m", "masklake.jobs.cli", "schedule", "serve", "--store", store]
    with subprocess.Popen(
        [*map(str, command), "--metrics-port", str(port)], stdout=subprocess.PIPE, text=True
    ) as daemon:
        try:
            assert daemon.stdout is not None
            assert re.search("event=serving", daemon.stdout.readline())
            Store(store).add(schedule(tmp_path, next_at=None, paused=True))
            assert wait_until(lambda: 'masklake_schedule_paused{schedule="s"} 1.0' in scraped(port))
        finally:
            daemon.terminate()
            daemon.wait(30)
