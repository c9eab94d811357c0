"""-q: the result and errors, nothing else; and no colours where NO_COLOR asks for none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from masklake.jobs.cli import main
from masklake.jobs.terminal.manners import be_quiet, is_quiet, progress_console
from masklake.jobs.terminal.text import note


@pytest.fixture(autouse=True)
def _loud_again() -> Iterator[None]:
    yield
    be_quiet(False)


def test_quiet_leaves_results_and_errors(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["scenes", str(tmp_path / "scenes"), "--images", "1", "--quiet"]) == 0
    assert is_quiet()
    progress_console().print("a bar")
    progress_console(stderr=True).print("a heading")
    note("a remark")
    out, err = capsys.readouterr()
    assert "1 scenes in" in out
    assert "a bar" not in out
    assert err == ""
    assert main(["runs", str(tmp_path / "nothing"), "-q"]) == 2
    assert "masklake: error:" in capsys.readouterr().err


def test_each_command_line_says_it_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["scenes", str(tmp_path), "--images", "1", "-q"])
    main(["scenes", str(tmp_path), "--images", "1"])
    assert not is_quiet()
    note("a remark")
    assert "a remark" in capsys.readouterr().err


def test_no_colours_where_none_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert progress_console().color_system is not None
    monkeypatch.setenv("NO_COLOR", "1")
    assert progress_console().no_color
