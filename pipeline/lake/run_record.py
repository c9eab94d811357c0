"""A run's record, `runs/<run_id>/run.json`, and the numbered attempts at finishing the run."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.record import SIGN_OF_LIFE_S, Record, now
from masklake.pipeline.storage.conditions import require_conditions
from masklake.pipeline.storage.explain import explaining
from masklake.pipeline.storage.store import Storage, join

_TRIES = 3


class AttemptTakenError(UserError):
    """Another driver, which is or may be running, has just claimed the next attempt."""


class SupersededError(UserError):
    """A later attempt at the run has begun: this one must write no more."""


_LATER_OPTIONS: dict[str, Any] = {"tile": 0, "overlap": None, "proposals": None}
"""Options that older records do not have, with the values that those runs used: they cut no image into tiles, and took as
many proposals as the model says."""

_LONG_AGO = "1970-01-01T00:00:00+00:00"

STATES = ("running", "stopped", "failed", "incomplete", "complete")


@dataclass(frozen=True, kw_only=True)
class RunRecord(Record):
    """The content of run.json. `options` decide the rows of an image: a later run skips only images that a run with equal
    options has covered."""

    KIND: ClassVar[str] = "a run record"
    REMEDY: ClassVar[str] = "restore it or remove the run's folder"

    source: str
    selection: dict[str, Any]
    """The options that decide which images are read: limit, every_object, redo_all."""
    model: dict[str, Any]
    manifest: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    instances: int = 0
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: float = 0.0
    verification: dict[str, Any] | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    """batch_size and commit_images where they were given: a resumed run keeps them."""
    parts: dict[str, Any] = field(default_factory=dict)
    """Of a complete run: what its images parts hold (pipeline/lake/part_summary.py)."""
    engine: str = "ray"
    """What carried the images from stage to stage in the last attempt: ray, or local (processes of this machine)."""
    forgets: int = 0
    """How many calls of `masklake forget` were done when the run was planned; what later ones took out it leaves out."""

    @property
    def model_name(self) -> str:
        """name@fingerprint, as the rows name their model."""
        return f"{self.model['name']}@{self.model['fingerprint']}"

    @property
    def covers(self) -> tuple[str, dict[str, Any]]:
        """Runs with equal values make equal rows of equal objects."""
        return self.model["fingerprint"], self.all_options

    @property
    def all_options(self) -> dict[str, Any]:
        """`options`; those that the record does not have stand as what the run did without them."""
        return _LATER_OPTIONS | self.options


@dataclass(frozen=True)
class RunFolder:
    """`LAKE/runs/<run_id>`."""

    lake: str
    run: str
    storage: Storage

    @property
    def record_uri(self) -> str:
        return join(self.lake, "runs", self.run, "run.json")

    @property
    def manifest_uri(self) -> str:
        return join(self.lake, "runs", self.run, "manifest")

    @property
    def forgotten_uri(self) -> str:
        return join(self.lake, "runs", self.run, "forgotten.json")

    def table_uri(self, table: str) -> str:
        return join(self.lake, table, f"run={self.run}")

    def load(self) -> RunRecord:
        """The record. Raises UserError when it is not there, cannot be read, or is broken."""
        with explaining(self.record_uri, "read the run's record"):
            try:
                data = self.storage.read(self.record_uri)
            except FileNotFoundError as error:
                raise UserError(
                    f"{self.lake}: has no run {self.run!r}; `masklake runs {self.lake}` lists them"
                ) from error
        # The lake may have been moved or copied since: what goes on with the run must not write to where it was.
        return replace(RunRecord.parse(data, self.record_uri), lake=self.lake)

    def save(self, record: RunRecord) -> None:
        """Write the record, but never over that of a later attempt. Raises SupersededError where one has begun."""
        self.write(self.record_uri, record.to_json(), record.attempt)

    def write(self, uri: str, data: bytes, attempt: int) -> None:
        """Write an object of the run that every attempt writes, but never over a later attempt's. Raises SupersededError where one
        has begun."""
        for _ in range(_TRIES):
            there = self.storage.stat(uri)
            # If another attempt begins after this look, what it writes is of another version than the one that was seen.
            self.require_newest(attempt)
            with contextlib.suppress(OSError):  # the last write tells it, if it lasts
                if there is None or there.etag is None:
                    won = self.storage.put_new(uri, data)
                else:
                    won = self.storage.replace(uri, data, there.etag)
                if won:
                    return
        self.storage.write(uri, data)  # conditions do not hold there, so no second attempt is let in

    def amend(self, record: RunRecord) -> None:
        """Write the record of a complete run, which nobody goes on with, whoever has claimed an attempt."""
        self.storage.write(self.record_uri, record.to_json())

    def _attempt_uri(self, number: int) -> str:
        return join(self.lake, "runs", self.run, "attempts", f"{number:06d}.json")

    def take_attempt(self, number: int, alive: Callable[[int], bool]) -> int:
        """Claim attempt `number` by a conditional write, so that of two drivers one goes on. Returns the number claimed.

        It is a later number where a driver was killed after it had claimed `number` and before its record said so.
        Raises UserError when another driver that is, or may be, running has claimed it, and on storage that could let two
        drivers go on. (The first attempt needs no claim against others: nobody else knows the run yet.)
        """
        if number > 1:
            require_conditions(self.lake, self.storage)
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "at": now(), "token": secrets.token_hex(8)}
        while not self.storage.put_new(self._attempt_uri(number), json.dumps(owner).encode()):
            self._require_dead(number, self._owner(number), alive)
            number += 1
        return number

    def end_attempts(self, number: int, alive: Callable[[int], bool]) -> None:
        """Let no worker commit any more that outlived its driver: claim attempt `number`, or a later one, for nobody.

        Raises AttemptTakenError when a driver that is, or may be, running has just claimed it.
        """
        nobody = {"host": "", "pid": 0, "at": _LONG_AGO, "token": secrets.token_hex(8)}
        while not self.storage.put_new(self._attempt_uri(number), json.dumps(nobody).encode()):
            owner = self._owner(number)
            if not owner["host"] and not self.superseded(number):
                return
            self._require_dead(number, owner, alive)
            number += 1

    def _owner(self, number: int) -> dict[str, Any]:
        owner: dict[str, Any] = json.loads(self.storage.read(self._attempt_uri(number)))
        return owner

    def _require_dead(self, number: int, owner: dict[str, Any], alive: Callable[[int], bool]) -> None:
        if silence(owner["host"], owner["pid"], owner["at"], alive) is not None:
            raise AttemptTakenError(
                f"run {self.run}: attempt {number} was just taken by process {owner['pid']} on {owner['host']}; "
                "let it finish, or resume again once it has stopped"
            )

    def superseded(self, attempt: int) -> bool:
        """Whether a later attempt has begun, so that this one must stop writing."""
        return self.storage.exists(self._attempt_uri(attempt + 1))

    def require_newest(self, attempt: int) -> None:
        """Raises SupersededError where a later attempt has begun."""
        if self.superseded(attempt):
            raise SupersededError(f"run {self.run}: a later attempt took over from attempt {attempt}")


def silence(host: str, pid: int, last_sign: str, alive: Callable[[int], bool]) -> float | None:
    """Seconds since `last_sign`, the time of a driver's last sign of life (ISO 8601); None when the driver is dead.

    A pid alone proves nothing: after a reboot it is another process's, and in containers it is always the same.
    """
    silent = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(last_sign)
    dead = silent.total_seconds() > SIGN_OF_LIFE_S or (host == socket.gethostname() and not alive(pid))
    return None if dead else silent.total_seconds()


def resumed(record: RunRecord, alive: Callable[[int], bool]) -> RunRecord:
    """`record` for the next attempt. Raises UserError while the last attempt is, or may be, still running."""
    if record.state == "complete":
        raise UserError(f"run {record.run}: is complete; there is nothing to resume")
    if record.state == "running":
        silent = silence(record.host, record.pid, record.updated_at, alive)
        if silent is not None:
            raise UserError(
                f"run {record.run}: process {record.pid} on {record.host} showed life {silent:.0f} s ago; stop it "
                f"(Ctrl-C or kill), or wait until it has been silent for {SIGN_OF_LIFE_S:.0f} s"
            )
    return record.taken_over(state="running", finished_at=None, error=None, verification=None)
