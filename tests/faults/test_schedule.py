"""A schedule of every two seconds, an overlap, a second daemon, a daemon killed and restarted: nothing doubled or lost."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from masklake.jobs.schedule.cron import Every
from masklake.jobs.schedule.process import born
from masklake.jobs.schedule.runner import utcnow
from masklake.jobs.schedule.store import (
    COALESCED,
    INTERRUPTED,
    OK,
    REFUSED,
    STOPPED,
    WAITING,
    Store,
    moment,
    utc,
)
from masklake.pipeline.lake.lock import Lock, LockHeldError
from masklake.pipeline.storage.store import Storage

from tests.helpers.faults.table import counted, struck
from tests.helpers.paths import ROOT
from tests.helpers.schedules import RUN, diary, schedule, use_job, wait_until

pytestmark = pytest.mark.slow

EVERY = 2


@contextlib.contextmanager
def daemon(store: Store, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`masklake schedule serve`, in a process of its own, with the tests' job."""
    code = (
        "from tests.helpers.schedules import *\n"
        "from masklake.jobs.cli import main\n"
        "schedule_process._CHILD = 'tests.helpers.schedules'\n"
        f"sys.exit(main(['schedule', 'serve', '--store', {str(store.path)!r}, '--lock-seconds', '6']))"
    )
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def firings(store: Store, state: str) -> int:
    return sum(firing.state == state for firing in store.history(limit=1000))


def taken(lake: Path) -> Lock:
    """The schedule's lock, in other hands."""
    lock = Lock(str(lake), "segment", Storage(), what="another machine", ttl=30.0)

    def tried() -> bool:
        with contextlib.suppress(LockHeldError):
            lock.acquire()
            return True
        return False

    wait_until(tried)
    return lock


