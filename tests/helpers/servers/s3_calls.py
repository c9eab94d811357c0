"""The calls of S3's client that a test makes."""

from __future__ import annotations

from typing import Any

import pytest
from masklake.pipeline.storage.s3 import S3Store


def note_calls(
    monkeypatch: pytest.MonkeyPatch, page_keys: int | None = None
) -> list[tuple[str, dict[str, Any]]]:
    """Every call from here on, as (method, arguments), in a list that grows; with `page_keys`, a listing's pages have no more keys."""
    call = S3Store._call
    calls: list[tuple[str, dict[str, Any]]] = []

    def noted(store: S3Store, method: str, **arguments: Any) -> dict:
        calls.append((method, arguments))
        if page_keys is not None and method == "list_objects_v2":
            arguments = arguments | {"MaxKeys": page_keys}
        return call(store, method, **arguments)

    monkeypatch.setattr(S3Store, "_call", noted)
    return calls
