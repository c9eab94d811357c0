"""The steps of `compact` and `forget`, by name, so that tests can stop them at each: beside those of the storage
(storage/crash_points.py), which are before and after each change."""

from __future__ import annotations

from masklake.pipeline.storage import crash_points

POINTS = (
    "begun",
    "part staged",
    "all staged",
    "committed",
    "waited",
    "part put in place",
    "old part removed",
    "all in place",
    "trace removed",
    "traces removed",
    "retired",
    "staging removed",
    "finished",
)
"""In the order in which they are reached; those of a part are reached for each part, and "trace removed" by `forget` only."""


def reach(point: str) -> None:
    """The work has come to this point."""
    if point not in POINTS:
        raise ValueError(f"{point!r} is not among the crash points")
    crash_points.reach(point)
