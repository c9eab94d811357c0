"""Attempts: every outcome, the lock in the lake, what a killed daemon leaves, and the failure hook."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from masklake.jobs.schedule import process as schedule_process
from masklake.jobs.schedule import runner as schedule_fire
from masklake.jobs.schedule import transitions
from masklake.jobs.schedule.hooks import check, without_path
from masklake.jobs.schedule.process import born, end_orphan, exit_code_text, outcome_of, run_of
from masklake.jobs.schedule.serving import serving
from masklake.jobs.schedule.store import (
    FAILED,
    INTERRUPTED,
    LOST,
    OK,
    REFUSED,
    RUNNING,
    STOPPED,
    TIMED_OUT,
    WAITING,
    Firing,
    Store,
)
from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.lock import Lock
from masklake.pipeline.lake.registry import Registry
from masklake.pipeline.storage.store import Storage

from tests.conftest import Bucket
from tests.helpers.paths import ROOT
from tests.helpers.schedules import RUN, Clock, diary, in_thread, runner, schedule, use_job, wait_until

Make = Callable[..., Firing]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "schedules.db")


@pytest.fixture
def due(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Add a schedule of the test job, and the waiting attempt at its firing of noon."""
    use_job(monkeypatch)
    monkeypatch.setattr(schedule_process, "GRACE_S", 1.0)

    def make(steps: str = "run", **values: Any) -> Firing:
        scheduled = schedule(tmp_path, steps, **values)
        store.add(scheduled)
        firing = transitions.claim(store, scheduled, Clock()())
        assert firing is not None
        return firing

    return make


def lock_of(folder: Path, name: str = "segment") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "lake" / "locks" / f"{name}.json").read_text())
    return content


def test_a_job_runs_and_is_recorded(due: Make, store: Store, tmp_path: Path) -> None:
    scheduler = runner(store)
    assert scheduler.attempt(due("run,say=all good").id) == (OK, None)
    [firing] = store.history()
    assert (firing.state, firing.run, firing.exit_code, firing.detail) == (OK, RUN, 0, "all good")
    assert firing.seconds is not None
    assert [text.split()[0] for text in diary(tmp_path / "lake")] == ["begin", "end"]
    lock = lock_of(tmp_path)
    assert (lock["what"], lock["released"]) == ("schedule s", True)
    assert scheduler.say.names() == ["started", OK]
    assert scheduler.say.all[0]["lock"] == str(tmp_path / "lake" / "locks" / "segment.json")
    assert firing.log == "20261125T120000Z-1.log"
    assert (store.logs / "s" / firing.log).read_text().startswith("arguments segment run,say=all good")


def test_the_real_child_runs_the_command(store: Store, tmp_path: Path) -> None:
    scheduled = schedule(tmp_path, command=["scenes", "out", "--images", "1"])
    store.add(scheduled)
    firing = transitions.claim(store, scheduled, Clock()())
    assert firing is not None
    assert runner(store).attempt(firing.id) == (OK, None)
    assert (tmp_path / "out" / "annotations.json").exists()


