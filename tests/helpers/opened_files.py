"""Which files of a lake queries open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from masklake.jobs.query.lake_files import ROOT, LakeFiles


def on_open(monkeypatch: pytest.MonkeyPatch, note: Callable[[str], object]) -> None:
    """Call `note` with the path below the lake of each file that a query opens."""
    native = LakeFiles.native

    def noted(files: LakeFiles, path: str) -> Any:
        note(path.removeprefix(ROOT))
        return native(files, path)

    monkeypatch.setattr(LakeFiles, "native", noted)
