"""Workers that Ray ends because their node's memory is full: it starts them again without end, and no user sees why nothing is done."""

from __future__ import annotations

import time
from typing import Any, cast

from masklake.pipeline.errors import OutageError

PATIENCE_S = 120.0
_LOOK_S = 10.0
_FEW = 3


class MemoryKills:
    """Tells whether a job of the Ray that is initialised stands still over them."""

    def __init__(self) -> None:
        self._progress: Any = None
        self._moved = self._looked = time.monotonic()

    def trouble(self, progress: Any) -> OutageError | None:
        """The error of a job whose `progress` has not changed for two minutes, in which Ray has ended workers for their nodes' memory.

        Call it often. `progress` is of any type that can be compared.
        """
        moment = time.monotonic()
        if progress != self._progress:
            self._progress, self._moved = progress, moment
        if moment - self._moved < PATIENCE_S or moment - self._looked < _LOOK_S:
            return None
        self._looked = moment
        killed = _killed_since(time.time() - PATIENCE_S)
        if killed < _FEW:
            return None
        return OutageError(
            f"memory: Ray has ended {killed} workers in {PATIENCE_S:.0f} s because their node's memory is full, and nothing was done "
            "meanwhile; end other programs there, or ask for fewer actors or workers, and resume"
        )


def _killed_since(moment: float) -> int:
    """How many workers Ray has ended since then (seconds since 1970) for want of memory on their node."""
    from ray._private.state import state
    from ray.core.generated import common_pb2, gcs_pb2

    common, gcs = cast("Any", common_pb2), cast("Any", gcs_pb2)  # generated code, without types
    workers = map(gcs.WorkerTableData.FromString, state._connect_and_get_accessor().get_worker_table())
    return sum(
        worker.exit_type == common.WorkerExitType.NODE_OUT_OF_MEMORY and worker.end_time_ms > 1000 * moment
        for worker in workers
    )
