"""The lake of many small parts that these tests begin with, made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.helpers.tended_lakes import small_parts


@pytest.fixture(scope="session")
def fresh_lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fresh") / "lake"
    assert small_parts(str(folder)) == (56, 55)
    return folder


@pytest.fixture
def lake(fresh_lake: Path, tmp_path: Path) -> str:
    return str(shutil.copytree(fresh_lake, tmp_path / "lake"))
