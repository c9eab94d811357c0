"""A run's stages in the process and the thread of its driver: for tests that stop a run at a step, or run many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from masklake.pipeline.segment.ledger import Ledger
from masklake.pipeline.segment.manifest import Manifest
from masklake.pipeline.segment.source import packets
from masklake.pipeline.segment.steps import Commits, Inference, Plan, Steps


class InlineEngine:
    """The same steps as the other engines, one after another."""

    name = "inline"

    def __init__(self, run: str, model: str) -> None:
        self.ledger = Ledger()

    def stream(self, plan: Plan) -> None:
        """Work through the manifest to its end."""
        steps, commit = Steps(plan, self.ledger), Commits(plan, self.ledger)
        infer = Inference(steps)
        manifest = Manifest(plan.folder.manifest_uri, plan.folder.storage)
        waiting: list[pa.Table] = []
        for packet in packets(
            manifest, plan.folder, plan.attempt, plan.resources.packet_images, self.ledger.stopping
        ):
            waiting += [steps.encode(infer(rows)) for rows in steps.decode(steps.fetch(packet))]
            if sum(map(len, waiting)) >= plan.resources.commit_images:
                commit(pa.concat_tables(waiting))
                waiting = []
        if waiting:
            commit(pa.concat_tables(waiting))

    def snapshot(self) -> dict[str, Any]:
        """The ledger's figures."""
        return self.ledger.snapshot()

    def observe(self, snapshot: Mapping[str, Any], planned: int, before: Mapping[str, int]) -> None:
        """Nothing is exported."""

    def trouble(self, snapshot: Mapping[str, Any]) -> None:
        """There is none."""

    def ended(self, state: str) -> None:
        """Nothing is exported."""

    @staticmethod
    def cause(failure: BaseException) -> BaseException | str:
        """The exception itself."""
        return failure