@pytest.mark.parametrize("deaf", ["", "deaf,"])
def test_nothing_is_doubled_and_nothing_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaf: str
) -> None:
    """`deaf` jobs do not end with their daemon: the next daemon has to end them before it goes on."""
    use_job(monkeypatch)
    store, lake = Store(tmp_path / "schedules.db"), tmp_path / "lake"
    command = f"{deaf}run,sleep=0.5"
    first_time = Every(EVERY).after(utcnow())
    assert first_time is not None
    store.add(schedule(tmp_path, command, every=EVERY, next_at=utc(first_time)))

    with daemon(store, tmp_path / "first.txt") as first:
        wait_until(lambda: firings(store, OK) >= 2)
        second = subprocess.run(
            [sys.executable, "-m", "masklake.jobs.cli", "schedule", "serve", "--store", store.path],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert second.returncode == 2
        assert f"is served by process {first.pid} on " in second.stderr
        lock = taken(lake)
        before = len(diary(lake))
        wait_until(lambda: firings(store, REFUSED) >= 2)
        assert len(diary(lake)) == before
        lock.release()
        ran = firings(store, OK)
        wait_until(lambda: firings(store, OK) > ran)
        with store.transaction() as db:  # long enough to be killed in
            db.execute("update schedules set command = replace(command, 'sleep=0.5', 'sleep=20')")
        wait_until(lambda: any(firing.log and firing.state == "running" for firing in store.history(limit=3)))
        running = next(firing for firing in store.history(limit=3) if firing.state == "running")
        wait_until(lambda: diary(lake)[-1] == f"begin {running.pid}")
        struck()
        os.kill(first.pid, 9)
        first.wait()
    assert running.pid is not None
    if not deaf:
        wait_until(lambda: born(running.pid or 0) is None)
    with store.transaction() as db:
        db.execute("update schedules set command = replace(command, 'sleep=20', 'sleep=0.5')")
    gone = moment(running.scheduled_at).timestamp() + 3 * EVERY
    wait_until(lambda: utcnow().timestamp() > gone)  # some times go by while nobody serves

    with daemon(store, tmp_path / "second.txt") as again:
        wait_until(lambda: firings(store, INTERRUPTED) == 1)
        assert born(running.pid) is None
        ran = firings(store, OK)
        wait_until(lambda: firings(store, OK) >= ran + 2)
        again.terminate()
        assert again.wait(60) == 0

    history = list(reversed(store.history(limit=1000)))
    assert {firing.state for firing in history} <= {OK, REFUSED, INTERRUPTED, COALESCED, STOPPED, WAITING}
    # Every time has come once, by itself or in the count of the one that stands for it.
    times = [firing for firing in history if firing.attempt == 1]
    span = moment(times[-1].scheduled_at) - first_time
    due, came = 1 + int(span.total_seconds() / EVERY), sum(1 + firing.missed for firing in times)
    doubled = len(times) - len({firing.scheduled_at for firing in times})
    counted(due, came, lost=due - came, doubled=doubled, unit="times")
    assert (doubled, came) == (0, due)
    assert sum(firing.missed for firing in times) >= 1
    # Jobs ran one after another: between the beginnings of two the first has ended, or was killed with its daemon.
    entries = [line.split() for line in diary(lake)]
    begun = [pid for word, pid in entries if word == "begin"]
    ended = [pid for word, pid in entries if word == "end"]
    jobs = [str(firing.pid) for firing in history if firing.pid is not None]
    assert begun == jobs
    cut = {str(firing.pid) for firing in history if firing.state in (INTERRUPTED, STOPPED)}
    assert [pid for pid in begun if pid not in cut] == [pid for pid in ended if pid not in cut]
    for entry, following in itertools.pairwise(entries):
        assert entry[0] == "end" or entry[1] in cut or following == ["end", entry[1]]
    # The interrupted run was gone on with.
    assert f"resumes={RUN}" in (tmp_path / "second.txt").read_text()


def test_two_daemons_on_two_machines_share_a_lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a store of its own and the same schedule. The one that works is killed at work: its lock passes to the other, and no
    job begins while another is at work."""
    use_job(monkeypatch)
    lake = tmp_path / "lake"
    stores = [Store(tmp_path / f"schedules-{i}.db") for i in range(2)]
    for store in stores:
        store.add(schedule(tmp_path, "run,sleep=0.5", every=1, next_at=utc(utcnow())))
    with daemon(stores[0], tmp_path / "0.txt") as first, daemon(stores[1], tmp_path / "1.txt") as second:
        # Where both are woken at the same moments, one may come second each time: which of the two works is not said.
        wait_until(lambda: sum(firings(store, OK) for store in stores) >= 4)
        wait_until(lambda: sum(firings(store, REFUSED) for store in stores) >= 1)
        (killed, ends), (other, stays) = sorted(
            zip(stores, (first, second), strict=True), key=lambda pair: firings(pair[0], OK), reverse=True
        )
        with killed.transaction() as db:  # long enough to be killed in
            db.execute("update schedules set command = replace(command, 'sleep=0.5', 'sleep=20')")
        wait_until(lambda: any(f.pid for f in killed.history(limit=3) if f.state == "running" and f.log))
        running = next(firing for firing in killed.history(limit=3) if firing.state == "running")
        wait_until(lambda: diary(lake)[-1] == f"begin {running.pid}")
        struck()
        os.kill(ends.pid, 9)
        ends.wait()
        ran = firings(other, OK)
        wait_until(lambda: firings(other, OK) >= ran + 2)
        stays.terminate()
        assert stays.wait(60) == 0
    entries = [line.split() for line in diary(lake)]
    jobs = sum(word == "begin" for word, _ in entries)
    overlapping = sum(
        entry[0] == "begin" and entry[1] != str(running.pid) and following != ["end", entry[1]]
        for entry, following in itertools.pairwise(entries)
    )
    counted(jobs, jobs - overlapping, lost=0, doubled=overlapping, unit="jobs of two daemons")
    assert overlapping == 0
