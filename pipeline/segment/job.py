"""What a run is to do, and how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from masklake.model.decode import DecodeOptions
from masklake.pipeline.lake.run_record import RunRecord
from masklake.pipeline.segment.encode import Vocabulary
from masklake.pipeline.segment.infer import PredictorFactory
from masklake.pipeline.segment.manifest import ManifestTotals
from masklake.pipeline.storage.store import Storage


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to run. `record` is a new one, or that of the run to resume; its options decide the rows."""

    record: RunRecord
    storage: Storage
    predictor: PredictorFactory
    vocabulary: Vocabulary
    decode: DecodeOptions
    max_bytes: int
    limit: int | None = None
    every_object: bool = False
    redo_all: bool = False
    resume: bool = False


@dataclass
class Progress:
    """What the driver knows about a run at one moment, for `watch`."""

    totals: ManifestTotals = field(default_factory=ManifestTotals)
    skipped: int = 0
    """Images that earlier attempts of this run have committed."""
    snapshot: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    stopping: bool = False
    """After the first Ctrl-C: no new image is begun, and images already predicted are written."""


Watch = Callable[[Progress], None]
