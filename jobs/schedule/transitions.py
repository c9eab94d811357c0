"""How firings move from one state to the next: each function here is one transaction of the store."""

from __future__ import annotations

import datetime
import sqlite3
from typing import Any

from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.schedule.cron import due
from masklake.jobs.schedule.store import (
    COALESCED,
    FAILED,
    INTERRUPTED,
    KEPT_FIRINGS,
    LOST,
    MISSED,
    OK,
    REFUSED,
    RUNNING,
    STOPPED,
    TIMED_OUT,
    WAITING,
    Firing,
    Schedule,
    Store,
    moment,
    read_firing,
    read_schedule,
    set_columns,
    utc,
)
from masklake.pipeline.errors import UserError

INTERRUPTIONS = 3
"""A firing that was interrupted by a kill this often is not tried again: perhaps it is what kills the daemon."""
_LONGEST_BACKOFF_S = 3600.0


def claim(store: Store, schedule: Schedule, now: datetime.datetime) -> Firing | None:
    """Record the firing that has come due, move the schedule to its next time, and return the firing. None when nothing is
    due, another process has claimed it, or it is recorded already because the clock was set back.

    Several missed times become one firing, at the last of them. A firing that is too late is recorded as missed.
    """
    if schedule.paused or not schedule.next_at or moment(schedule.next_at) > now:
        return None
    timing = schedule.timing
    scheduled_at, missed = due(timing, moment(schedule.next_at), now)
    following = timing.after(now)
    late = (now - scheduled_at).total_seconds() > schedule.deadline
    with store.transaction() as db:
        moved = db.execute(
            "update schedules set next_at = ? where name = ? and next_at = ? and not paused",
            (utc(following) if following else None, schedule.name, schedule.next_at),
        )
        if not moved.rowcount:
            return None
        id_ = _insert(db, schedule.name, scheduled_at, 1, missed=missed, state=MISSED if late else WAITING)
        if id_ is None:
            return None
        if late:
            detail = f"nobody served the store until {utc(now)}, later than the deadline allows"
            set_columns(db, id_, {"ended_at": utc(now), "detail": detail, "hook": _hook(schedule)})
        db.execute(
            "update firings set state = ?, ended_at = ?, detail = ? where schedule = ? and state = ? and not manual and id != ?",
            (
                COALESCED,
                utc(now),
                f"the firing of {utc(scheduled_at)} stands for it",
                schedule.name,
                WAITING,
                id_,
            ),
        )
        return read_firing(db, id_)


def ask(store: Store, name: str, now: datetime.datetime) -> Firing:
    """Record a firing by hand, due now. Raises UserError when there is one of the same second already."""
    with store.transaction() as db:
        id_ = _insert(db, name, now, 1, manual=True)
        if id_ is None:
            raise UserError(f"schedule {name!r}: fires this very second already; ask again in a second")
        return read_firing(db, id_)


def _insert(
    db: sqlite3.Connection,
    name: str,
    scheduled_at: datetime.datetime,
    attempt: int,
    *,
    due_at: datetime.datetime | None = None,
    manual: bool = False,
    missed: int = 0,
    state: str = WAITING,
) -> int | None:
    try:
        return db.execute(
            "insert into firings (schedule, scheduled_at, attempt, manual, missed, state, due_at) values (?, ?, ?, ?, ?, ?, ?)",
            (name, utc(scheduled_at), attempt, manual, missed, state, utc(due_at or scheduled_at)),
        ).lastrowid
    except sqlite3.IntegrityError:
        return None


def begin(store: Store, id_: int, token: str, now: datetime.datetime) -> Firing | None:
    """Start a waiting attempt; None when it is not waiting any more. While the schedule's own last firing still runs, the
    attempt is recorded and returned as refused."""
    with store.transaction() as db:
        firing = db.execute("select * from firings where id = ? and state = ?", (id_, WAITING)).fetchone()
        if firing is None:
            return None
        running = db.execute(
            "select * from firings where schedule = ? and state = ?", (firing["schedule"], RUNNING)
        ).fetchone()
        values: dict[str, Any] = {"state": RUNNING, "started_at": utc(now), "token": token}
        if running is not None:
            detail = f"the firing of {running['scheduled_at']} still runs (process {running['pid']})"
            hook = _hook(read_schedule(db, firing["schedule"]))
            values = {"state": REFUSED, "ended_at": utc(now), "seconds": 0.0, "detail": detail, "hook": hook}
        set_columns(db, id_, values)
        return read_firing(db, id_)


def finish(
    store: Store, firing: Firing, state: str, detail: str | None, now: datetime.datetime, **values: Any
) -> Firing | None:
    """Record the outcome of an attempt; returns the next attempt, which waits, or None."""
    with store.transaction() as db:
        schedule = read_schedule(db, firing.schedule)
        set_columns(db, firing.id, {"state": state, "ended_at": utc(now), "detail": detail} | values)
        following = None
        # A mistake is the same mistake a minute later.
        mistake = state == FAILED and values.get("exit_code") == ExitCode.MISTAKE
        wait = None if schedule is None or mistake else _wait(db, firing, state, schedule)
        if wait is not None:
            id_ = _insert(
                db,
                firing.schedule,
                moment(firing.scheduled_at),
                firing.attempt + 1,
                due_at=now + datetime.timedelta(seconds=wait),
                manual=firing.manual,
            )
            following = None if id_ is None else read_firing(db, id_)
        elif state != OK:
            set_columns(db, firing.id, {"hook": _hook(schedule)})
        db.execute(
            "delete from firings where schedule = ? and state not in (?, ?) and id not in "
            "(select id from firings where schedule = ? order by id desc limit ?)",
            (firing.schedule, WAITING, RUNNING, firing.schedule, KEPT_FIRINGS),
        )
        return following


def _wait(db: sqlite3.Connection, firing: Firing, state: str, schedule: Schedule) -> float | None:
    """Seconds until the next attempt at a firing that ended so, or None when there is to be none."""

    def earlier(*states: str) -> int:
        marks = ", ".join("?" * len(states))
        query = f"select count(*) from firings where schedule = ? and scheduled_at = ? and state in ({marks})"  # noqa: S608  # marks
        count: int = db.execute(query, (firing.schedule, firing.scheduled_at, *states)).fetchone()[0]
        return count

    if state == STOPPED:
        return 0.0
    if state == INTERRUPTED:
        return 0.0 if earlier(INTERRUPTED) < INTERRUPTIONS else None
    if state not in (FAILED, TIMED_OUT, LOST):
        return None
    failures = earlier(FAILED, TIMED_OUT, LOST)
    if failures > schedule.retries:
        return None
    return min(schedule.backoff * 2 ** min(failures - 1, 30), max(_LONGEST_BACKOFF_S, schedule.backoff))


def interrupted_run(store: Store, name: str) -> str | None:
    """The run in which the schedule's last job was interrupted, so that it can be resumed."""
    with store.transaction() as db:
        row = db.execute(
            "select state, run from firings where schedule = ? and state in (?, ?, ?, ?, ?, ?) order by ended_at desc, id desc limit 1",
            (name, OK, FAILED, TIMED_OUT, LOST, STOPPED, INTERRUPTED),
        ).fetchone()
        return row["run"] if row is not None and row["state"] in (STOPPED, INTERRUPTED) else None


def _hook(schedule: Schedule | None) -> str | None:
    has_hook = schedule is not None and (schedule.on_failure_command or schedule.on_failure_webhook)
    return "due" if has_hook else None
