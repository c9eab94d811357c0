"""How Ray Data carries packets: a packet is a block, nothing is printed, nothing is kept of what is done."""

from __future__ import annotations

import os
import warnings
from typing import Any

_AUTOSCALER = "RAY_DATA_CLUSTER_AUTOSCALER"


def packet_context() -> Any:
    """Ray's `DataContext` of this process, set for packets. Call it where Ray is initialised."""
    # Ray warns when a source has fewer packets than the smallest number of actors, which is no mistake.
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")
    from ray.data import DataContext

    context = DataContext.get_current()
    context.target_max_block_size = 1
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    context.custom_execution_callback_classes = [_forgetting_blocks()]
    _count_whole_nodes()
    return context


def _forgetting_blocks() -> Any:
    """Ray keeps statistics of each block until the dataset ends, 2 to 3 KB a packet of ours (its issue 66016): a driver of 100 million
    images would grow by 20 GB. Nobody reads them here."""
    from ray.data._internal.execution.execution_callback import ExecutionCallback

    class ForgetBlocks(ExecutionCallback):
        def on_execution_step(self, executor: Any) -> None:
            for operator in executor._topology:
                getattr(operator, "_output_blocks_stats", []).clear()

    return ForgetBlocks


def _count_whole_nodes() -> None:
    """Let Ray Data use all CPUs of nodes that are fixed in number, unless the user has chosen otherwise.

    Its default asks for what its operators need, and of the rest of a node it counts only whole CPUs. On two CPUs that left 1.57, and
    none for the last operator: rows waited until the source had ended before any was written. Where nodes can be added, the
    default's modesty saves nodes.
    """
    from ray.data._internal.cluster_autoscaler.util import is_autoscaling_enabled

    if not is_autoscaling_enabled():
        os.environ.setdefault(_AUTOSCALER, "V2")
