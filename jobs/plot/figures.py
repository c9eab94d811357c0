"""What is plotted of a lake, as numbers: DuckDB counts, so that memory does not grow with the lake."""

from __future__ import annotations

import datetime
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from masklake.jobs.query.literals import literal
from masklake.pipeline.lake.run_summary import moment
from masklake.pipeline.storage.explain import explaining
from masklake.pipeline.storage.store import join

if TYPE_CHECKING:
    from masklake.jobs.query.database import Database
    from masklake.pipeline.lake.lake import Lake

SCORE_BINS = 20
_RATE_BINS = 60
_METRICS = re.compile(r"/([A-Za-z0-9][\w.-]*)/eval/([\w.-]+)/metrics\.json")
_EVALUATIONS = 500

_CLASSES = "select label, count(*) from instances group by 1 order by 2 desc, 1"
_SCORES = """
    select least(floor(score * {bins}), {bins} - 1)::int, count(*) from instances where score >= 0 and score <= 1 group by 1
"""
_SIDES = "select floor(log2(greatest(area, 1)))::int, count(*) from instances group by 1 order by 1"
_STATUSES = "select status, count(*) from images group by 1 order by 2 desc, 1"
_NEWEST = "select max(run) from all_images"
_ENDS = "select min(processed_at), max(processed_at), count(*) from all_images where run = {run}"
_RATES = """
    select floor(epoch(processed_at - '{start}'::timestamptz) / {step})::int, count(*) from all_images
    where run = {run} group by 1 order by 1
"""


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """AP of one model on one set of labels: an evaluation that the lake keeps."""

    model: str
    target: str
    time: datetime.datetime
    ap: dict[str, float]
    """By kind: box, mask, keypoints."""


@dataclass(frozen=True, kw_only=True)
class LakeFigures:
    """The numbers of all panels."""

    lake: str
    statuses: list[tuple[str, int]]
    classes: list[tuple[str, int]]
    """With how many instances; most first."""
    scores: list[int]
    """Instances in each of SCORE_BINS equal bins from 0 to 1."""
    areas: dict[int, int]
    """Instances by the power of two below their area in pixels."""
    run: str | None
    """The run of `rates`."""
    rates: list[tuple[float, float]]
    """(seconds since the run's first image, images a second)."""
    evaluated: list[Evaluated]
    """Oldest first."""

    def as_json(self) -> dict[str, Any]:
        return {
            "lake": self.lake,
            "statuses": dict(self.statuses),
            "classes": dict(self.classes),
            "scores": self.scores,
            "areas": {f"{2**power}-{2 ** (power + 1) - 1}": count for power, count in self.areas.items()},
            "run": self.run,
            "images_per_second": self.rates,
            "evaluations": [
                {"model": e.model, "labels": e.target, "time": e.time.isoformat(), "AP": e.ap}
                for e in self.evaluated
            ],
        }


def read(lake: Lake, database: Database, run: str | None) -> LakeFigures:
    """The figures of a lake. Raises UserError where it cannot be read."""
    scores = dict(database.rows(_SCORES.format(bins=SCORE_BINS)))
    chosen = run or database.rows(_NEWEST)[0][0]
    return LakeFigures(
        lake=lake.uri,
        statuses=database.rows(_STATUSES),
        classes=database.rows(_CLASSES),
        scores=[scores.get(i, 0) for i in range(SCORE_BINS)],
        areas=dict(database.rows(_SIDES)),
        run=chosen,
        rates=_rates(database, chosen) if chosen else [],
        evaluated=_evaluated(lake),
    )


def _rates(database: Database, run: str) -> list[tuple[float, float]]:
    start, end, images = database.rows(_ENDS.format(run=literal(run)))[0]
    seconds = (end - start).total_seconds() if images else 0.0
    if seconds <= 0:
        return []
    step = max(1.0, seconds / _RATE_BINS)
    counts = dict(database.rows(_RATES.format(run=literal(run), start=start.isoformat(), step=step)))
    return [(i * step, counts.get(i, 0) / step) for i in range(int(seconds // step) + 1)]


def _evaluated(lake: Lake) -> list[Evaluated]:
    """The newest evaluations that `masklake eval` has left. What cannot be read is left out: it is no result."""
    root = join(lake.uri, "runs")
    with explaining(lake.uri, "list evaluations"):
        uris = sorted(u for u in lake.storage.list(root) if _METRICS.fullmatch(u.removeprefix(root)))[
            -_EVALUATIONS:
        ]
        objects = lake.storage.get_many(uris)
    records = (_record(content.data) for content in objects if not isinstance(content, Exception))
    return sorted((record for record in records if record is not None), key=lambda record: record.time)


def _record(data: bytes) -> Evaluated | None:
    try:
        facts = json.loads(data)
        time = moment(facts["at"])
        ap = {
            kind: float(stats["AP"])
            for kind, stats in facts["figures"].items()
            if stats and stats.get("AP") is not None
        }
        model, target = str(facts["model"]), str(facts["evaluated"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return Evaluated(model=model, target=target, time=time, ap=ap) if time and ap else None
