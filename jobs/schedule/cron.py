"""When a schedule fires: cron expressions in a time zone, and fixed intervals.

`cronsim` steps through the times as Debian's cron does. This module adds clear errors for a bad expression, and the days on
which clocks are set forward or back (`wall_clock`).

- Days of the week count from Sunday (0 and 7), and a range may end on Sunday.
- Where both the day of the month and the day of the week are restricted, either of them is enough.
- When clocks are set back, an hour comes twice. A job of every hour runs in both; one of certain hours runs once, the
  first time. When clocks are set forward, a time that does not exist runs an hour later by the clock: 02:30 at 03:30.
"""

from __future__ import annotations

import datetime
import functools
import re
import zoneinfo
from dataclasses import dataclass
from typing import Protocol

from masklake.jobs.schedule.wall_clock import Wall, following
from masklake.pipeline.errors import UserError

_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_COUNTED = 1000
"""Missed times are counted up to this number."""


@dataclass(frozen=True)
class _Field:
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()

    def number(self, text: str) -> int | None:
        if text.lower() in self.names:
            return self.low + self.names.index(text.lower())
        value = int(text) if re.fullmatch(r"[0-9]{1,4}", text) else -1
        return value if self.low <= value <= self.high else None

    def values(self, text: str, expression: str) -> tuple[int, ...]:
        """The numbers that `text` names. Raises UserError."""
        numbers: set[int] = set()
        for part in text.split(","):
            span, slash, step = part.partition("/")
            first, dash, last = span.partition("-")
            if span == "*":
                low, high = self.low, min(self.high, 6) if self.names == _DAYS else self.high
            else:
                low, high = self.number(first) or 0, self.number(last if dash else first) or 0
                if self.names == _DAYS and dash and high == 0 < low:
                    high = 7  # fri-sun
                if self.number(first) is None or (dash and self.number(last) is None):
                    raise self._bad(part, expression, f"{self.low} to {self.high}")
            if low > high:
                raise self._bad(part, expression, "ranges that go up; part others in two with a comma")
            if slash and (not re.fullmatch(r"[1-9][0-9]{0,3}", step) or not (dash or span == "*")):
                raise self._bad(part, expression, "steps of a range or of *: */15, 9-17/2")
            numbers.update(range(low, high + 1, int(step) if slash else 1))
        if self.names == _DAYS:
            numbers = {day % 7 for day in numbers}
        return tuple(sorted(numbers))

    def _bad(self, part: str, expression: str, remedy: str) -> UserError:
        return UserError(f"--cron {expression!r}: {part!r} is no {self.name}; it takes {remedy}")


_SECOND, _MINUTE, _HOUR = _Field("second", 0, 59), _Field("minute", 0, 59), _Field("hour", 0, 23)
_DAY, _MONTH = _Field("day of the month", 1, 31), _Field("month", 1, 12, _MONTHS)
_WEEKDAY = _Field("day of the week", 0, 7, _DAYS)
_FIELDS = (_SECOND, _MINUTE, _HOUR, _DAY, _MONTH, _WEEKDAY)


class Timing(Protocol):
    """Times, in UTC, to the second."""

    def after(self, moment: datetime.datetime) -> datetime.datetime | None:
        """The first time later than `moment`, or None when there is none."""


@dataclass(frozen=True)
class Cron:
    """A cron expression in a time zone. Raises UserError if one of the two is not valid."""

    expression: str
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        zone(self.timezone)
        if self.after(datetime.datetime.now(datetime.UTC)) is None:
            raise UserError(
                f"--cron {self.expression!r}: never comes; check the day of the month against the month"
            )

    @functools.cached_property
    def texts(self) -> tuple[str, ...]:
        """The six fields as they were typed, the seconds first."""
        fields = _MACROS.get(self.expression.strip().lower(), self.expression).split()
        if len(fields) == 5:
            fields = ["0", *fields]
        if len(fields) != 6:
            raise UserError(
                f"--cron {self.expression!r}: does not have five fields; write five (minute hour day month weekday, "
                f"as in '0 2 * * *'), six with seconds before them, or one of {', '.join(_MACROS)}"
            )
        return tuple(fields)

    @functools.cached_property
    def numbers(self) -> tuple[tuple[int, ...], ...]:
        """What each of the six fields means; days of the week from Sunday, 0."""
        return tuple(
            field.values(text, self.expression) for field, text in zip(_FIELDS, self.texts, strict=True)
        )

    @property
    def either_day(self) -> bool:
        """Whether a matching day of the month or a matching day of the week is enough: neither field begins with a star."""
        return not self.texts[3].startswith("*") and not self.texts[5].startswith("*")

    def after(self, moment: datetime.datetime) -> datetime.datetime | None:
        hourly = len(self.numbers[2]) == 24
        return following(zone(self.timezone), self._next_wall, moment.astimezone(datetime.UTC), hourly=hourly)

    def _next_wall(self, wall: Wall) -> Wall | None:
        from cronsim import CronSim, CronSimError

        try:
            return next(CronSim(self._plain, wall), None)
        except CronSimError:  # a day that no month has
            return None

    @functools.cached_property
    def _plain(self) -> str:
        """The six fields as lists of numbers; stars stay, since they say whether either day is enough."""
        return " ".join(
            text if text.startswith("*") else ",".join(map(str, numbers))
            for text, numbers in zip(self.texts, self.numbers, strict=True)
        )


@dataclass(frozen=True)
class Every:
    """Whole multiples of `seconds` since 1970: every 30 seconds is at :00 and at :30."""

    seconds: int

    def after(self, moment: datetime.datetime) -> datetime.datetime | None:
        passed = int(moment.timestamp() // self.seconds)
        return datetime.datetime.fromtimestamp((passed + 1) * self.seconds, datetime.UTC)


@functools.cache
def zone(name: str) -> zoneinfo.ZoneInfo:
    """A time zone. Raises UserError for one that is not known."""
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        import difflib

        zones = zoneinfo.available_timezones()
        if not zones:
            raise UserError(
                f"--timezone {name!r}: this machine has no time zones; install tzdata (the system's package, or pip's)"
            ) from error
        near = difflib.get_close_matches(
            name.split("/")[-1].title(), {n.split("/")[-1] for n in zones}, 1, 0.75
        )
        like = sorted(n for n in zones if near and n.split("/")[-1] == near[0])
        meant = f"did you mean {like[0]}?" if like else "write one as Europe/Berlin"
        raise UserError(f"--timezone {name!r}: there is no such time zone; {meant}") from error


def due(timing: Timing, first: datetime.datetime, now: datetime.datetime) -> tuple[datetime.datetime, int]:
    """The last of the times from `first` to `now`, and how many of them come before it. `first` is one of the times.

    The count ends at a thousand, however long ago `first` was.
    """
    last = first
    for before in range(_COUNTED):
        following = timing.after(last)
        if following is None or following > now:
            return last, before
        last = following
    step_back = datetime.timedelta(minutes=1)
    while (later := timing.after(now - step_back)) is None or later > now:
        step_back *= 8
    while later is not None and later <= now:
        last, later = later, timing.after(later)
    return last, _COUNTED
