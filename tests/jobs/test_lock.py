"""`--lock`: held while the work lasts, refused while another holds it, and given up when it is lost."""

from __future__ import annotations

import argparse
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from masklake.jobs import lock as exclusive
from masklake.jobs.lock import REFUSED, exclusively
from masklake.jobs.options import said_before
from masklake.model import scenes
from masklake.pipeline.lake.lock import Lease
from masklake.pipeline.storage.store import Storage

Run = Callable[..., tuple[int, str, str]]


def arguments(lake: Path, **more: Any) -> argparse.Namespace:
    """Those of a command that asks for the lock `segment`."""
    values = {
        "lake": f"{lake}/",
        "lock": "segment",
        "endpoint_url": None,
        "profile": None,
        "anonymous": False,
        "requester_pays": False,
        "kms_key": None,
    }
    return argparse.Namespace(**(values | more))


def lock(lake: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((lake / "locks" / "segment.json").read_text())
    return found


def test_it_is_held_while_the_work_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["masklake", "segment", "https://u:secret@h/a"])

    def work() -> int:
        assert not lock(tmp_path)["released"]
        assert exclusively(arguments(tmp_path), lambda: 0) == REFUSED
        return 3

    assert exclusively(arguments(tmp_path), work) == 3
    assert lock(tmp_path)["released"]
    assert lock(tmp_path)["what"].startswith("masklake segment ")
    assert "secret" not in lock(tmp_path)["what"]


def test_work_that_breaks_gives_it_back(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        exclusively(arguments(tmp_path), lambda: 1 // 0)
    assert lock(tmp_path)["released"]


@pytest.mark.parametrize("more", [{"lock": None}, {"dry_run": True}])
def test_who_does_not_need_it_takes_none(tmp_path: Path, more: dict[str, Any]) -> None:
    assert exclusively(arguments(tmp_path, **more), lambda: 0) == 0
    assert not (tmp_path / "locks").exists()


def test_the_work_is_asked_to_stop_when_it_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked, over = [], threading.Event()

    def kill(pid: int, number: int) -> None:
        asked.append((pid, number))
        over.set()

    monkeypatch.setattr(exclusive, "_LOOK_S", 0.02)
    monkeypatch.setattr(Lease, "lost", property(lambda _: True))
    monkeypatch.setattr(os, "kill", kill)
    assert exclusively(arguments(tmp_path), lambda: 130 if over.wait(30) else 0) == 130
    assert asked == [(os.getpid(), signal.SIGTERM)]
    assert "segment.json could not be kept" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["segment", "train"])
def test_the_commands_are_refused(masklake: Run, tmp_path: Path, command: str) -> None:
    lake = tmp_path / "lake"
    (lake / "runs").mkdir(parents=True)
    scenes.write(tmp_path / "photos", 1, 1)
    source = [tmp_path / "photos"] if command == "segment" else []
    with Lease(str(lake), "night", Storage(), what="another machine's", ttl=60):
        code, _, said = masklake(command, *source, lake, "--lock", "night")
    assert code == REFUSED
    assert said.startswith(
        f"masklake: refused: {lake}/locks/night.json is held by another machine's (process "
    )
    assert said.endswith("; a holder that died is forgotten after 60 s\n")
    assert [path.name for path in lake.iterdir() if path.name not in ("runs", "locks")] == []
    assert not any((lake / "runs").iterdir())


def test_a_name_that_can_be_none(masklake: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        masklake("segment", "a", tmp_path, "--lock", "../x")
    assert ended.value.code == 2
    assert "lock name '../x'" in capsys.readouterr().err


def test_who_resumes_is_told_to_ask_for_it_again(tmp_path: Path) -> None:
    assert said_before(arguments(tmp_path, profile="p")) == ["--profile=p", "--lock=segment"]
    assert said_before(arguments(tmp_path, lock=None)) == []
