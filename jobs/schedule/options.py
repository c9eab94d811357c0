"""The options of `masklake schedule`'s actions."""

from __future__ import annotations

import re
from dataclasses import dataclass

from masklake.jobs.options.declare import Options, argument, flag, included, option
from masklake.jobs.options.kinds import Kind, one_of, port_from, positive, zero_or_more
from masklake.jobs.options.shared import json_flag
from masklake.pipeline.errors import UserError

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_MOST_S = 366 * 86400


def _seconds(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text)
    if not match:
        raise ValueError(text)
    return int(match[1]) * _UNITS[match[2]]


span = Kind(
    "a time span of up to a year; write 90, 30s, 15m, 2h or 1d", _seconds, lambda value: 1 <= value <= _MOST_S
)
"""Whole seconds."""


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
    """The options of `masklake schedule add`."""

    name: str = argument("NAME", help="the name of the schedule, for example nightly")
    job: tuple[str, ...] = argument(
        "-- COMMAND",
        nargs="+",
        help="the masklake command to run, without the word masklake, after --: -- train s3://lake",
    )
    cron: str | None = option(
        str,
        "EXPRESSION",
        instead_of="when",
        help="a cron expression: '0 2 * * *' (02:00 each day), '*/30 * * * * *' (six fields: seconds first), @daily",
    )
    every: int | None = option(
        span,
        "SPAN",
        instead_of="when",
        help="run at whole multiples of this interval: 30s (at :00 and :30 of each minute), 15m, 2h",
    )
    timezone: str = option(
        str,
        "ZONE",
        default="UTC",
        help="the time zone of the cron expression, for example Europe/Berlin (default UTC)",
    )
    deadline: int = option(
        span,
        "SPAN",
        default=86400,
        help="a missed run is still started if it is not later than this (default 1d)",
    )
    retries: int = option(
        zero_or_more,
        "N",
        default=0,
        help="how often a run that failed is tried again, if it was no mistake in the command (exit code 2) (default 0)",
    )
    backoff: int = option(
        span, "SPAN", default=60,
        help="how long to wait before the first retry; each further wait is twice as long, up to 1h (default 1m)",
    )  # fmt: skip
    timeout: int | None = option(
        span, "SPAN", help="stop a job that runs longer than this, for example 6h (default: no limit)"
    )
    lock: str | None = option(
        str, "NAME",
        help="the name of the lock in the lake that the job holds while it runs (default: the command's name: train, labels-import)",
    )  # fmt: skip
    on_failure_command: str | None = option(
        str, "COMMAND", instead_of="hook",
        help="a command to run when a firing failed and is not tried again; its environment has MASKLAKE_SCHEDULE, MASKLAKE_OUTCOME, "
        "MASKLAKE_DETAIL and more. It is run without a shell; write sh -c '…' to have one",
    )  # fmt: skip
    on_failure_webhook: str | None = option(
        str, "URL", instead_of="hook",
        help="a URL to POST the same facts to, as JSON; env:NAME reads a secret URL from the daemon's environment",
    )  # fmt: skip
    where: ScheduleStoreOptions = included(ScheduleStoreOptions)

    def validate(self) -> None:
        if self.cron is None and self.every is None:
            raise UserError(f"schedule {self.name}: say when: --cron EXPRESSION or --every SPAN")


@dataclass(frozen=True, kw_only=True)
class ScheduleNameOptions(Options):
    """The options of the actions on one schedule."""

    name: str = argument("NAME", help="the schedule's name")
    where: ScheduleStoreOptions = included(ScheduleStoreOptions)


@dataclass(frozen=True, kw_only=True)
class ScheduleShowOptions(ScheduleNameOptions):
    """The options of `masklake schedule show`."""

    json: bool = json_flag("what is shown is JSON in any case")


@dataclass(frozen=True, kw_only=True)
class ScheduleListOptions(Options):
    """The options of `masklake schedule list`."""

    json: bool = json_flag("an array with an object per schedule")
    where: ScheduleStoreOptions = included(ScheduleStoreOptions)


@dataclass(frozen=True, kw_only=True)
class ScheduleHistoryOptions(Options):
    """The options of `masklake schedule history`."""

    name: str | None = argument(
        "NAME", default=None, help="show the history of this schedule only (default: of all)"
    )
    limit: int = option(
        positive, "N", default=20, help="how many attempts to show, the newest first (default 20)"
    )
    json: bool = json_flag("an array with an object per attempt")
    where: ScheduleStoreOptions = included(ScheduleStoreOptions)


@dataclass(frozen=True, kw_only=True)
class ScheduleServeOptions(Options):
    """The options of `masklake schedule serve`."""

    once: bool = flag(
        help="run everything that is due now, one after another, then exit; exit code 1 if one of them failed"
    )
    lock_seconds: int = option(
        positive,
        "S",
        default=60,
        former=("lease-seconds",),
        help="seconds after which the lock of a process that died is free again (default 60)",
    )
    metrics_port: int | None = option(
        port_from(1),
        "PORT",
        help="serve Prometheus metrics at http://127.0.0.1:PORT/metrics (default: no port is opened)",
    )
    metrics_host: str = option(
        str, "HOST", default="127.0.0.1",
        help="the address to serve the metrics at (default 127.0.0.1); on another one, other machines can read the schedules' names "
        "and times",
    )  # fmt: skip
    where: ScheduleStoreOptions = included(ScheduleStoreOptions)


@dataclass(frozen=True, kw_only=True)
class ScheduleRenderOptions(Options):
    """The options of `masklake schedule render`."""

    name: str = argument("NAME", help="the schedule's name")
    target: str = option(
        one_of("kubernetes", "systemd"), "{kubernetes,systemd}", default="kubernetes",
        help="kubernetes: a CronJob that starts a RayJob, for a namespace with infra/kuberay; systemd: a service and its timer "
        "(default kubernetes)",
    )  # fmt: skip
    image: str = option(
        str,
        "IMAGE",
        default="masklake",
        help="the container image of Masklake, for kubernetes (default masklake)",
    )
    namespace: str | None = option(
        str, "NAME", help="the Kubernetes namespace (default: the current one of kubectl)"
    )
    gpus: int = option(
        zero_or_more, "N", default=0, help="for kubernetes: use up to N workers with a GPU each (default 0)"
    )
    where: ScheduleStoreOptions = included(ScheduleStoreOptions)
