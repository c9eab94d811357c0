"""The store of `masklake schedule`: schedules and their firings, in one SQLite file with plain columns.

Its transactions keep these promises, whoever uses the store:

- A time that has come is recorded in the same transaction that moves the schedule to its next time, and at most once:
  (schedule, time, attempt) is unique. So a kill loses no firing, and a clock that is set back doubles none.
- An attempt's outcome and the attempt that follows it are recorded in one transaction.
- `state` says whether an attempt is still to be made (waiting), is being made (running), or how it ended.

One daemon at a time serves a store: see `serving`.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from masklake.jobs.schedule.cron import Cron, Every, Timing
from masklake.pipeline.errors import UserError
from masklake.pipeline.storage.explain import explaining
from masklake.pipeline.storage.files import at_home

WAITING, RUNNING = "waiting", "running"
OK, FAILED, TIMED_OUT, LOST = "ok", "failed", "timed-out", "lost"
REFUSED, MISSED, COALESCED = "refused", "missed", "coalesced"
STOPPED, INTERRUPTED = "stopped", "interrupted"
"""Stopped: with the daemon, in order. Interrupted: by a kill of the daemon."""

_APPLICATION, _VERSION = 0x4D4C4B53, 1  # "MLKS", so that another program's database is not taken for a store
_BUSY_S = 30
KEPT_FIRINGS = 1000
"""How many ended attempts of a schedule are kept."""

_TABLES = """
create table schedules (
    name text primary key, command text not null, cron text, every integer, timezone text not null,
    cwd text not null, lock text, retries integer not null, backoff real not null, timeout real,
    deadline real not null, on_failure_command text, on_failure_webhook text,
    created_at text not null, paused integer not null, next_at text);
create table firings (
    id integer primary key, schedule text not null, scheduled_at text not null, attempt integer not null,
    manual integer not null, missed integer not null, state text not null, due_at text not null,
    started_at text, ended_at text, seconds real, exit_code integer, run text, detail text,
    pid integer, born text, token text, log text, hook text,
    unique (schedule, scheduled_at, attempt));
create index firings_by_state on firings (state);
"""


def default_path() -> Path:
    """The default path of the store: in the folder where systemd keeps a service's state, or in the user's own."""
    if state := os.environ.get("STATE_DIRECTORY"):
        return Path(state.split(":")[0]) / "schedules.db"
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state") / "masklake" / "schedules.db"


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A command and when to run it. Either `cron` or `every` (seconds) is set. Times are ISO 8601, in UTC."""

    name: str
    command: list[str]
    """The arguments of a masklake command: ["train", "s3://lake", "--promote"]."""
    cron: str | None = None
    every: int | None = None
    timezone: str = "UTC"
    cwd: str = "/"
    """The folder that relative paths in the command start from."""
    lock: str | None = None
    """The lock in the lake; None for the one of the command's own name."""
    retries: int = 0
    backoff: float = 60.0
    timeout: float | None = None
    deadline: float = 86400.0
    """A missed time is still run if it is not later than this, in seconds."""
    on_failure_command: str | None = None
    on_failure_webhook: str | None = None
    created_at: str = ""
    paused: bool = False
    next_at: str | None = None

    @property
    def timing(self) -> Timing:
        """When it fires. Raises UserError for an expression that is not valid."""
        return Every(self.every) if self.every else Cron(self.cron or "", self.timezone)


@dataclass(frozen=True, kw_only=True)
class Firing:
    """One attempt at one scheduled time."""

    id: int
    schedule: str
    scheduled_at: str
    attempt: int
    manual: bool
    missed: int
    """How many earlier times were missed; this firing replaces them."""
    state: str
    due_at: str
    started_at: str | None
    ended_at: str | None
    seconds: float | None
    exit_code: int | None
    run: str | None
    detail: str | None
    pid: int | None
    born: str | None
    """When the process was started, as the system counts; it tells the process from a later one with the same id."""
    token: str | None
    log: str | None
    hook: str | None
    """The outcome of the failure hook; "due" until it was tried."""


def utc(moment: datetime.datetime | None = None) -> str:
    """A time as the store writes it (default: now). These texts sort in the order of time."""
    return (
        (moment or datetime.datetime.now(datetime.UTC)).astimezone(datetime.UTC).isoformat(timespec="seconds")
    )


def moment(text: str) -> datetime.datetime:
    """The time that `utc` wrote."""
    return datetime.datetime.fromisoformat(text)


