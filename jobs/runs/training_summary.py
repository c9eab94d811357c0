"""A training in one line and in full, whatever state its record is in."""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from masklake.jobs.terminal import log_lines
from masklake.jobs.terminal.text import duration
from masklake.jobs.train import promotion
from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.lake.run_summary import doubted
from masklake.pipeline.train.record import TrainingRecord, load_many
from masklake.pipeline.words import counted


@dataclass(frozen=True, kw_only=True)
class TrainingSummary:
    """A training in figures. `record` is None where it cannot be read; `problem` says why, or why it failed."""

    run: str
    state: str
    """As recorded, `running?` where it has been too long silent, or `unreadable`."""
    record: TrainingRecord | None
    problem: str | None

    @classmethod
    def of(
        cls, run: str, record: TrainingRecord | UserError, now: datetime.datetime | None = None
    ) -> TrainingSummary:
        """The summary at the time `now` of the training `run`, whose record may be broken."""
        if isinstance(record, UserError):
            return cls(run=run, state="unreadable", record=None, problem=str(record))
        state, problem = record.state, record.error
        if silent := doubted(state, record.updated_at, now):
            state, problem = "running?", f"no sign of life for {duration(silent)}"
        elif state == "trained":
            problem = "its last step is done; its result is not measured and kept yet"
        return cls(run=run, state=state, record=record, problem=problem)

    @property
    def verdict(self) -> str:
        """The result: promoted or not, or only stored."""
        record = self.record
        if record is None or record.model is None:
            return "-"
        if record.decision is None:
            return "kept"
        return promotion.verdict(record.decision)

    def as_json(self) -> dict[str, Any]:
        """For `--json`; durations in seconds."""
        record = self.record
        position = record.position if record else {}
        return {
            "run": self.run,
            "kind": "train",
            "state": self.state,
            "model": record and record.model,
            "step": position.get("step"),
            "images": position.get("images"),
            "seconds": position.get("seconds"),
            "figures": record.figures if record else {},
            "decision": record and record.decision,
            "created_at": record and record.created_at,
            "updated_at": record and record.updated_at,
            "problem": self.problem,
        }

    def facts(self) -> Iterator[tuple[str, str]]:
        """(name, value) for `masklake runs show`."""
        yield "run", self.run
        yield "state", self.state
        if self.problem:
            yield "because", self.problem
        record = self.record
        if record is None:
            return
        data, position = record.data, record.position
        yield "command", shlex.join(record.command)
        yield "from", str(record.start.get("from", "-"))
        if record.start.get("fresh"):
            yield "new", ", ".join(record.start["fresh"])
        yield (
            "labels",
            f"{counted(data.get('images', 0), 'images')}, {counted(data.get('instances', 0), 'instances')}, as of {data.get('as_of')}",
        )
        yield "classes", ", ".join(f"{name} {n:,}" for name, n in data.get("classes", {}).items())
        yield "recipe", ", ".join(f"{k}={v}" for k, v in record.options.get("recipe", {}).items())
        yield "versions", ", ".join(f"{k}={v}" for k, v in record.versions.items())
        yield "where", f"{record.host}, process {record.pid}, attempt {record.attempt}"
        yield "started", record.created_at
        yield (
            "trained",
            f"{counted(position.get('step', 0), 'steps')}, {counted(position.get('images', 0), 'images')}, {duration(position.get('seconds', 0.0))}",
        )
        if record.skipped:
            yield "left out", f"{counted(len(record.skipped), 'images')}, such as {_first(record.skipped)}"
        yield "model", record.model or "-"
        for kind, stats in record.figures.items():
            if stats:
                yield kind, ", ".join(f"{name} {stats[name]:.3f}" for name in ("AP", "AP50") if name in stats)
        if record.decision:
            yield "decision", promotion.described(record.decision)

    def next_step(self, lake: str, storage: list[str]) -> str | None:
        """How to resume it, if it is neither complete nor running; `storage`: the options that the lake's storage needs."""
        if self.record is None or self.state in ("complete", "running"):
            return None
        return log_lines.go_on(["train", lake, "--resume", self.run, *storage])


def _first(skipped: dict[str, str]) -> str:
    uri, reason = next(iter(skipped.items()))
    return f"{uri}: {reason}"


def of_lake(lake: Lake, runs: list[str] | None = None) -> list[TrainingSummary]:
    """The trainings of the lake, newest first, or those of `runs`."""
    ids = lake.training_ids() if runs is None else runs
    return [
        TrainingSummary.of(run, record)
        for run, record in zip(ids, load_many(lake.uri, ids, lake.storage), strict=True)
    ]