def test_a_schedule_names_a_model_of_the_lake_by_its_alias(store: Store, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    files = {file.name: file.read_bytes() for file in (ROOT / "model" / "weights" / "demo").iterdir()}
    registry = Registry(str(tmp_path / "lake"), Storage())
    for name, alias in (("photos", "production"), ("scans", "nightly")):
        registry.add(name, "0123456789ab", files)
        version = registry.find(f"{name}@0123456789ab")
        assert version is not None
        registry.promote(version, alias, registry.aliases(name))
    command = ["segment", "photos", "lake", "--dry-run", "--model", "scans:nightly"]
    scheduled = schedule(tmp_path, command=command)
    store.add(scheduled)
    firing = transitions.claim(store, scheduled, Clock()())
    assert firing is not None
    assert runner(store).attempt(firing.id) == (OK, None)
    log = (store.logs / "s" / "20261125T120000Z-1.log").read_text()
    assert log.startswith("would run demo@")  # as the spec in that folder names itself


def test_a_failure_says_its_code_and_last_line_and_is_tried_again(due: Make, store: Store) -> None:
    scheduler = runner(store)
    result = scheduler.attempt(due("run,leak,exit=3", retries=1).id)
    assert result is not None
    assert (result[0], result[1] and result[1].attempt) == (FAILED, 2)
    [waits, failed] = store.history()
    assert (waits.state, failed.exit_code, failed.run) == (WAITING, 3, RUN)
    assert failed.detail == "exit code 3: token=… is wrong"
    assert scheduler.say.all[-1]["again_at"] == "2026-11-25T12:01:00+00:00"


def test_a_mistake_is_not_tried_again(due: Make, store: Store) -> None:
    assert runner(store).attempt(due("run,leak,exit=2", retries=3).id) == (FAILED, None)
    [firing] = store.history()
    assert (firing.state, firing.exit_code) == (FAILED, 2)


def test_history_keeps_the_outcome_and_not_the_last_line(due: Make, store: Store) -> None:
    assert runner(store).attempt(
        due("run,say=complete: 9 of 9 images in the lake,say=next: query it").id
    ) == (
        OK,
        None,
    )
    assert store.history()[0].detail == "complete: 9 of 9 images in the lake"


def test_a_job_that_cannot_start_has_failed(due: Make, store: Store, tmp_path: Path) -> None:
    assert runner(store).attempt(due(cwd=str(tmp_path / "gone")).id) == (FAILED, None)
    assert "cannot start in" in (store.history()[0].detail or "")
    assert lock_of(tmp_path)["released"]


def test_what_nobody_foresaw_has_failed_too(due: Make, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("bug")

    monkeypatch.setattr(schedule_fire, "parse", broken)
    assert runner(store).attempt(due().id) == (FAILED, None)
    assert store.history()[0].detail == "ZeroDivisionError: bug"


def test_a_job_does_not_outlive_an_error_in_its_daemon(
    due: Make, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError("the disk is full")

    firing = due("run,sleep=600")
    monkeypatch.setattr(Store, "update", broken)
    assert runner(store).attempt(firing.id) == (FAILED, None)
    assert store.history()[0].detail == "OSError: the disk is full"
    for begin in diary(tmp_path / "lake"):
        assert born(int(begin.split()[1])) is None


def test_a_command_that_there_is_no_more_has_failed(due: Make, store: Store) -> None:
    assert runner(store).attempt(due(command=["segmnt", "a", "b"]).id) == (FAILED, None)
    assert "there is no command 'segmnt'" in (store.history()[0].detail or "")


@pytest.mark.parametrize("steps", ["run,sleep=600", "deaf,run,sleep=600"])
def test_a_job_that_takes_too_long_is_stopped(due: Make, store: Store, steps: str, tmp_path: Path) -> None:
    assert runner(store).attempt(due(steps, timeout=3.0).id) == (TIMED_OUT, None)
    [firing] = store.history()
    assert (firing.exit_code, firing.run) == (
        -signal.SIGKILL if steps.startswith("deaf") else -signal.SIGTERM,
        RUN,
    )
    assert (firing.detail or "").startswith("it ran past 3 s: run ")
    assert lock_of(tmp_path)["released"]


def test_an_overlap_is_refused_by_the_lock_and_names_its_holder(
    due: Make, store: Store, tmp_path: Path
) -> None:
    scheduler = runner(store)
    firing = due("run")
    with Lock(str(tmp_path / "lake"), "segment", Storage(), what="another machine"):
        assert scheduler.attempt(firing.id) == (REFUSED, None)
    assert "segment.json is held by another machine (process " in (store.history()[0].detail or "")
    assert diary(tmp_path / "lake") == []
    assert scheduler.say.names() == [REFUSED]


@pytest.mark.parametrize(("lock_option", "lock_name"), [(None, "segment"), ("gpu", "gpu")])
def test_what_is_sent_to_a_cluster_takes_the_lock_there(
    due: Make, store: Store, lock_option: str | None, lock_name: str
) -> None:
    """The daemon cannot hold it for a job that it may not wait for; and it knows a refusal by the exit code."""
    command = ["submit", "segment", "s3://photos/", "s3://lake/"]
    scheduler = runner(store)
    scheduler.attempt(due(command=command, lock=lock_option).id)
    [firing] = store.history()
    assert firing.log is not None
    log_text = (store.logs / "s" / firing.log).read_text()
    assert log_text.startswith(f"arguments submit segment s3://photos/ s3://lake/ --lock {lock_name}\n")
    assert "lock" not in scheduler.say.all[0]


def test_a_job_that_was_refused_the_lock_is_recorded_so(due: Make, store: Store) -> None:
    assert runner(store).attempt(due("say=refused,exit=75", retries=2).id) == (REFUSED, None)
    assert [(firing.state, firing.detail, firing.exit_code) for firing in store.history()] == [
        (REFUSED, "refused", 75)
    ]


def test_another_lock_is_not_in_the_way(due: Make, store: Store, tmp_path: Path) -> None:
    firing = due("run", lock="gpu")
    with Lock(str(tmp_path / "lake"), "segment", Storage()):
        assert runner(store).attempt(firing.id) == (OK, None)
    assert lock_of(tmp_path, "gpu")["released"]


def test_a_job_whose_lock_is_lost_is_stopped(due: Make, store: Store, tmp_path: Path) -> None:
    scheduler = runner(store, ttl=3.0)
    firing = due("run,sleep=600")
    for _ in in_thread(lambda: scheduler.attempt(firing.id)):
        wait_until(lambda: diary(tmp_path / "lake"))
        path = tmp_path / "lake" / "locks" / "segment.json"
        Storage().write(str(path), json.dumps(lock_of(tmp_path) | {"token": "another's"}).encode())
    [firing] = store.history()
    assert (firing.state, len(diary(tmp_path / "lake"))) == (LOST, 1)
    assert "another may hold it" in (firing.detail or "")
    assert (lock_of(tmp_path)["token"], lock_of(tmp_path)["released"]) == ("another's", False)


def test_a_daemon_that_stops_stops_its_job_and_the_next_goes_on(
    due: Make, store: Store, tmp_path: Path
) -> None:
    scheduler = runner(store)
    firing = due("run,sleep=600")
    for _ in in_thread(lambda: scheduler.attempt(firing.id)):
        wait_until(lambda: diary(tmp_path / "lake"))
        scheduler.stop.set()
    [waits, stopped] = store.history()
    assert (waits.state, waits.attempt, stopped.state, stopped.run) == (WAITING, 2, STOPPED, RUN)
    assert scheduler.attempt(waits.id) is None  # it has stopped
    with store.transaction() as db:
        db.execute("update schedules set command = replace(command, 'sleep=600', 'say=done')")
    again = runner(store)
    again.recover()
    assert again.attempt(waits.id) == (OK, None)
    assert again.say.all[0]["resumes"] == RUN
    log = (store.logs / "s" / "20261125T120000Z-2.log").read_text()
    assert log.splitlines()[0].endswith(f"--resume {RUN}")


def test_what_cannot_be_resumed_is_done_anew(due: Make, store: Store) -> None:
    first = due("run,exit=2")
    started = transitions.begin(store, first.id, "token", Clock()())
    assert started is not None
    following = transitions.finish(store, started, INTERRUPTED, None, Clock()(), run=RUN)
    assert following is not None
    scheduler = runner(store)
    assert scheduler.attempt(following.id) == (FAILED, None)
    assert [event.get("resumes") for event in scheduler.say.all] == [RUN, None, None]


def _daemon(store: Store, firing: Firing) -> subprocess.Popen[bytes]:
    """A process that makes the attempt."""
    code = (
        "from tests.helpers.schedules import *\n"
        "schedule_process._CHILD = 'tests.helpers.schedules'\n"
        f"runner(Store(Path({str(store.path)!r}))).attempt({firing.id})"
    )
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)


def test_what_a_killed_daemon_left_is_settled(due: Make, store: Store, tmp_path: Path) -> None:
    """Its job outlived it, and it holds the lock: the job is ended, and its next attempt need not wait for the lock."""
    firing = due("deaf,run,sleep=600", on_failure_command="true")
    daemon = _daemon(store, firing)
    wait_until(lambda: (log := store.history()[0].log) and run_of(store.logs / "s" / log))
    running = store.history()[0]
    assert running.pid is not None
    daemon.kill()
    daemon.wait()
    scheduler = runner(store)
    with serving(store):
        scheduler.recover()
    assert born(running.pid) is None
    [waits, interrupted] = store.history()
    assert (interrupted.state, interrupted.run, waits.state, waits.attempt) == (INTERRUPTED, RUN, WAITING, 2)
    assert (interrupted.detail or "").startswith("the daemon was killed, and the job outlived it until now: ")
    assert lock_of(tmp_path)["released"]
    assert len(diary(tmp_path / "lake")) == 1
    scheduler.recover()
    assert len(store.history()) == 2


def test_a_job_ends_with_its_daemon(due: Make, store: Store, tmp_path: Path) -> None:
    firing = due("run,sleep=600")
    daemon = _daemon(store, firing)
    wait_until(lambda: diary(tmp_path / "lake"))
    pid = int(diary(tmp_path / "lake")[0].split()[1])
    daemon.kill()
    daemon.wait()
    wait_until(lambda: born(pid) is None)
    assert len(diary(tmp_path / "lake")) == 1


def test_a_process_of_the_same_number_is_left_alone() -> None:
    assert not end_orphan(os.getpid(), "another boot-12345")
    assert not end_orphan(os.getpid(), None)
    assert born(os.getpid()) is not None
    assert born(2**22 + 1) is None


def test_old_logs_go(due: Make, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule_fire, "KEPT_LOGS", 2)
    clock = Clock()
    first = due("run")
    for n in range(4):
        scheduler = runner(store, clock)
        clock.set(30 * n)
        firing = first if n == 0 else transitions.claim(store, store.schedule("s"), clock())
        assert firing is not None
        assert scheduler.attempt(firing.id) == (OK, None)
    assert sorted(file.name for file in (store.logs / "s").iterdir()) == [
        "20261125T120100Z-1.log",
        "20261125T120130Z-1.log",
    ]


@pytest.mark.parametrize("s3_bucket", ["moto"], indirect=True)
def test_the_lock_of_a_lake_in_s3(s3_bucket: Bucket, store: Store, tmp_path: Path) -> None:
    scheduled = schedule(tmp_path, command=["labels", "stats", f"{s3_bucket.uri}/lake"])
    store.add(scheduled)
    firing = transitions.claim(store, scheduled, Clock()())
    assert firing is not None
    with Lock(f"{s3_bucket.uri}/lake", "labels-stats", Storage(), what="another machine"):
        assert runner(store).attempt(firing.id) == (REFUSED, None)
    # The next is not refused; there is nothing in this lake to count.
    scheduled = store.schedule("s")
    clock = Clock()
    clock.set(60)
    firing = transitions.claim(store, scheduled, clock())
    assert firing is not None
    assert runner(store, clock).attempt(firing.id) == (FAILED, None)
    assert json.loads(s3_bucket.get("lake/locks/labels-stats.json"))["released"]


# --- the failure hook


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[Any], list[int]]]:
    """A server: its URL, what was posted, and the codes that it answers next."""
    posts: list[Any] = []
    codes: list[int] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # http.server's name
            posts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(codes.pop() if codes else 204)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/secret-path", posts, codes
        server.shutdown()
        thread.join()


