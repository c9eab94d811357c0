"""Headless Chromium for tests of pages; they are skipped, with the reason, where it is not installed."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import sync_playwright


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser of playwright's."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("Debian's chromium is not on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def page(browser: Any, width: int = 1200, height: int = 800, **context: Any) -> Iterator[Any]:
    """A page of a fresh context. An error in the console fails the test: an exception, or what the content security policy refuses."""
    wrong: list[str] = []
    with browser.new_context(viewport={"width": width, "height": height}, **context) as fresh:
        tab = fresh.new_page()
        tab.on(
            "console",
            lambda message: wrong.append(message.text) if message.type == "error" else None,
        )
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.set_default_timeout(20_000)
        yield tab
    assert not wrong, wrong
