"""The lake of many small parts that these commands tend."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.tended_lakes import small_parts


@pytest.fixture
def lake(tmp_path: Path) -> str:
    uri = str(tmp_path / "lake")
    small_parts(uri)
    return uri
