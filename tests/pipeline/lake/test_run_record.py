"""Run records, and attempts of which only one can win."""

from __future__ import annotations

import datetime
import json
import os
import re
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.process import process_alive
from masklake.pipeline.lake.record import new_run_id, now
from masklake.pipeline.lake.run_record import RunFolder, RunRecord, SupersededError, resumed
from masklake.pipeline.storage.crash_points import on_reach
from masklake.pipeline.storage.store import Storage

from tests.conftest import Bucket
from tests.helpers.lakes import record

RUN = "20261122T235416-3fa9c1"


def _ago(seconds: float) -> str:
    return (datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds)).isoformat()


def _record(**fields: object) -> RunRecord:
    return record(RUN, "/lake", **fields)


def test_a_record_survives_its_file() -> None:
    before = _record(counts={"ok": 3}, stages={"fetch": {"seconds": 1.5}}, error="日本語 \x01")
    assert RunRecord.parse(before.to_json(), "run.json") == before
    assert "日本語" in before.to_json().decode()


def test_a_record_of_a_lake_that_was_moved_names_it_where_it_is(tmp_path: Path) -> None:
    """Else what goes on with the run would write to where the lake was."""
    saved = record(RUN, str(tmp_path / "lake"))
    RunFolder(saved.lake, RUN, Storage()).save(saved)
    moved = str((tmp_path / "lake").rename(tmp_path / "moved"))
    assert RunFolder(moved, RUN, Storage()).load() == replace(saved, lake=moved)


def test_fields_of_a_later_masklake_are_ignored() -> None:
    content = json.loads(_record().to_json()) | {"colour": "red"}
    assert RunRecord.parse(json.dumps(content).encode(), "u") == _record()


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"3", b"null", b"{}", b'{"schema_version": 1}', b'{"schema_version": "one"}', b"\xff"],
)
def test_a_broken_record_is_named(data: bytes) -> None:
    with pytest.raises(UserError, match=r"^s3://lake/run\.json: is not a run record"):
        RunRecord.parse(data, "s3://lake/run.json")


def test_a_record_of_a_newer_schema() -> None:
    content = json.loads(_record().to_json()) | {"schema_version": 2}
    with pytest.raises(UserError, match="upgrade"):
        RunRecord.parse(json.dumps(content).encode(), "u")


def test_run_ids_sort_by_time_and_differ() -> None:
    ids = [new_run_id() for _ in range(50)]
    assert len(set(ids)) == 50
    assert [i[:15] for i in ids] == sorted(i[:15] for i in ids)
    assert all(re.fullmatch(r"\d{8}T\d{6}-[0-9a-f]{6}", i) for i in ids)


def test_equal_options_cover() -> None:
    assert _record().covers == record("other", "/else", counts={"ok": 1}).covers
    assert _record().covers != _record(options={"score_threshold": 0.5}).covers
    other = {"name": "demo", "fingerprint": "ffffffffffff", "classes": ["person"]}
    assert _record().covers != _record(model=other).covers


def test_a_run_from_before_there_were_tiles_covers_what_one_without_tiles_does() -> None:
    before = _record(options={"score": 0.5})
    assert before.covers == _record(options={"score": 0.5, "tile": 0, "overlap": None}).covers
    assert before.covers != _record(options={"score": 0.5, "tile": None, "overlap": None}).covers


def test_a_run_from_before_proposals_could_be_fewer_covers_what_one_with_the_models_own_does() -> None:
    before = _record(options={"score": 0.5})
    assert before.covers == _record(options={"score": 0.5, "proposals": None}).covers
    assert before.covers != _record(options={"score": 0.5, "proposals": 300}).covers


def test_a_run_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=RUN):
        RunFolder(str(tmp_path), RUN, Storage()).load()


def test_save_and_load(s3_bucket: Bucket) -> None:
    folder = RunFolder(f"{s3_bucket.uri}/lake", RUN, Storage())
    folder.save(_record())
    folder.save(_record(state="stopped"))
    assert folder.load().state == "stopped"
    assert s3_bucket.all_keys() == [f"lake/runs/{RUN}/run.json"]


