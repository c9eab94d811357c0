"""A run's stages on the Ray that is initialised."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any

from masklake.pipeline.errors import UserError
from masklake.pipeline.segment.actor_ledger import ActorLedger
from masklake.pipeline.segment.ledger import Ledger
from masklake.pipeline.segment.metrics import RunMetrics
from masklake.pipeline.segment.stages import dataset
from masklake.pipeline.segment.steps import Plan
from masklake.pipeline.streams.driver_actor import beside_driver
from masklake.pipeline.streams.memory_kills import MemoryKills

_WRITE_S, _LOOK_AGAIN_S = 10.0, 0.05


class RayEngine:
    """Ray Data carries packets from stage to stage; predictors are actors; figures are exported as Ray's metrics."""

    name = "ray"

    def __init__(self, run: str, model: str) -> None:
        self.ledger = ActorLedger(beside_driver(Ledger))
        self._metrics = RunMetrics(run, model)
        self._memory_kills = MemoryKills()

    def stream(self, plan: Plan) -> None:
        """Work through the manifest to its end. Whatever ends it, no part is committed after that."""
        try:
            for _ in dataset(plan, self.ledger).iter_batches(batch_size=None, batch_format="pyarrow"):
                pass
        except BaseException:
            self._await_writes()  # Ray Data asks its tasks to end, and waits for none
            raise

    def _await_writes(self) -> None:
        """Let no write begin, and those that have begun end. That of a worker that has died never does."""
        import ray

        patience = time.monotonic() + _WRITE_S
        with contextlib.suppress(
            ray.exceptions.RayError
        ):  # Ray, or the ledger, is gone, and its tasks with it
            while self.ledger.close() and time.monotonic() < patience:
                time.sleep(_LOOK_AGAIN_S)

    def snapshot(self) -> dict[str, Any] | None:
        """The ledger's figures; None where it does not answer."""
        import ray

        with contextlib.suppress(ray.exceptions.RayError):  # Ray may be shutting down under a Ctrl-C
            return self.ledger.snapshot()
        return None

    def observe(self, snapshot: Mapping[str, Any], planned: int, before: Mapping[str, int]) -> None:
        """Export the figures. `before` counts, by status, the rows that earlier attempts have committed."""
        self._metrics.update(snapshot, planned, before)

    def trouble(self, snapshot: Mapping[str, Any]) -> Exception | None:
        """That Ray ends workers for want of memory, and no image is done."""
        return self._memory_kills.trouble(snapshot.get("stages"))

    def ended(self, state: str) -> None:
        """Export the end of the attempt."""
        self._metrics.ended(state)

    @staticmethod
    def cause(failure: BaseException) -> BaseException | str:
        """What a stage raised, which Ray wraps; or its text where Ray keeps no more."""
        import ray

        while isinstance(failure, ray.exceptions.RayTaskError) and failure.cause is not None:
            failure = failure.cause
        lines = [line.strip() for line in str(failure).splitlines() if line.strip()]
        if isinstance(failure, ray.exceptions.ActorDiedError) and lines:
            # An error of an actor's constructor is only in the last line of the text, below its traceback.
            raised, _, reason = lines[-1].partition(": ")
            return reason if raised.endswith(f".{UserError.__name__}") else lines[-1]
        return failure
