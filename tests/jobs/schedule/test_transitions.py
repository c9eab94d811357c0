"""The store and its transactions: nothing is lost, and nothing doubled, whatever the clock does."""

from __future__ import annotations

import dataclasses
import datetime
import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from masklake.jobs.schedule import transitions as ledger
from masklake.jobs.schedule.serving import StoreServedError, server, serving
from masklake.jobs.schedule.store import (
    COALESCED,
    FAILED,
    INTERRUPTED,
    LOST,
    MISSED,
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

from tests.helpers.schedules import NOON, schedule


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with one schedule of every 30 seconds, due at noon."""
    new_store = Store(tmp_path / "state" / "schedules.db")
    new_store.add(schedule(tmp_path, retries=2, backoff=60.0))
    return new_store


def after_noon(seconds: float) -> datetime.datetime:
    """That many seconds after noon."""
    return NOON + datetime.timedelta(seconds=seconds)


def claim(store: Store, seconds: float) -> Firing | None:
    return ledger.claim(store, store.schedule("s"), after_noon(seconds))


def started(store: Store, seconds: float = 0) -> Firing:
    firing = claim(store, seconds)
    assert firing is not None
    running = ledger.begin(store, firing.id, "token", after_noon(seconds))
    assert running is not None
    return running


def short(firing: Firing | None) -> tuple[str, int, str] | None:
    """The time of day, the attempt, the state."""
    return firing and (firing.scheduled_at[11:19], firing.attempt, firing.state)


def test_a_time_that_came_is_claimed_once(store: Store) -> None:
    assert claim(store, -1) is None
    stale = store.schedule("s")
    first = ledger.claim(store, stale, after_noon(0))
    assert short(first) == ("12:00:00", 1, WAITING)
    # Whoever saw the schedule as it was before comes too late.
    assert ledger.claim(store, stale, after_noon(0)) is None
    assert claim(store, 29) is None
    assert short(claim(store, 30)) == ("12:00:30", 1, WAITING)


def test_of_many_at_once_one_claims_it(store: Store) -> None:
    stale = store.schedule("s")
    with ThreadPoolExecutor(8) as threads:
        claimed = list(threads.map(lambda _: ledger.claim(store, stale, after_noon(5)), range(8)))
    assert sum(firing is not None for firing in claimed) == 1
    assert len(store.history()) == 1


def test_times_that_went_by_together_are_one_firing(store: Store) -> None:
    """The daemon was away, or the clock was set forward."""
    firing = claim(store, 3600 + 5)
    assert short(firing) == ("13:00:00", 1, WAITING)
    assert firing is not None
    assert firing.missed == 120
    assert store.schedule("s").next_at == "2026-11-25T13:00:30+00:00"


def test_a_clock_that_is_set_back_doubles_nothing(store: Store) -> None:
    assert short(claim(store, 0)) == ("12:00:00", 1, WAITING)
    assert claim(store, -3600) is None
    # Even where the schedule is told to begin again at a time that was fired already.
    store.set_paused("s", True, None)
    store.set_paused("s", False, "2026-11-25T12:00:00+00:00")
    assert claim(store, 0) is None
    assert store.schedule("s").next_at == "2026-11-25T12:00:30+00:00"
    assert short(claim(store, 30)) == ("12:00:30", 1, WAITING)
    assert (
        len({(firing.scheduled_at, firing.attempt) for firing in store.history()})
        == len(store.history())
        == 2
    )


def test_what_is_too_late_is_recorded_as_missed(store: Store, tmp_path: Path) -> None:
    store.add(
        schedule(
            tmp_path, name="daily", every=None, cron="0 12 * * *", deadline=600.0, on_failure_command="true"
        )
    )
    firing = ledger.claim(store, store.schedule("daily"), after_noon(601))
    assert short(firing) == ("12:00:00", 1, MISSED)
    assert firing is not None
    assert firing.hook == "due"
    assert store.schedule("daily").next_at == "2026-11-26T12:00:00+00:00"


def test_a_paused_schedule_claims_nothing(store: Store) -> None:
    stale = store.schedule("s")
    assert store.set_paused("s", True, None)
    assert not store.set_paused("s", True, None)
    assert claim(store, 100) is None
    assert ledger.claim(store, stale, after_noon(100)) is None


def test_an_attempt_begins_once(store: Store) -> None:
    firing = claim(store, 0)
    assert firing is not None
    assert short(ledger.begin(store, firing.id, "a", after_noon(0))) == ("12:00:00", 1, RUNNING)
    assert ledger.begin(store, firing.id, "b", after_noon(0)) is None
    assert store.history()[0].token == "a"


def test_a_firing_is_refused_while_the_one_before_runs(store: Store) -> None:
    first = started(store)
    second = started(store, 30)
    assert short(second) == ("12:00:30", 1, REFUSED)
    assert second.detail == "the firing of 2026-11-25T12:00:00+00:00 still runs (process None)"
    assert ledger.finish(store, first, OK, None, after_noon(40)) is None
    assert short(started(store, 60)) == ("12:01:00", 1, RUNNING)


@pytest.mark.parametrize("state", [FAILED, TIMED_OUT, LOST])
def test_what_failed_is_tried_again_later_and_later(store: Store, state: str) -> None:
    firing, waits = started(store), []
    while (following := ledger.finish(store, firing, state, "why", after_noon(0))) is not None:
        waits.append((datetime.datetime.fromisoformat(following.due_at) - after_noon(0)).total_seconds())
        started_again = ledger.begin(store, following.id, "token", after_noon(0))
        assert started_again is not None
        firing = started_again
    assert waits == [60, 120]
    assert [short(firing) for firing in store.history()] == [("12:00:00", n, state) for n in (3, 2, 1)]


@pytest.mark.parametrize("state", [OK, REFUSED])
def test_what_ended_or_was_refused_is_not_tried_again(store: Store, state: str) -> None:
    assert ledger.finish(store, started(store), state, None, after_noon(0)) is None


def test_what_ended_with_the_daemon_is_taken_up_again(store: Store) -> None:
    firing = started(store)
    for _ in range(5):  # stopped in order: as often as it happens
        following = ledger.finish(store, firing, STOPPED, None, after_noon(0), run="r")
        assert following is not None
        assert ledger.interrupted_run(store, "s") == "r"
        firing = ledger.begin(store, following.id, "token", after_noon(0)) or firing
    kills = 0
    while (following := ledger.finish(store, firing, INTERRUPTED, None, after_noon(0))) is not None:
        kills += 1
        firing = ledger.begin(store, following.id, "token", after_noon(0)) or firing
    assert kills == ledger.INTERRUPTIONS - 1


def test_a_later_time_stands_for_attempts_that_wait(store: Store) -> None:
    following = ledger.finish(store, started(store), FAILED, "why", after_noon(0))
    assert following is not None
    by_hand = ledger.ask(store, "s", after_noon(7))
    assert short(claim(store, 30)) == ("12:00:30", 1, WAITING)
    assert store.firing(following.id).state == COALESCED
    assert store.firing(by_hand.id).state == WAITING
    assert ledger.begin(store, following.id, "token", after_noon(60)) is None


def test_the_last_interrupted_run_is_gone_on_with_until_a_job_ended_otherwise(store: Store) -> None:
    following = ledger.finish(store, started(store), INTERRUPTED, None, after_noon(1), run="first")
    assert following is not None
    assert ledger.interrupted_run(store, "s") == "first"
    started_again = ledger.begin(store, following.id, "token", after_noon(2))
    assert started_again is not None
    ledger.finish(store, started_again, OK, None, after_noon(3), run="first")
    assert ledger.interrupted_run(store, "s") is None


def test_a_removed_schedule_owes_nothing_and_keeps_its_history(store: Store) -> None:
    running = started(store)
    ledger.ask(store, "s", after_noon(9))
    store.remove("s")
    assert [firing.state for firing in store.history("s")] == [RUNNING]
    assert ledger.finish(store, running, FAILED, "why", after_noon(10)) is None
    assert [firing.state for firing in store.history("s")] == [FAILED]
    with pytest.raises(UserError, match="has no schedule 's'; it has none yet"):
        store.schedule("s")


def test_history_is_kept_within_bounds(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "KEPT_FIRINGS", 3)
    for n in range(6):
        ledger.finish(store, started(store, 30 * n), OK, None, after_noon(30 * n))
    assert [firing.scheduled_at[14:19] for firing in store.history()] == ["02:30", "02:00", "01:30"]


def test_asking_twice_in_a_second_is_told(store: Store) -> None:
    ledger.ask(store, "s", after_noon(5))
    with pytest.raises(UserError, match="fires this very second already"):
        ledger.ask(store, "s", after_noon(5))


def test_one_serves_a_store(store: Store) -> None:
    assert server(store) is None
    with serving(store):
        assert "process " in (server(store) or "")
        with (
            pytest.raises(StoreServedError, match=r"is served by process \d+ on .* since"),
            serving(Store(store.path)),
        ):
            pass
    with serving(store):
        pass


def test_schedules_survive_as_they_were_added(store: Store, tmp_path: Path) -> None:
    full = schedule(
        tmp_path,
        name="full",
        every=None,
        cron="0 2 * * *",
        timezone="Europe/Berlin",
        lock="gpu",
        timeout=5.0,
        on_failure_webhook="http://h/x",
        paused=True,
    )
    store.add(full)
    assert Store(store.path).schedule("full") == full
    with pytest.raises(UserError, match="'full': is there already"):
        store.add(dataclasses.replace(full, every=5))


def test_a_store_is_its_owners_and_no_other_file(tmp_path: Path, store: Store) -> None:
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    other_path = tmp_path / "other.db"
    with sqlite3.connect(other_path) as db:
        db.execute("create table t (x)")
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"not a database at all" * 100)
    newer = Store(tmp_path / "newer.db")
    with sqlite3.connect(newer.path) as db:
        db.execute("pragma user_version = 99")
    for path, answer in {
        other_path: "is another program's database",
        garbage: "cannot use the store: file is not a database",
        newer.path: "newer Masklake",
        tmp_path: "cannot use the store",
        garbage / "x.db": "cannot make the store",
    }.items():
        with pytest.raises(UserError, match=answer):
            Store(path)
    with pytest.raises(UserError, match="there is no store of schedules"):
        Store(tmp_path / "none.db", make=False)
