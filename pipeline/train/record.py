"""A training's record, `runs/<run>/train.json`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.lake.record import Record
from masklake.pipeline.lake.run_record import RunFolder, silence
from masklake.pipeline.storage.explain import explain, explaining
from masklake.pipeline.storage.objects import Fetched
from masklake.pipeline.storage.store import Storage, join

RECORD = "train.json"


@dataclass(frozen=True, kw_only=True)
class TrainingRecord(Record):
    """The content of train.json. `options` decide the result; a resumed training takes them from here."""

    KIND: ClassVar[str] = "the record of a training"
    REMEDY: ClassVar[str] = "start a new one"

    start: dict[str, Any]
    """What the training started from."""
    data: dict[str, Any]
    precision: str | None = None
    """The number format of the first worker's convolutions, where the recipe leaves it to the machine."""
    position: dict[str, Any] = field(default_factory=dict)
    """step, seconds, images, and digest, which names the images of all steps in their order."""
    losses: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    model: str | None = None
    """name@version of the result in the lake's registry."""
    figures: dict[str, Any] = field(default_factory=dict)
    decision: dict[str, Any] | None = None


def record_uri(lake: str, run: str) -> str:
    return join(lake, "runs", run, RECORD)


def save(record: TrainingRecord, storage: Storage) -> None:
    """Write the record, but never over that of a later attempt. Raises UserError when that is not possible, SupersededError where
    a later attempt has begun."""
    uri = record_uri(record.lake, record.run)
    with explaining(uri, "write the training's record"):
        RunFolder(record.lake, record.run, storage).write(uri, record.to_json(), record.attempt)


def trainings(lake: str, storage: Storage) -> list[str]:
    """The ids of the lake's trainings, newest first."""
    return Lake(lake, storage).training_ids()


def load(lake: str, run: str, storage: Storage) -> TrainingRecord:
    """The record of a training: an id, or `last`. Raises UserError when there is none, or it is broken."""
    if run == "last":
        ids = trainings(lake, storage)
        if not ids:
            raise UserError(f"{lake}: has no training yet; `masklake train {lake}` makes one")
        run = ids[0]
    [record] = load_many(lake, [run], storage)
    if isinstance(record, UserError):
        raise record
    return record


def load_many(lake: str, runs: list[str], storage: Storage) -> list[TrainingRecord | UserError]:
    """The records of trainings, all fetched at once; for one that is missing or broken, the error instead."""
    uris = [record_uri(lake, run) for run in runs]
    return [
        _parse(lake, run, uri, fetched)
        for run, uri, fetched in zip(runs, uris, storage.get_many(uris), strict=True)
    ]


def _parse(lake: str, run: str, uri: str, fetched: Fetched | Exception) -> TrainingRecord | UserError:
    if isinstance(fetched, FileNotFoundError):
        return UserError(f"{lake}: has no training {run!r}; `masklake runs {lake}` lists them")
    if isinstance(fetched, Exception):
        return explain(fetched, uri, "read the training's record")
    try:
        return replace(TrainingRecord.parse(fetched.data, uri), lake=lake)  # which may have been moved since
    except UserError as error:
        return error


def next_attempt(record: TrainingRecord, alive: Callable[[int], bool]) -> TrainingRecord:
    """`record` for the next attempt. Raises UserError when a driver is, or may be, at work on it."""
    silent = silence(record.host, record.pid, record.updated_at, alive)
    if record.state in ("running", "trained") and silent is not None:
        doing = "running" if record.state == "running" else "being measured"
        raise UserError(
            f"training {record.run}: is {doing} (process {record.pid} on {record.host}, last heard of "
            f"{silent:.0f} s ago); let it finish, or stop it first"
        )
    return record.taken_over()
