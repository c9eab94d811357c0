"""Which models have learnt from images, or were measured by them, as the records of trainings tell."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import pyarrow as pa
from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.lake.process import process_alive
from masklake.pipeline.lake.run_record import silence
from masklake.pipeline.storage.explain import explaining
from masklake.pipeline.tend.chosen import Chosen
from masklake.pipeline.train import record as training


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """A training that took labels of the images."""

    training: str
    state: str
    model: str | None
    """name@version of the result; None where there is none (yet)."""
    learnt_from: int
    """Images that it was trained on."""
    measured_by: int
    """Images that it was evaluated on."""
    at_work: bool = False
    """Whether its driver is, or may be, running."""
    begun_with: str | None = None
    """The model of this list that the training started from: what that one learnt is in this one too."""


def learnt(lake: Lake, chosen: Chosen) -> tuple[list[Learnt], list[str]]:
    """Trainings whose labels held one of the images, oldest first, with those that started from their results; and what is
    wrong with records that cannot be read.

    `lake` is as it was before the labels of the images were taken out; the trainings are those of now."""
    ids = sorted(Lake(lake.uri, lake.storage).training_ids())
    records = training.load_many(lake.uri, ids, lake.storage)
    problems = [str(record) for record in records if isinstance(record, UserError)]
    rows = _sets(lake, chosen)
    result: list[Learnt] = []
    tainted: set[str] = set()
    for record in records:
        if isinstance(record, UserError):
            continue
        as_of = datetime.datetime.fromisoformat(record.data["as_of"]) if "as_of" in record.data else None
        splits = [_newest(sets, as_of) for sets in rows.values()]
        origin = record.start.get("from")
        entry = Learnt(
            training=record.run,
            state=record.state,
            model=record.model,
            learnt_from=splits.count("train"),
            measured_by=splits.count("val"),
            at_work=record.state in ("running", "trained")
            and silence(record.host, record.pid, record.updated_at, process_alive) is not None,
            begun_with=origin if origin in tainted else None,
        )
        if entry.learnt_from or entry.measured_by or entry.begun_with:
            result.append(entry)
        if record.model and (entry.learnt_from or entry.begun_with):
            tainted.add(record.model)
    return result, problems


def _sets(lake: Lake, chosen: Chosen) -> dict[str, list[tuple[datetime.datetime, str]]]:
    """(time, split) of every label set of the images, by URI."""
    sets: dict[str, set[tuple[datetime.datetime, str]]] = {}
    if lake.parts("labels"):
        with explaining(lake.uri, "read labels"):
            table = lake.dataset("labels").to_table(
                columns=["uri", "labelled_at", "split"], filter=chosen.filter()
            )
        table = table.set_column(2, "split", table["split"].cast(pa.string()))
        for row in table.to_pylist():
            sets.setdefault(row["uri"], set()).add((row["labelled_at"], row["split"]))
    return {uri: sorted(of_image) for uri, of_image in sets.items()}


def _newest(sets: list[tuple[datetime.datetime, str]], as_of: datetime.datetime | None) -> str | None:
    """The split of the newest label set at the time `as_of`."""
    known = [split for moment, split in sets if as_of is None or moment <= as_of]
    return known[-1] if known else None
