"""A run in one line, in whatever state its record is."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

from masklake.pipeline.lake.lake import Run
from masklake.pipeline.schema import Status

SILENT_S = 120.0
"""How long a running run may go without updating its record before it is doubted (the record is updated every
10 s)."""


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """A run in figures; None where the record does not say."""

    run: str
    state: str
    """As recorded, or `unreadable`."""
    silent_s: float | None
    """Seconds since the last sign of life, when the run is recorded as running but has been too long silent."""
    model: str | None
    images: int | None
    """The number of images in the manifest, so far."""
    listed: bool
    """Whether the manifest is complete, so that `images` is final."""
    done: int
    ok: int
    failures: int
    instances: int | None
    seconds: float | None
    created_at: datetime.datetime | None
    updated_at: datetime.datetime | None
    problem: str | None
    """Why the run failed, or why its record cannot be read."""

    @classmethod
    def of(cls, run: Run, now: datetime.datetime | None = None) -> RunSummary:
        """The summary of `run` at the time `now`."""
        record = run.record
        counts = record.counts if record else {}
        done = sum(_count(value) or 0 for value in counts.values())
        ok = _count(counts.get(Status.OK)) or 0
        return cls(
            run=run.id,
            state=record.state if record else "unreadable",
            silent_s=doubted(record.state, record.updated_at, now) if record else None,
            model=f"{record.model.get('name', '?')}@{record.model.get('fingerprint', '?')}"
            if record
            else None,
            images=_count(record.manifest.get("images")) if record else None,
            listed=bool(record and record.manifest.get("complete")),
            done=done,
            ok=ok,
            failures=done - ok,
            instances=record.instances if record else None,
            seconds=record.seconds if record else None,
            created_at=moment(record.created_at) if record else None,
            updated_at=moment(record.updated_at) if record else None,
            problem=run.problem or (record.error if record else None),
        )

    @property
    def rate(self) -> float | None:
        """Images per second over the time that the run has worked."""
        return self.done / self.seconds if self.seconds and self.done else None

    @property
    def state_text(self) -> str:
        """The state, doubted where the run has gone silent."""
        return self.state if self.silent_s is None else "running?"


def doubted(state: str, updated_at: str, now: datetime.datetime | None = None) -> float | None:
    """Seconds since the last sign of life, for a record in state `running` that has been silent too long; else None."""
    updated = moment(updated_at)
    if state != "running" or updated is None:
        return None
    silent = ((now or datetime.datetime.now(datetime.UTC)) - updated).total_seconds()
    return silent if silent > SILENT_S else None


def moment(iso: str) -> datetime.datetime | None:
    """The time in an ISO 8601 text, UTC where it names no zone; None where it is no time."""
    try:
        parsed = datetime.datetime.fromisoformat(iso)
    except ValueError:
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=datetime.UTC)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
