"""One attempt at a firing, from the lock in the lake to the outcome in the store and the failure hook."""

from __future__ import annotations

import contextlib
import datetime
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.schedule import hooks, transitions
from masklake.jobs.schedule.command_line import ScheduledCommand, parse
from masklake.jobs.schedule.process import (
    Process,
    born,
    end_orphan,
    exit_code_text,
    outcome_of,
    prune,
    run_of,
)
from masklake.jobs.schedule.store import (
    FAILED,
    INTERRUPTED,
    LOST,
    OK,
    REFUSED,
    RUNNING,
    STOPPED,
    TIMED_OUT,
    Firing,
    Schedule,
    Store,
    moment,
)
from masklake.jobs.terminal.text import one_line
from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.lock import TTL_S, Lock, LockHeldError, new_token
from masklake.pipeline.storage.store import redact

KEPT_LOGS = 50
"""How many logs of a schedule are kept."""
_STORE_AGAIN_S = 5.0


def utcnow() -> datetime.datetime:
    """The time in UTC."""
    return datetime.datetime.now(datetime.UTC)


class _Outcome(NamedTuple):
    state: str
    detail: str | None
    exit_code: int | None = None
    run: str | None = None


@dataclass(frozen=True, kw_only=True)
class Runner:
    """Runs attempts. Calls `say` with the names and values of each event; when `stop` is set, running jobs are stopped."""

    store: Store
    say: Callable[..., None]
    stop: threading.Event = field(default_factory=threading.Event)
    now: Callable[[], datetime.datetime] = utcnow
    ttl: float = TTL_S
    """The life of the lock."""

    def attempt(self, id_: int) -> tuple[str, Firing | None] | None:
        """Make a waiting attempt: its outcome and the next attempt, if any. None when it is not waiting any more."""
        token = new_token()
        firing = None if self.stop.is_set() else transitions.begin(self.store, id_, token, self.now())
        if firing is None:
            return None
        if firing.state == REFUSED:
            self.tell(firing)
            return REFUSED, None
        began = time.monotonic()
        # The lock is released after the outcome is recorded: once it is free, the outcome can be read.
        with contextlib.ExitStack() as stack:
            try:
                outcome = self._locked(firing, token, stack)
            except UserError as error:
                outcome = _Outcome(FAILED, one_line(str(error)))
            except Exception as error:  # noqa: BLE001  # an error of one firing must not end the daemon; it is recorded
                outcome = _Outcome(FAILED, one_line(redact(f"{type(error).__name__}: {error}")))
            following = self._record(firing, outcome, round(time.monotonic() - began, 3))
        self.tell(self.store.firing(firing.id), again_at=following and following.due_at)
        return outcome.state, following

    def _locked(self, firing: Firing, token: str, stack: contextlib.ExitStack) -> _Outcome:
        schedule = self.store.schedule(firing.schedule)
        job = parse(schedule.command, schedule.cwd)
        if job.lake is None or job.elsewhere:
            return self._work(firing, schedule, job, None)
        holder = f"schedule {schedule.name}"
        name = schedule.lock or job.lock
        lock = Lock(job.lake, name, job.storage, what=holder, ttl=self.ttl, token=token)
        try:
            lock.acquire(self.stop)
        except LockHeldError as other:
            if self.stop.is_set():
                return _Outcome(STOPPED, "the daemon was stopped while it watched the lock")
            return _Outcome(REFUSED, one_line(str(other)))
        stack.callback(lock.release)
        return self._work(firing, schedule, job, lock)

    def _work(self, firing: Firing, schedule: Schedule, job: ScheduledCommand, lock: Lock | None) -> _Outcome:
        command = [*schedule.command, *(job.locking(schedule.lock) if job.elsewhere else [])]
        run = transitions.interrupted_run(self.store, schedule.name)
        if run and "resume" in job.options - job.explicit:
            outcome = self._process(firing, schedule, lock, [*command, "--resume", run], run)
            if outcome.exit_code != ExitCode.MISTAKE:
                return outcome
            # There is nothing to resume: the run was complete, or its model is gone. Then start a new one.
        return self._process(firing, schedule, lock, command)

    def _process(
        self,
        firing: Firing,
        schedule: Schedule,
        lock: Lock | None,
        command: list[str],
        resumes: str | None = None,
    ) -> _Outcome:
        log = self._log(schedule.name, f"{moment(firing.scheduled_at):%Y%m%dT%H%M%SZ}-{firing.attempt}.log")
        prune(log.parent, KEPT_LOGS - 1)
        try:
            process = Process(command, schedule.cwd, log)
        except OSError as error:
            return _Outcome(FAILED, f"cannot start in {schedule.cwd}: {error.strerror}")
        with process:
            self.store.update(firing.id, pid=process.pid, born=born(process.pid), log=log.name)
            self._event("started", firing, pid=process.pid, lock=lock and lock.uri, resumes=resumes)
            end = None if schedule.timeout is None else time.monotonic() + schedule.timeout

            def reason() -> str | None:
                if self.stop.is_set():
                    return STOPPED
                if lock is not None and lock.lost:
                    return LOST
                return TIMED_OUT if end is not None and time.monotonic() > end else None

            code, stopped = process.wait(reason)
        line = outcome_of(log)
        if code == 0:
            return _Outcome(OK, line, code, run_of(log))
        if stopped is None and code == ExitCode.REFUSED:
            return _Outcome(REFUSED, line, code)
        if stopped is None:
            return _Outcome(FAILED, f"{exit_code_text(code)}: {line}", code, run_of(log))
        why = {
            STOPPED: "the daemon was stopped",
            LOST: "the lock could not be kept, and another may hold it",
            TIMED_OUT: f"it ran past {schedule.timeout or 0:g} s",
        }[stopped]
        return _Outcome(stopped, f"{why}: {line}", code, run_of(log))

    def _log(self, schedule: str, name: str) -> Path:
        return self.store.logs / schedule / name

    def _record(self, firing: Firing, outcome: _Outcome, seconds: float | None) -> Firing | None:
        """Record the outcome; try until the store can be written. Returns the next attempt, if any."""
        values = {"exit_code": outcome.exit_code, "run": outcome.run, "seconds": seconds}
        while True:
            try:
                return transitions.finish(
                    self.store, firing, outcome.state, outcome.detail, self.now(), **values
                )
            except UserError as error:
                self._event("warning", firing, detail=str(error))
                if self.stop.wait(_STORE_AGAIN_S):
                    raise

    def tell(self, firing: Firing, **more: Any) -> None:
        """Report the outcome of an attempt, and run the failure hook if it is due."""
        self._event(
            firing.state, firing, run=firing.run, seconds=firing.seconds, **more, detail=firing.detail
        )
        if firing.hook == "due":
            self._hook(firing)

    def _hook(self, firing: Firing) -> None:
        try:
            schedule = self.store.schedule(firing.schedule)
        except UserError:  # removed since
            self.store.update(firing.id, hook=None)
            return
        log = str(self._log(schedule.name, firing.log)) if firing.log else None
        answer = hooks.tell(schedule, hooks.facts(schedule, firing, log))
        self.store.update(firing.id, hook=answer)
        self._event("hook", firing, detail=answer)

    def _event(self, event: str, firing: Firing, **values: Any) -> None:
        self.say(
            event=event,
            schedule=firing.schedule,
            scheduled_at=firing.scheduled_at,
            attempt=firing.attempt,
            missed=firing.missed or None,
            **values,
        )

    def recover(self) -> None:
        """Clean up after a daemon that was killed: end the jobs that outlived it, record them as interrupted, release their
        locks, and run the hooks that are due. Only for the process that serves the store."""
        for firing in self.store.in_state(RUNNING):
            log = self._log(firing.schedule, firing.log or "-")
            outlived = firing.pid is not None and end_orphan(firing.pid, firing.born)
            # If the process is not known, it may still be ending: then the lock has to expire.
            if firing.pid is not None and firing.token:
                self._disown(firing)
            detail = f"the daemon was killed{', and the job outlived it until now' if outlived else ''}: {outcome_of(log)}"
            following = self._record(firing, _Outcome(INTERRUPTED, detail, run=run_of(log)), None)
            self.tell(self.store.firing(firing.id), again_at=following and following.due_at)
        for firing in self.store.hooks_due():
            self._hook(firing)

    def _disown(self, firing: Firing) -> None:
        try:
            schedule = self.store.schedule(firing.schedule)
            job = parse(schedule.command, schedule.cwd)
            if job.lake is not None and not job.elsewhere:
                Lock(job.lake, schedule.lock or job.lock, job.storage, token=firing.token).disown()
        except UserError as error:  # the storage does not answer, the schedule is gone: the lock expires
            self._event("warning", firing, detail=one_line(str(error)))
