"""The checkpoints of a training, `runs/<run>/checkpoints/step-<n>/`, as they lie in the lake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from masklake.pipeline.storage.explain import explaining
from masklake.pipeline.storage.store import Storage, join
from masklake.pipeline.train.record import TrainingRecord
from masklake.pipeline.train.worker import STATE

CHECKPOINTS = "checkpoints"


def last_step(record: TrainingRecord, storage: Storage) -> int:
    """The step of the newest complete checkpoint, from which the training would continue; 0 where there is none."""
    checkpoints = _whole_checkpoints(record, storage)
    return int(checkpoints[0][0].rpartition("-")[2]) if checkpoints else 0


def last_checkpoint(record: TrainingRecord, storage: Storage, into: Path) -> dict[str, Any] | None:
    """Copy the newest complete checkpoint into the local folder `into`. Returns its state, or None where there is none."""
    checkpoints = _whole_checkpoints(record, storage)
    if not checkpoints:
        return None
    folder, names = checkpoints[0]
    for name in names:
        (into / name).write_bytes(storage.read(join(folder, name)))
    state: dict[str, Any] = json.loads((into / STATE).read_text())
    return state


def clear(record: TrainingRecord, storage: Storage) -> None:
    """Remove what is needed only to resume the training: its checkpoints and the weights that it started from."""
    folder = join(record.lake, "runs", record.run)
    for name in (CHECKPOINTS, "start"):
        with explaining(join(folder, name), "clear it away"):
            for uri in storage.list(join(folder, name)):
                storage.delete(uri)


def _whole_checkpoints(record: TrainingRecord, storage: Storage) -> list[tuple[str, set[str]]]:
    """(folder, names of its files), newest first."""
    root = join(record.lake, "runs", record.run, CHECKPOINTS)
    files: dict[str, set[str]] = {}
    for uri in storage.list(root):
        folder, _, name = uri.rpartition("/")
        # Arrow marks a folder in S3 by an object without a name.
        if folder.startswith(f"{root}/step-") and name:
            files.setdefault(folder, set()).add(name)
    whole = {STATE, "optimizer.safetensors"}
    return [(folder, files[folder]) for folder in sorted(files, reverse=True) if whole <= files[folder]]
