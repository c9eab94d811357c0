"""When schedules fire: cron's own semantics, time zones, and the days on which clocks are set."""

from __future__ import annotations

import datetime
import zoneinfo

import pytest
from masklake.jobs.schedule.cron import Cron, Every, Timing, due, zone
from masklake.pipeline.errors import UserError

BERLIN = "Europe/Berlin"


def utc_time(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)


def times(timing: Timing, start: str, n: int, timezone: str = "UTC") -> list[str]:
    """The next `n` times after `start`, which is UTC, by a clock of `timezone`."""
    moment, texts = utc_time(start), []
    for _ in range(n):
        following = timing.after(moment)
        assert following is not None
        assert following > moment
        moment = following
        texts.append(f"{moment.astimezone(zone(timezone)):%a %m-%d %H:%M:%S %Z}")
    return texts


def test_a_time_that_clocks_leap_over_runs_once_an_hour_later() -> None:
    assert times(Cron("30 2 * * *", BERLIN), "2026-03-28T00:00", 4, BERLIN) == [
        "Sat 03-28 02:30:00 CET",
        "Sun 03-29 03:30:00 CEST",
        "Mon 03-30 02:30:00 CEST",
        "Tue 03-31 02:30:00 CEST",
    ]
    assert times(Cron("15,45 2 * * *", BERLIN), "2026-03-29T00:00", 3, BERLIN) == [
        "Sun 03-29 03:15:00 CEST",
        "Sun 03-29 03:45:00 CEST",
        "Mon 03-30 02:15:00 CEST",
    ]
    assert times(Cron("30 2 * * *", BERLIN), "2026-03-29T01:10", 1, BERLIN) == ["Sun 03-29 03:30:00 CEST"]
    assert times(Cron("0 2,3 * * *", BERLIN), "2026-03-29T00:30", 2, BERLIN) == [
        "Sun 03-29 03:00:00 CEST",
        "Mon 03-30 02:00:00 CEST",
    ]
    # 03:30 is there by itself too: still once.
    assert times(Cron("30 2,3 * * *", BERLIN), "2026-03-28T12:00", 3, BERLIN) == [
        "Sun 03-29 03:30:00 CEST",
        "Mon 03-30 02:30:00 CEST",
        "Mon 03-30 03:30:00 CEST",
    ]


def test_a_time_that_comes_twice_runs_once_the_first_time() -> None:
    assert times(Cron("30 2 * * *", BERLIN), "2026-10-24T00:00", 4, BERLIN) == [
        "Sat 10-24 02:30:00 CEST",
        "Sun 10-25 02:30:00 CEST",
        "Mon 10-26 02:30:00 CET",
        "Tue 10-27 02:30:00 CET",
    ]
    assert times(Cron("*/30 1-2 * * *", BERLIN), "2026-10-24T22:00", 5, BERLIN) == [
        "Sun 10-25 01:00:00 CEST",
        "Sun 10-25 01:30:00 CEST",
        "Sun 10-25 02:00:00 CEST",
        "Sun 10-25 02:30:00 CEST",
        "Mon 10-26 01:00:00 CET",
    ]


