"""Prometheus metrics of `masklake schedule serve`, read from the store at each scrape, so a restart loses none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from masklake.jobs.schedule.store import (
    COALESCED,
    FAILED,
    INTERRUPTED,
    LOST,
    MISSED,
    OK,
    REFUSED,
    RUNNING,
    STOPPED,
    TIMED_OUT,
    Store,
    moment,
)
from masklake.pipeline.errors import UserError

if TYPE_CHECKING:
    from prometheus_client.metrics_core import GaugeMetricFamily, Metric

OUTCOMES = (OK, FAILED, TIMED_OUT, LOST, REFUSED, MISSED, COALESCED, STOPPED, INTERRUPTED)
_PREFIX = "masklake_schedule_"


class Collector:
    """A collector for a registry of prometheus_client. Labels are the names of schedules and the possible outcomes."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now. Raises UserError when the store cannot be read."""
        paused = _gauge("paused", "1 where the schedule is paused", "schedule")
        following = _gauge("next_timestamp_seconds", "when the schedule fires next", "schedule")
        running = _gauge("running_since_timestamp_seconds", "when what runs of it was started", "schedule")
        last = _gauge("last_firing_timestamp_seconds", "when a firing last ended so", "schedule", "outcome")
        seconds = _gauge(
            "last_firing_seconds", "how long the last firing that ended so took", "schedule", "outcome"
        )
        firings = _gauge(
            "firings", "firings in the history, which keeps the last 1,000", "schedule", "outcome"
        )
        with self._store.transaction() as db:
            schedules = db.execute("select name, paused, next_at from schedules").fetchall()
            under_way = db.execute(
                "select schedule, min(started_at) as at from firings where state = ? group by schedule",
                (RUNNING,),
            ).fetchall()
            # SQLite takes a bare column from the row that has the max().
            ended_rows = db.execute(
                "select schedule, state, count(*) as n, max(id), ended_at, seconds from firings "
                "where ended_at is not null group by schedule, state"
            ).fetchall()
        names = {row["name"] for row in schedules}
        ended_by_outcome = {(row["schedule"], row["state"]): row for row in ended_rows}
        for row in schedules:
            paused.add_metric([row["name"]], row["paused"])
            if row["next_at"] and not row["paused"]:
                following.add_metric([row["name"]], moment(row["next_at"]).timestamp())
        for row in under_way:
            if row["schedule"] in names:
                running.add_metric([row["schedule"]], moment(row["at"]).timestamp())
        for name in sorted(names):
            for outcome in OUTCOMES:
                row = ended_by_outcome.get((name, outcome))
                firings.add_metric([name, outcome], row["n"] if row else 0)
                if row:
                    last.add_metric([name, outcome], moment(row["ended_at"]).timestamp())
                    seconds.add_metric([name, outcome], row["seconds"] or 0.0)
        yield from (paused, following, running, last, seconds, firings)


def _gauge(name: str, description: str, *labels: str) -> GaugeMetricFamily:
    from prometheus_client.metrics_core import GaugeMetricFamily

    return GaugeMetricFamily(_PREFIX + name, description, labels=labels)


@contextlib.contextmanager
def metrics_served(store: Store, host: str, port: int | None) -> Iterator[None]:
    """Answer GET /metrics at `host`:`port` for the length of the block; where `port` is None, do nothing.

    Raises UserError when the port cannot be opened.
    """
    if port is None:
        yield
        return
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector(store))
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise UserError(
            f"--metrics-port {port}: cannot be served at {host}: {error.strerror}; give another port or --metrics-host"
        ) from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
