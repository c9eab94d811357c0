"""Actors on the driver's own node."""

from __future__ import annotations

from typing import Any


def beside_driver(cls: type) -> Any:
    """An actor of `cls` on the driver's node, started again whenever it dies. Ray must be initialised.

    On this node it ends only with the driver. On another node that is lost, it would be away for half a minute and come
    back without its state.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(cls)
    return actor.options(scheduling_strategy=here).remote()