class Store:
    """The store in the file `path`, which is created with its folder if `make`. Raises UserError if it is no store."""

    def __init__(self, path: Path, *, make: bool = True) -> None:
        self.path = at_home(path).absolute()
        if not make and not self.path.exists():
            raise UserError(
                f"{self.path}: there is no store of schedules; `masklake schedule add` makes one, --store names another"
            )
        with explaining(str(self.path), "make the store of schedules (--store PATH names another)"):
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not self.path.exists():
                # Commands and hooks are private: only the owner may read the file.
                os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        with self.transaction() as db:
            self._prepare(db)

    def _prepare(self, db: sqlite3.Connection) -> None:
        application, version = (
            db.execute(f"pragma {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        if application == _APPLICATION and version > _VERSION:
            raise UserError(f"{self.path}: was written by a newer Masklake; upgrade this one")
        if application == _APPLICATION:
            return
        if application or version or db.execute("select count(*) from sqlite_master").fetchone()[0]:
            raise UserError(f"{self.path}: is another program's database; give --store another PATH")
        for statement in _TABLES.split(";"):
            db.execute(statement)
        db.execute(f"pragma application_id = {_APPLICATION}")
        db.execute(f"pragma user_version = {_VERSION}")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction: it writes everything, or nothing after an exception. Raises UserError when the store cannot be used."""
        try:
            db = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None)
            try:
                db.row_factory = sqlite3.Row
                db.execute("begin immediate")
                with db:
                    yield db
            finally:
                db.close()
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            raise UserError(
                f"{self.path}: cannot use the store: {error}; check the file, its rights and the disk, or give --store"
            ) from error

    @property
    def logs(self) -> Path:
        """The folder of the jobs' logs."""
        return self.path.with_name(f"{self.path.name}.logs")

    def schedules(self) -> list[Schedule]:
        with self.transaction() as db:
            return [_schedule(row) for row in db.execute("select * from schedules order by name")]

    def schedule(self, name: str) -> Schedule:
        """The schedule of that name. Raises UserError when there is none."""
        for schedule in (schedules := self.schedules()):
            if schedule.name == name:
                return schedule
        names = ", ".join(schedule.name for schedule in schedules) or "none yet"
        raise UserError(f"{self.path}: has no schedule {name!r}; it has {names}")

    def add(self, schedule: Schedule) -> None:
        """Add a schedule. Raises UserError when the name is taken."""
        values = {f.name: getattr(schedule, f.name) for f in fields(Schedule)}
        values["command"] = json.dumps(schedule.command, ensure_ascii=False)
        names = ", ".join(values)
        try:
            with self.transaction() as db:
                db.execute(
                    f"insert into schedules ({names}) values ({', '.join('?' * len(values))})",  # noqa: S608  # our columns
                    list(values.values()),
                )
        except sqlite3.IntegrityError as error:
            raise UserError(
                f"schedule {schedule.name!r}: is there already; `masklake schedule remove {schedule.name}` first, or name this otherwise"
            ) from error

    def set_paused(self, name: str, paused: bool, next_at: str | None) -> bool:
        """Pause or resume a schedule; it fires next at `next_at`. False when it was paused, or not paused, already."""
        with self.transaction() as db:
            return bool(
                db.execute(
                    "update schedules set paused = ?, next_at = ? where name = ? and paused != ?",
                    (paused, next_at, name, paused),
                ).rowcount
            )

    def remove(self, name: str) -> None:
        """Remove a schedule and its waiting attempts. Its history stays."""
        with self.transaction() as db:
            db.execute("delete from schedules where name = ?", (name,))
            db.execute("delete from firings where schedule = ? and state = ?", (name, WAITING))

    def history(self, name: str | None = None, limit: int = 20) -> list[Firing]:
        """Attempts, the newest first."""
        with self.transaction() as db:
            rows = db.execute(
                "select * from firings where ? is null or schedule = ? order by id desc limit ?",
                (name, name, limit),
            )
            return [_firing(row) for row in rows]

    def in_state(self, *states: str) -> list[Firing]:
        """Attempts in any of these states, the oldest first."""
        marks = ", ".join("?" * len(states))
        with self.transaction() as db:
            rows = db.execute(f"select * from firings where state in ({marks}) order by id", states)  # noqa: S608  # marks
            return [_firing(row) for row in rows]

    def firing(self, id_: int) -> Firing:
        """The attempt `id_`."""
        with self.transaction() as db:
            return read_firing(db, id_)

    def hooks_due(self) -> list[Firing]:
        """Ended attempts whose failure hook was not tried yet."""
        with self.transaction() as db:
            return [
                _firing(row) for row in db.execute("select * from firings where hook = 'due' order by id")
            ]

    def update(self, id_: int, **values: Any) -> None:
        """Set columns of an attempt."""
        with self.transaction() as db:
            set_columns(db, id_, values)

    @property
    def lock(self) -> Path:
        """The file that the process which serves the store locks."""
        return self.path.with_name(f"{self.path.name}.lock")


def set_columns(db: sqlite3.Connection, id_: int, values: dict[str, Any]) -> None:
    """Set columns of the attempt `id_`."""
    assigned = ", ".join(f"{name} = ?" for name in values)
    db.execute(f"update firings set {assigned} where id = ?", [*values.values(), id_])  # noqa: S608  # our columns


def _schedule(row: sqlite3.Row) -> Schedule:
    values = dict(row)
    return Schedule(**values | {"command": json.loads(values["command"]), "paused": bool(values["paused"])})


def _firing(row: sqlite3.Row) -> Firing:
    values = dict(row)
    return Firing(**values | {"manual": bool(values["manual"])})


def read_schedule(db: sqlite3.Connection, name: str) -> Schedule | None:
    """The schedule `name`, or None when it was removed."""
    row = db.execute("select * from schedules where name = ?", (name,)).fetchone()
    return None if row is None else _schedule(row)


def read_firing(db: sqlite3.Connection, id_: int) -> Firing:
    """The attempt `id_`."""
    return _firing(db.execute("select * from firings where id = ?", (id_,)).fetchone())