@pytest.mark.parametrize(
    "timezone", [BERLIN, "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "UTC"]
)
@pytest.mark.parametrize("expression", ["*/20 * * * *", "0 * * * *", "0,50 * * * mon"])
def test_what_runs_every_hour_runs_in_every_hour_that_passes(timezone: str, expression: str) -> None:
    """Held to a walk through every minute of a year in which clocks are set twice, or (Morocco) around Ramadan."""
    cron, tz = Cron(expression, timezone), zoneinfo.ZoneInfo(timezone)
    minutes = cron.numbers[1]
    # The days around every change of the offset, and one other.
    start, days = utc_time("2026-01-01T00:00"), []
    for day in range(365):
        midnight = start + datetime.timedelta(days=day)
        if (
            midnight.astimezone(tz).utcoffset()
            != (midnight + datetime.timedelta(days=1)).astimezone(tz).utcoffset()
        ):
            days.append(midnight)
    for midnight in [*days, start]:
        expected = [
            moment
            for minute in range(1440)
            if (moment := midnight + datetime.timedelta(minutes=minute)).astimezone(tz).minute in minutes
            and (moment.astimezone(tz).isoweekday() % 7) in cron.numbers[5]
        ]
        fired, moment = [], midnight - datetime.timedelta(seconds=1)
        while (following := cron.after(moment)) is not None and following < midnight + datetime.timedelta(
            days=1
        ):
            fired.append(following)
            moment = following
        assert fired == expected


@pytest.mark.parametrize("timezone", [BERLIN, "America/New_York", "Pacific/Auckland"])
def test_a_time_of_the_day_runs_once_on_each_day_of_the_year(timezone: str) -> None:
    # CronTrigger by itself loses the one at midnight on the day after clocks are set forward.
    for expression in ("30 2 * * *", "0 0 * * *", "59 1 * * *", "0 23 * * *"):
        cron, moment, dates = Cron(expression, timezone), utc_time("2025-12-31T12:00"), []
        for _ in range(366):
            moment = cron.after(moment) or moment
            dates.append(moment.astimezone(zone(timezone)).date())
        assert dates == [dates[0] + datetime.timedelta(days=n) for n in range(366)], expression


@pytest.mark.parametrize(
    ("expression", "days"),
    [
        ("0 0 * * 0", ["Sun"]),
        ("0 0 * * 7", ["Sun"]),
        ("0 0 * * 1", ["Mon"]),
        ("0 0 * * 1-5", ["Mon", "Tue", "Wed", "Thu", "Fri"]),
        ("0 0 * * 5-7", ["Fri", "Sat", "Sun"]),
        ("0 0 * * fri-sun", ["Fri", "Sat", "Sun"]),
        ("0 0 * * SUN-tue", ["Mon", "Tue", "Sun"]),
        ("0 0 * * sun,3", ["Wed", "Sun"]),
        ("0 0 * * */2", ["Tue", "Thu", "Sat", "Sun"]),
        ("@weekly", ["Sun"]),
    ],
)
def test_days_of_the_week_are_crons(expression: str, days: list[str]) -> None:
    """From Sunday, which is 0 and 7."""
    fired = times(Cron(expression), "2026-11-01T00:00", 14)  # a Sunday, at its first moment
    week = {text[:3]: None for text in fired}
    assert sorted(week, key=["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"].index) == days


def test_either_day_is_enough_where_both_are_restricted() -> None:
    assert [t[:9] for t in times(Cron("0 0 13 * 5"), "2026-11-01T00:00", 4)] == [
        "Fri 11-06",
        "Fri 11-13",
        "Fri 11-20",
        "Fri 11-27",
    ]
    assert [t[:9] for t in times(Cron("0 0 1,15 * mon"), "2026-11-01T00:00", 4)] == [
        "Mon 11-02",
        "Mon 11-09",
        "Sun 11-15",
        "Mon 11-16",
    ]
    # With a star before it, a field restricts what the other leaves.
    assert [t[:9] for t in times(Cron("0 0 */2 * mon"), "2026-11-01T00:00", 2)] == ["Mon 11-09", "Mon 11-23"]


def test_fields_names_macros_and_seconds() -> None:
    assert times(Cron("*/30 * * * * *"), "2026-11-25T06:00:05", 3)[1][10:18] == "06:01:00"
    assert times(Cron("15 10-12/2 * jan,7 *"), "2026-11-25T06:00", 1) == ["Fri 01-01 10:15:00 UTC"]
    assert times(Cron("@hourly"), "2026-11-25T06:00:00", 1) == ["Wed 11-25 07:00:00 UTC"]
    assert times(Cron("0 0 29 2 *"), "2026-11-25T06:00", 1) == ["Tue 02-29 00:00:00 UTC"]
    assert times(Every(30), "2026-11-25T06:00:05", 3)[:2] == [
        "Wed 11-25 06:00:30 UTC",
        "Wed 11-25 06:01:00 UTC",
    ]


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("", "does not have five fields"),
        ("* * * *", "does not have five fields"),
        ("* * * * * * *", "does not have five fields"),
        ("@reboot", "does not have five fields"),
        ("60 * * * *", "'60' is no minute; it takes 0 to 59"),
        ("-1 * * * *", "'-1' is no minute"),
        ("* 24 * * *", "'24' is no hour"),
        ("* * 0 * *", "'0' is no day of the month"),
        ("* * * 13 *", "'13' is no month"),
        ("* * * * 8", "'8' is no day of the week"),
        ("* * * * mo", "'mo' is no day of the week"),
        ("*/0 * * * *", "steps of a range"),
        ("5/15 * * * *", "steps of a range"),
        ("30-10 * * * *", "ranges that go up"),
        ("1,,2 * * * *", "'' is no minute"),
        ("٣ * * * *", "is no minute"),
        ("0 0 L * *", "'L' is no day of the month"),
        ("0 0 30 2 *", "never comes"),
    ],
)
def test_bad_expressions_say_which_part_is_bad(expression: str, answer: str) -> None:
    with pytest.raises(UserError, match="--cron") as error:
        Cron(expression)
    assert answer in str(error.value)


@pytest.mark.parametrize(
    "name", ["Berlin", "Europe/Berln", "../../etc/passwd", "/etc/localtime", "Europe", "", "\0"]
)
def test_an_unknown_time_zone_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="there is no such time zone"):
        Cron("0 2 * * *", name)


def test_a_misspelt_time_zone_is_guessed() -> None:
    with pytest.raises(UserError, match="did you mean Europe/Berlin"):
        zone("Berlin")


def test_times_that_went_by_together_are_one_with_a_count() -> None:
    first, now = utc_time("2026-11-25T06:00:00"), utc_time("2026-11-25T06:02:10")
    assert due(Every(30), first, now) == (utc_time("2026-11-25T06:02:00"), 4)
    assert due(Every(30), first, first) == (first, 0)
    # However long ago: counted to a thousand, and found without walking through it all.
    assert due(Cron("* * * * * *"), utc_time("2016-11-25T06:00:00"), now) == (now, 1000)
    assert due(Cron("0 0 29 2 *"), utc_time("1996-02-29T00:00:00"), now) == (
        utc_time("2024-02-29T00:00:00"),
        7,
    )
