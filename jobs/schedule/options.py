"""The options of `masklake schedule`'s actions."""

from __future__ import annotations

import re
from dataclasses import dataclass

from masklake.jobs.options.declare import Options, argument, flag, included, option
from masklake.jobs.options.kinds import Kind, one_of, positive, zero_or_more
from masklake.jobs.options.shared import json_flag
from masklake.pipeline.errors import UserError

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_MOST_S = 366 * 86400
_MOST_PORT = 65535


def _seconds(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text)
    if not match:
        raise ValueError(text)
    return int(match[1]) * _UNITS[match[2]]


span = Kind(
    "a time span of up to a year; write 90, 30s, 15m, 2h or 1d", _seconds, lambda value: 1 <= value <= _MOST_S
)
"""Whole seconds."""
port = Kind(f"a port; give 1 to {_MOST_PORT}", int, lambda value: 1 <= value <= _MOST_PORT)


@dataclass(frozen=True, kw_only=True)
class ScheduleStoreOptions(Options):
    """Where the schedules are."""

    store: str | None = option(
        str, "PATH",
        help="the SQLite file of the schedules (default schedules.db in $STATE_DIRECTORY, which systemd sets, or in "
        "~/.local/state/masklake)",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ScheduleAddOptions(Options):
    """What `masklake schedule add` is told."""

    name: str = argument("NAME", help="what to call it")
    job: tuple[str, ...] = argument("-- COMMAND", nargs="+", help="a command as after `masklake`, after --")
    cron: str | None = option(
        str, "EXPRESSION", instead_of="when", help="'0 2 * * *', '*/30 * * * * *' with seconds, @daily"
    )
    every: int | None = option(
        span, "SPAN", instead_of="when", help="an interval, at whole multiples of it: 30s, 15m"
    )
    timezone: str = option(str, "ZONE", default="UTC", help="of the expression: Europe/Berlin (default UTC)")
    deadline: int = option(
        span, "SPAN", default=86400, help="how late a time that was missed may be made up for (default 1d)"
    )
    retries: int = option(zero_or_more, "N", default=0, help="attempts after one that failed (default 0)")
    backoff: int = option(
        span, "SPAN", default=60,
        help="wait before the first retry; it doubles with each, up to an hour (default 1m)",
    )  # fmt: skip
    timeout: int | None = option(span, "SPAN", help="stop a job that runs longer (default: none)")
    lock: str | None = option(
        str, "NAME",
        help="the lock in the lake that the job takes (default: the command's name, as in train, labels-import)",
    )  # fmt: skip
    on_failure_command: str | None = option(
        str, "COMMAND", instead_of="hook",
        help="run when a firing did not end well and is not tried again; it finds MASKLAKE_SCHEDULE, MASKLAKE_OUTCOME, "
        "MASKLAKE_DETAIL, … in its environment. No shell: sh -c '…' for one",
    )  # fmt: skip
    on_failure_webhook: str | None = option(
        str, "URL", instead_of="hook",
        help="POST the same as JSON; env:NAME takes the URL from the daemon's environment, for one that is a secret",
    )  # fmt: skip
    where: ScheduleStoreOptions = included(ScheduleStoreOptions)

    def validate(self) -> None:
        if self.cron is None and self.every is None:
            raise UserError(f"schedule {self.name}: say when: --cron EXPRESSION or --every SPAN")


@dataclass(frozen=True, kw_only=True)
class ScheduleNameOptions(Options):
    """What the actions on one schedule are told."""

    name: str = argument("NAME", help="the schedule's name")
    where: ScheduleStoreOptions = included(ScheduleStoreOptions)


@dataclass(frozen=True, kw_only=True)
class ScheduleShowOptions(ScheduleNameOptions):
    """What `masklake schedule show` is told."""

    json: bool = json_flag("what is shown is JSON in any case")


@dataclass(frozen=True, kw_only=True)
class ScheduleListOptions(Options):
    """What `masklake schedule list` is told."""

    json: bool = json_flag("an array with an object per schedule")
    where: ScheduleStoreOptions = included(ScheduleStoreOptions)


@dataclass(frozen=True, kw_only=True)
class ScheduleHistoryOptions(Options):
    """What `masklake schedule history` is told."""

    name: str | None = argument("NAME", default=None, help="of one schedule (default: of all)")
    limit: int = option(positive, "N", default=20, help="the newest N")
    json: bool = json_flag("an array with an object per attempt")
    where: ScheduleStoreOptions = included(ScheduleStoreOptions)


@dataclass(frozen=True, kw_only=True)
class ScheduleServeOptions(Options):
    """What `masklake schedule serve` is told."""

    once: bool = flag(help="fire what is due, one after another, and exit: 1 if one did not end well")
    lease_seconds: int = option(positive, "S", default=60, help="how long a lock outlives a holder that died")
    metrics_port: int | None = option(
        port, "PORT", help="answer Prometheus at http://127.0.0.1:PORT/metrics (default: no port is opened)"
    )
    metrics_host: str = option(
        str, "HOST", default="127.0.0.1",
        help="the address that answers; others can read schedules' names and times there",
    )  # fmt: skip
    where: ScheduleStoreOptions = included(ScheduleStoreOptions)


@dataclass(frozen=True, kw_only=True)
class ScheduleRenderOptions(Options):
    """What `masklake schedule render` is told."""

    name: str = argument("NAME", help="the schedule's name")
    target: str = option(
        one_of("kubernetes", "systemd"), "{kubernetes,systemd}", default="kubernetes",
        help="a CronJob with its RayJob, for a namespace with infra/kuberay; or a service and its timer (default kubernetes)",
    )  # fmt: skip
    image: str = option(str, "IMAGE", default="masklake", help="Masklake's image (default masklake)")
    namespace: str | None = option(str, "NAME", help="for kubernetes (default: the current one)")
    gpus: int = option(
        zero_or_more, "N", default=0, help="for kubernetes: up to N workers with a GPU (default 0)"
    )
    where: ScheduleStoreOptions = included(ScheduleStoreOptions)
