"""`--lock`: held while the work lasts, refused while another holds it, and given up when it is lost."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from masklake.jobs import lock as lock_module
from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.lock import under_lock
from masklake.jobs.options.parser import resuming
from masklake.jobs.options.shared import StorageOptions
from masklake.jobs.segment.options import SegmentOptions
from masklake.model import scenes
from masklake.pipeline.lake.lock import Lock
from masklake.pipeline.storage.store import Storage

Run = Callable[..., tuple[int, str, str]]


def locked(lake: Path, work: Callable[[], int], name: str | None = "segment") -> int:
    """`work` under the lock `segment` of the lake."""
    return under_lock(f"{lake}/", name, Storage(), work)


def lock(lake: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((lake / "locks" / "segment.json").read_text())
    return content


def test_it_is_held_while_the_work_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["masklake", "segment", "https://u:secret@h/a"])

    def work() -> int:
        assert not lock(tmp_path)["released"]
        assert locked(tmp_path, lambda: 0) == ExitCode.REFUSED
        return 3

    assert locked(tmp_path, work) == 3
    assert lock(tmp_path)["released"]
    assert lock(tmp_path)["what"].startswith("masklake segment ")
    assert "secret" not in lock(tmp_path)["what"]


def test_work_that_breaks_gives_it_back(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        locked(tmp_path, lambda: 1 // 0)
    assert lock(tmp_path)["released"]


def test_who_does_not_ask_for_it_takes_none(tmp_path: Path) -> None:
    assert locked(tmp_path, lambda: 0, None) == 0
    assert not (tmp_path / "locks").exists()


def test_a_dry_run_takes_none(masklake: Run, tmp_path: Path) -> None:
    scenes.write(tmp_path / "photos", 1, 1)
    lake = tmp_path / "lake"
    code, output, _ = masklake(
        "segment", tmp_path / "photos", lake, "--model", "demo", "--lock", "x", "--dry-run"
    )
    assert (code, lake.exists()) == (0, False), output


def test_the_work_is_asked_to_stop_when_it_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kills, over = [], threading.Event()

    def kill(pid: int, number: int) -> None:
        kills.append((pid, number))
        over.set()

    monkeypatch.setattr(lock_module, "_LOOK_S", 0.02)
    monkeypatch.setattr(Lock, "lost", property(lambda _: True))
    monkeypatch.setattr(os, "kill", kill)
    assert locked(tmp_path, lambda: 130 if over.wait(30) else 0) == 130
    assert kills == [(os.getpid(), signal.SIGTERM)]
    assert "segment.json could not be kept" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["segment", "train"])
def test_the_commands_are_refused(masklake: Run, tmp_path: Path, command: str) -> None:
    lake = tmp_path / "lake"
    (lake / "runs").mkdir(parents=True)
    scenes.write(tmp_path / "photos", 1, 1)
    source = [tmp_path / "photos"] if command == "segment" else []
    with Lock(str(lake), "night", Storage(), what="another machine's", ttl=60):
        code, _, message = masklake(command, *source, lake, "--lock", "night")
    assert code == ExitCode.REFUSED == 75
    assert message.startswith(
        f"masklake: refused: {lake}/locks/night.json is held by another machine's (process "
    )
    assert message.endswith("; a holder that died is forgotten after 60 s\n")
    assert [path.name for path in lake.iterdir() if path.name not in ("runs", "locks")] == []
    assert not any((lake / "runs").iterdir())


def test_a_name_that_can_be_none(masklake: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        masklake("segment", "a", tmp_path, "--lock", "../x")
    assert exit_.value.code == 2
    assert "lock name '../x'" in capsys.readouterr().err


def test_who_resumes_is_told_to_ask_for_it_again() -> None:
    options = SegmentOptions(
        source="a", lake="b", lock="segment", weights_dir="w", storage=StorageOptions(profile="p")
    )
    assert resuming(options, "--resume", "R") == [
        "a", "b", "--resume", "R", "--weights-dir=w", "--lock=segment", "--profile=p",
    ]  # fmt: skip
    assert resuming(SegmentOptions(source="a", lake="b")) == ["a", "b"]