def test_a_record_never_replaces_that_of_a_later_attempt(s3_bucket: Bucket) -> None:
    """Not even where the later one begins between the look and the write."""
    folder = RunFolder(f"{s3_bucket.uri}/lake", RUN, Storage())
    assert folder.take_attempt(1, lambda _: False) == 1
    folder.save(_record())
    later = replace(folder.load(), attempt=2, state="complete")

    def overtaken(point: str) -> None:
        if point == f"replace {folder.record_uri}" and not folder.superseded(1):
            folder.take_attempt(2, lambda _: False)
            folder.save(later)

    with (
        on_reach(overtaken),
        pytest.raises(SupersededError, match="a later attempt took over from attempt 1"),
    ):
        folder.save(_record(state="stopped"))
    assert folder.load() == later


# ---- attempts ----


def test_of_many_drivers_one_takes_the_attempt(s3_bucket: Bucket) -> None:
    folder = RunFolder(f"{s3_bucket.uri}/lake", RUN, Storage())
    start = threading.Barrier(6)
    won: list[bool] = []

    def drive() -> None:
        start.wait()
        try:
            folder.take_attempt(2, lambda pid: True)
            won.append(True)
        except UserError as error:
            assert str(os.getpid()) in str(error)
            won.append(False)

    threads = [threading.Thread(target=drive) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 5 + [True]


def test_superseded_by_the_next_attempt(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path), RUN, Storage())
    assert folder.take_attempt(1, lambda pid: True) == 1
    assert not folder.superseded(1)
    assert folder.take_attempt(2, lambda pid: True) == 2
    assert folder.superseded(1)
    assert not folder.superseded(2)


def test_an_attempt_whose_driver_died_before_it_wrote_its_record(tmp_path: Path) -> None:
    """Killed between the two writes: the record still says attempt 1, and attempt 2 is taken for ever."""
    folder = RunFolder(str(tmp_path), RUN, Storage())
    folder.take_attempt(1, lambda pid: True)
    folder.take_attempt(2, lambda pid: True)
    assert folder.take_attempt(2, lambda pid: False) == 3
    assert folder.superseded(2)


def test_an_attempt_of_another_host_counts_as_dead_after_a_silence(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path), RUN, Storage())
    uri = f"{tmp_path}/runs/{RUN}/attempts/000002.json"
    owner = {"host": "elsewhere", "pid": 7, "at": now(), "token": "x"}
    folder.storage.write(uri, json.dumps(owner).encode())
    with pytest.raises(UserError, match="process 7 on elsewhere"):
        folder.take_attempt(2, lambda pid: False)
    folder.storage.write(uri, json.dumps({**owner, "at": _ago(3600)}).encode())
    assert folder.take_attempt(2, lambda pid: False) == 3


# ---- resuming ----


@pytest.mark.parametrize("state", ["stopped", "failed", "incomplete"])
def test_the_next_attempt(state: str) -> None:
    before = _record(state=state, attempt=3, error="e", verification={"missing": 1}, counts={"ok": 2})
    after = resumed(before, lambda pid: True)
    assert (after.state, after.attempt, after.pid, after.host) == (
        "running",
        4,
        os.getpid(),
        socket.gethostname(),
    )
    assert (after.error, after.verification, after.finished_at) == (None, None, None)
    assert (after.run, after.options, after.created_at) == (before.run, before.options, before.created_at)


def test_a_complete_run_has_nothing_to_resume() -> None:
    with pytest.raises(UserError, match="complete"):
        resumed(_record(state="complete"), lambda pid: False)


def test_a_live_run_of_this_host() -> None:
    running = _record(state="running", host=socket.gethostname(), pid=4711, updated_at=now())
    with pytest.raises(UserError, match="process 4711"):
        resumed(running, lambda pid: pid == 4711)
    assert resumed(running, lambda pid: False).attempt == 2


def test_a_pid_that_another_process_has_got_since() -> None:
    """After a reboot, or in a container where every driver is process 1."""
    long_dead = _record(state="running", host=socket.gethostname(), pid=1, updated_at=_ago(3600))
    assert resumed(long_dead, lambda pid: True).attempt == 2


def test_a_run_of_another_host_is_left_alone_while_it_shows_life() -> None:
    running = _record(state="running", host="elsewhere", updated_at=_ago(5))
    with pytest.raises(UserError, match="elsewhere"):
        resumed(running, lambda pid: False)
    assert resumed(replace(running, updated_at=_ago(3600)), lambda pid: False).attempt == 2


def test_which_processes_are_alive() -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        assert process_alive(sleeper.pid)
        sleeper.kill()
        os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
        assert not process_alive(sleeper.pid)  # a zombie
    finally:
        sleeper.kill()
        sleeper.wait()
    assert not process_alive(sleeper.pid)
    assert not process_alive(os.getpid())
