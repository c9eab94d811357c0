"""A schedule as a systemd service and its timer, which fire it without the daemon."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from masklake.pipeline.errors import UserError

if TYPE_CHECKING:
    from masklake.jobs.schedule.store import Schedule, Store

_DAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")


def render_systemd(schedule: Schedule, store: Store) -> dict[str, str]:
    """The files, by their names. The service fires the schedule as `run-now` does: the lock, the retries and the
    history are those of the store. Raises UserError for a path that a unit cannot hold."""
    unit = f"masklake-{schedule.name}"
    masklake = Path(sys.executable).with_name("masklake")
    command = " ".join(map(_word, (masklake, "schedule", "run-now", schedule.name, "--store", store.path)))
    service = f"""\
# Pause it where a daemon serves the store, or both fire it: masklake schedule pause {schedule.name}
[Unit]
Description=Masklake: {schedule.name}
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
ExecStart={command}
EnvironmentFile=-/etc/masklake/environment
KillMode=mixed
TimeoutStopSec=90
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=full
UMask=0077
"""
    times = "".join(f"{line}\n" for line in _times(schedule))
    timer = f"""\
[Unit]
Description=Masklake: when {schedule.name} fires

[Timer]
{times}AccuracySec=1s
Persistent=yes
Unit={unit}.service

[Install]
WantedBy=timers.target
"""
    return {f"{unit}.service": service, f"{unit}.timer": timer}


def _word(word: object) -> str:
    text = str(word)
    if any(ord(c) < 32 for c in text):
        raise UserError(f"{text!r}: has control characters, which a unit cannot hold; move it")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if set(escaped) & set(" '\";\\") else escaped


def _times(schedule: Schedule) -> list[str]:
    from masklake.jobs.schedule.cron import Cron

    if schedule.every:
        return ["OnActiveSec=0", f"OnUnitActiveSec={schedule.every}"]
    timing = Cron(schedule.cron or "", schedule.timezone)
    second, minute, hour, day, month, weekday = timing.numbers
    days = _listed(day, 31)
    weekdays = "" if len(weekday) == 7 else ",".join(_DAYS[number] for number in weekday) + " "
    time = f"{_listed(hour, 24)}:{_listed(minute, 60)}:{_listed(second, 60)} {schedule.timezone}"
    pairs = [("", days), (weekdays, "*")] if timing.either_day else [(weekdays, days)]
    return [f"OnCalendar={names}*-{_listed(month, 12)}-{numbers} {time}" for names, numbers in pairs]


def _listed(numbers: tuple[int, ...], full: int) -> str:
    return "*" if len(numbers) == full else ",".join(f"{number:02d}" for number in numbers)
