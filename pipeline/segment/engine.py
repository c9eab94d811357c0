"""What a run's driver asks of the engine that carries packets from stage to stage.

There are two: Ray (`ray_engine`), and processes of this machine alone (`local_engine`). Both run the same `steps`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from masklake.pipeline.segment.ledger import CommitLedger
from masklake.pipeline.segment.steps import Plan


class DriverLedger(CommitLedger, Protocol):
    """The ledger as the driver calls it."""

    def stop(self) -> None:
        """From now on the run is `stopping`."""


class StageEngine(Protocol):
    """A started engine."""

    @property
    def ledger(self) -> DriverLedger: ...

    def stream(self, plan: Plan) -> None:
        """Work through the manifest to its end, or until the run is stopping. What a stage raises, it raises."""

    def snapshot(self) -> dict[str, Any] | None:
        """The ledger's figures; None where it does not answer."""

    def observe(self, snapshot: Mapping[str, Any], planned: int, before: Mapping[str, int]) -> None:
        """Export the figures. `before` counts, by status, the rows that earlier attempts have committed."""

    def trouble(self, snapshot: Mapping[str, Any]) -> Exception | None:
        """Why the run stands still and will not go on by itself, with the figures that it has; None where it may. Call it often."""

    def ended(self, state: str) -> None:
        """Export the end of the attempt."""

    def cause(self, failure: BaseException) -> BaseException | str:
        """What lies below an exception of `stream`."""


class StartEngine(Protocol):
    """Starts an engine for a run and its model (name@fingerprint)."""

    @property
    def name(self) -> str:
        """The engine as the run's record names it."""

    def __call__(self, run: str, model: str) -> StageEngine: ...