def test_a_command_hook_finds_the_facts_in_its_environment(due: Make, store: Store, tmp_path: Path) -> None:
    command = "sh -c 'env | grep ^MASKLAKE_ | sort > hook.txt'"
    runner(store).attempt(due("run,say=broken,exit=1", on_failure_command=command).id)
    facts = dict(line.split("=", 1) for line in (tmp_path / "hook.txt").read_text().splitlines())
    assert float(facts.pop("MASKLAKE_SECONDS")) > 0
    assert facts == {
        "MASKLAKE_SCHEDULE": "s",
        "MASKLAKE_OUTCOME": "failed",
        "MASKLAKE_SCHEDULED_AT": "2026-11-25T12:00:00+00:00",
        "MASKLAKE_ATTEMPT": "1",
        "MASKLAKE_RUN": RUN,
        "MASKLAKE_EXIT_CODE": "1",
        "MASKLAKE_DETAIL": "exit code 1: broken",
        "MASKLAKE_LOG": str(store.logs / "s" / "20261125T120000Z-1.log"),
    }
    assert store.history()[0].hook == "command ran"


def test_a_webhook_is_told_and_its_url_is_not(
    due: Make, store: Store, webhook: tuple[str, list[Any], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, posts, codes = webhook
    monkeypatch.setenv("HOOK", url)
    scheduler = runner(store)
    scheduler.attempt(due("run,exit=1", name="a", on_failure_webhook=url).id)
    scheduler.attempt(due("run,exit=1", name="b", on_failure_webhook="env:HOOK").id)
    codes.append(302)
    scheduler.attempt(due("run,exit=1", name="c", on_failure_webhook="env:HOOK").id)
    scheduler.attempt(due("run,exit=1", name="d", on_failure_webhook="env:UNSET").id)
    codes.append(500)
    scheduler.attempt(due("run,exit=1", name="e", on_failure_webhook=url).id)
    assert [(post["schedule"], post["outcome"], post["run"]) for post in posts] == [
        (n, "failed", RUN) for n in "abce"
    ]
    assert [firing.hook for firing in reversed(store.history())] == [
        "webhook answered 204",
        "webhook answered 204",
        "webhook failed: answered 302",
        "webhook failed: env:UNSET is no http:// or https:// URL",
        "webhook failed: answered 500",
    ]
    assert "secret-path" not in str(scheduler.say.all)


@pytest.mark.parametrize(
    ("hook", "answer"),
    [
        ({"on_failure_command": "no-such-command-anywhere"}, "command failed: [Errno 2]"),
        (
            {"on_failure_command": "sh -c 'echo token=abc >&2; exit 7'"},
            "command failed: exit code 7: token=…",
        ),
        ({"on_failure_webhook": "http://127.0.0.1:1/x"}, "webhook failed: <urlopen error [Errno 111]"),
    ],
)
def test_a_hook_that_fails_is_recorded_and_no_more(
    due: Make, store: Store, hook: dict[str, str], answer: str
) -> None:
    assert runner(store).attempt(due("run,exit=1", **hook).id) == (FAILED, None)
    assert (store.history()[0].hook or "").startswith(answer)


def test_the_hook_is_for_what_is_not_tried_again_and_did_not_end_well(
    due: Make, store: Store, tmp_path: Path
) -> None:
    hook = {"on_failure_command": "touch hooked"}
    scheduler = runner(store)
    assert scheduler.attempt(due("run", name="fine", **hook).id) == (OK, None)
    first = scheduler.attempt(due("run,exit=1", name="tried", retries=1, **hook).id)
    assert not (tmp_path / "hooked").exists()
    assert first is not None
    assert first[1] is not None
    assert scheduler.attempt(first[1].id) == (FAILED, None)
    assert (tmp_path / "hooked").exists()


def test_a_hook_that_a_kill_came_before_is_told_by_the_next_daemon(
    due: Make, store: Store, tmp_path: Path
) -> None:
    started = transitions.begin(store, due(on_failure_command="touch hooked").id, "token", Clock()())
    assert started is not None
    transitions.finish(store, started, FAILED, "why", Clock()())
    assert store.history()[0].hook == "due"
    runner(store).recover()
    assert (tmp_path / "hooked").exists()
    assert store.history()[0].hook == "command ran"


@pytest.mark.parametrize(
    ("command", "webhook", "answer"),
    [
        ("", None, "names no command"),
        ("sh -c 'x", None, "check its quotes"),
        ("curl https://h/?token=abc", None, "carries a credential"),
        (None, "ftp://h/x", "is no http"),
        (None, "file:///etc/passwd", "is no http"),
        (None, "http://", "is no http"),
        (None, "http://[::1", "is no http"),
        (None, "https://user:secret@h/x", "write env:NAME"),
        (None, "https://h/x?token=secret", "write env:NAME"),
    ],
)
def test_bad_hooks_are_refused_without_their_secrets(
    command: str | None, webhook: str | None, answer: str
) -> None:
    with pytest.raises(UserError, match="--on-failure") as error:
        check(command, webhook)
    assert answer in str(error.value)
    assert "secret" not in str(error.value)
    assert "abc" not in str(error.value)


def test_webhooks_are_shown_up_to_their_host() -> None:
    assert without_path("https://hooks.example/services/T0/B0/key?x=1") == "https://hooks.example/…"
    assert without_path("https://hooks.example") == "https://hooks.example"
    assert without_path("env:HOOK") == "env:HOOK"


def test_words_for_codes_and_last_lines(tmp_path: Path) -> None:
    assert [exit_code_text(code) for code in (0, 3, -9, -64)] == [
        "exit code 0",
        "exit code 3",
        "killed by SIGKILL",
        "killed by SIGRTMAX",
    ]
    log = tmp_path / "log"
    log.write_bytes(b"first\n\x1b[31mred\xff\n\n  \n")
    assert outcome_of(log) == "\\x1b[31mred�"
    assert outcome_of(tmp_path / "none") == ""
    log.write_bytes(b"")
    assert outcome_of(log) == ""


def test_running_is_what_the_store_says_meanwhile(due: Make, store: Store, tmp_path: Path) -> None:
    firing = due("run,sleep=600")
    scheduler = runner(store)
    for _ in in_thread(lambda: scheduler.attempt(firing.id)):
        wait_until(lambda: diary(tmp_path / "lake"))
        assert [running.id for running in store.in_state(RUNNING)] == [firing.id]
        assert wait_until(lambda: store.firing(firing.id).pid)
        scheduler.stop.set()
