"""From what a clock on the wall shows to moments: the days on which clocks are set.

Between two changes of a zone's offset, wall time and UTC differ by a constant. So the search goes from one change to the
next, in wall time, in which all days have 24 hours.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable

Wall = datetime.datetime
"""What a clock on the wall shows, written as if it were UTC, so that it can be computed with."""
_DAY = datetime.timedelta(days=1)
_SECOND = datetime.timedelta(seconds=1)


def following(
    zone: datetime.tzinfo,
    next_wall: Callable[[Wall], Wall | None],
    moment: datetime.datetime,
    *,
    hourly: bool,
) -> datetime.datetime | None:
    """The first moment later than `moment` at which a clock shows one of the times that `next_wall` steps through.

    `hourly` times come each time that a clock shows them. Other times come once: a time that is shown twice comes the first
    time, and a time that is skipped comes later by as much as the clock was set forward.
    """
    candidates = [] if hourly else _skipped(zone, next_wall, moment)
    start, strictly_after = moment, True
    while True:
        offset = _offset(zone, start)
        wall = next_wall(start + offset if strictly_after else start + offset - _SECOND)
        while wall is not None and not hourly and (wall - offset).astimezone(zone).fold:
            wall = next_wall(wall)
        if wall is None:
            break
        change = _change(zone, start, wall - offset)
        if change is None:
            candidates.append(wall - offset)
            break
        if not hourly and wall < change + _offset(zone, change):
            candidates.append(wall - offset)  # skipped; but a time right after the change may be earlier
        start, strictly_after = change, False
    return min(candidates, default=None)


def _skipped(
    zone: datetime.tzinfo, next_wall: Callable[[Wall], Wall | None], moment: datetime.datetime
) -> list[datetime.datetime]:
    """The next of the times that were skipped shortly before `moment`, if it is still to come."""
    before = _offset(zone, moment - _DAY)
    change = _change(zone, moment - _DAY, moment)
    wall = None if change is None else next_wall(moment + before)
    if change is None or wall is None or wall >= change + _offset(zone, change):
        return []
    return [wall - before]


def _offset(zone: datetime.tzinfo, moment: datetime.datetime) -> datetime.timedelta:
    return moment.astimezone(zone).utcoffset() or datetime.timedelta(0)


def _change(
    zone: datetime.tzinfo, start: datetime.datetime, end: datetime.datetime
) -> datetime.datetime | None:
    """The first second after `start`, and not after `end`, at which the offset is another; None if there is none."""
    offset = _offset(zone, start)
    last = start
    while last < end:
        probe = min(last + _DAY, end)
        if _offset(zone, probe) != offset:
            while probe - last > _SECOND:
                middle = last + datetime.timedelta(seconds=int((probe - last).total_seconds()) // 2 or 1)
                if _offset(zone, middle) == offset:
                    last = middle
                else:
                    probe = middle
            return probe.replace(microsecond=0)
        last = probe
    return None
