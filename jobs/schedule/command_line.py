"""The command of a schedule: a masklake command line, parsed by that command's own parser."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
from dataclasses import dataclass, replace

from masklake.jobs.options.declare import values as declared_values
from masklake.jobs.options.shared import StorageOptions
from masklake.jobs.terminal.suggestions import did_you_mean
from masklake.pipeline.errors import UserError
from masklake.pipeline.storage.store import Storage, join, normalise_folder, redact

_NOT_JOBS = {
    "schedule": "a schedule that makes schedules never ends",
    "demo": "it brings its own storage and is for looking on",
}


@dataclass(frozen=True, kw_only=True)
class ScheduledCommand:
    """A command line that can be run."""

    command: list[str]
    lake: str | None
    """The lake that it works in; None for a command without a lake."""
    lock: str
    """The default name of the lock in the lake: the command, with its action."""
    takes_lock: bool
    """Whether the command has the option --lock."""
    elsewhere: bool
    """Whether it only sends its work to a cluster: then a process on this machine cannot hold the lock for it."""
    storage: Storage
    options: frozenset[str]
    """The names of all options of its command: `address`, `resume`, …"""
    explicit: frozenset[str]
    """The names of the options that the command line sets."""

    def text(self) -> str:
        return shlex.join(["masklake", *self.command])

    def locking(self, lock: str | None) -> list[str]:
        """The arguments that make the command itself hold `lock`, or its default lock; none if it has no --lock."""
        return ["--lock", lock or self.lock] if self.takes_lock else []


def parse(command: list[str], cwd: str = "/") -> ScheduledCommand:
    """Parse `command`; relative paths start from `cwd`. Raises UserError for a command that cannot be scheduled, and for secrets."""
    from masklake.jobs import cli
    from masklake.jobs.submit.remote_command import understood

    text = redact(shlex.join(["masklake", *command]))
    name = command[0] if command else ""
    schedulable = [entry for entry in cli.COMMANDS if entry not in _NOT_JOBS]
    if name in _NOT_JOBS:
        raise UserError(f"{text}: cannot be scheduled: {_NOT_JOBS[name]}")
    if cli.ALIASES.get(name, name) not in cli.COMMANDS:
        raise UserError(
            f"the job {text}: there is no command {name!r}; after --, write a command as after `masklake`: {', '.join(schedulable)}"
            f"{did_you_mean(name, schedulable)}"
        )
    if any(redact(argument) != argument for argument in command):
        raise UserError(
            f"{text}: carries a credential, which a store of schedules must not keep; give it to the daemon's environment"
        )
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
            line = cli.understood(command, cwd)
            submitted = (
                understood(list(line.options.command), shared_files=line.options.shared_files, folder=cwd)
                if name == "submit"
                else None
            )
    except SystemExit as end:
        last = printed.getvalue().strip().rpartition("\n")[2] if end.code else "it only shows its help"
        raise UserError(f"{text}: cannot be scheduled: {redact(last)}") from None
    values = declared_values(line.options)
    if submitted is not None:
        work = parse(submitted.command, cwd)
        lake_there = work.lake if work.takes_lock else None
        return replace(
            work,
            command=command,
            lake=lake_there,
            elsewhere=True,
            options=frozenset(values),
            explicit=frozenset(),
        )
    if values.get("lock") is not None:
        raise UserError(
            f"{text}: a schedule takes the lock; give --lock {values['lock']} to masklake schedule add, before --"
        )
    lake = values.get("lake")
    return ScheduledCommand(
        command=command,
        lake=None if not isinstance(lake, str) else _below(lake, cwd),
        lock=f"{name}-{line.action}" if line.action else name,
        takes_lock="lock" in values,
        elsewhere=False,
        storage=getattr(line.options, "storage", StorageOptions()).open(),
        options=frozenset(values),
        explicit=line.options.explicit,
    )


def _below(uri: str, cwd: str) -> str:
    path = uri if "://" in uri else os.path.join(cwd, uri)  # noqa: PTH118  # a trailing slash is not to be lost
    return normalise_folder(path)


def lock_uri(job: ScheduledCommand, lock: str | None) -> str | None:
    """The URI of the job's lock, to be printed."""
    return None if job.lake is None else join(job.lake, "locks", f"{lock or job.lock}.json")
