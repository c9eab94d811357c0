"""The ledger as an actor of Ray, for the stages and for the driver."""

from __future__ import annotations

from typing import Any

from masklake.pipeline.segment.ledger import CommitLedger


class ActorLedger(CommitLedger):
    """The ledger, which is an actor. Picklable."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def report(self, stage: str, figures: dict[str, float]) -> None:
        self._actor.report.remote(stage, figures)

    def committed(self, counts: dict[str, int], instances: int) -> None:
        self._actor.committed.remote(counts, instances)

    def begin(self, stage: str, ids: tuple[int, ...]) -> int:
        return int(self._answer(self._actor.begin.remote(stage, ids)))

    def end(self, stage: str, ids: tuple[int, ...]) -> None:
        self._actor.end.remote(stage, ids)

    def begin_write(self, part: int) -> bool:
        return bool(self._answer(self._actor.begin_write.remote(part)))

    def end_write(self, part: int) -> None:
        self._actor.end_write.remote(part)

    def close(self) -> int:
        """See `Ledger.close`. Raises ray.exceptions.RayError where the actor does not answer in 5 s."""
        return int(self._answer(self._actor.close.remote(), timeout=5))

    def stop(self) -> None:
        """See `Ledger.stop`."""
        self._actor.stop.remote()

    def stopping(self) -> bool:
        return bool(self._answer(self._actor.stopping.remote()))

    def add_inferred(self, load: int) -> None:
        """See `Ledger.add_inferred`."""
        self._actor.add_inferred.remote(load)

    def pace(self, handed_out: int) -> tuple[int, bool]:
        """See `Ledger.pace`."""
        inferred, stopping = self._answer(self._actor.pace.remote(handed_out))
        return inferred, stopping

    def snapshot(self) -> dict[str, Any]:
        """See `Ledger.snapshot`. Raises ray.exceptions.RayError where the actor does not answer in 5 s."""
        figures: dict[str, Any] = self._answer(self._actor.snapshot.remote(), timeout=5)
        return figures

    @staticmethod
    def _answer(reference: Any, timeout: float | None = None) -> Any:
        import ray

        return ray.get(reference, timeout=timeout)
