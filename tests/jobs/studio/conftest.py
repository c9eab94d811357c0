"""Fixtures of the tests with Label Studio's twin."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from masklake.jobs.studio import client

from tests.helpers.servers.studio_twin import LEGACY, StudioTwin, studio_twin


@pytest.fixture
def twin(monkeypatch: pytest.MonkeyPatch) -> Iterator[StudioTwin]:
    """A server with an empty project, number 3, and its token in the environment; nobody waits long for it."""
    monkeypatch.setenv(client.TOKEN, LEGACY)
    monkeypatch.setattr(client, "_POLL_S", 0.01)
    monkeypatch.setattr(client, "_FIRST_WAIT_S", 0.01)
    with studio_twin() as server:
        server.configs[3] = "<View></View>"
        yield server
