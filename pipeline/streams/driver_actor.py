"""Actors on the driver's own node."""

from __future__ import annotations

from typing import Any


def beside_driver(cls: type) -> Any:
    """An actor of `cls`, started again as often as it dies. Ray must be initialised.

    Where it is, it goes only with the driver: on another node that goes, it would be away for half a minute, and then have
    forgotten everything.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(cls)
    return actor.options(scheduling_strategy=here).remote()
