"""Says what a run waits for while the cluster has no room for its first predictor: Ray itself would wait in silence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.progress import duration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from pipeline.run import Progress, Watch
    from pipeline.stages import Resources

_TOLD_AFTER_S = (20.0, 60.0, 300.0, 900.0, 3600.0)


def telling(watch: Watch, resources: Resources, console: Console) -> Watch:
    """`watch`, that also says on `console`, ever more rarely, that no predictor has begun, and what is free."""
    ahead = list(_TOLD_AFTER_S)

    def told(progress: Progress) -> None:
        watch(progress)
        if not ahead or progress.seconds < ahead[0]:
            return
        del ahead[0]
        if progress.snapshot.get("stages", {}).get("infer", {}).get("workers"):
            ahead.clear()
            return
        line = lacking(resources, *_resources(), progress.seconds)
        if line is not None:
            console.print(line, highlight=False, markup=False, soft_wrap=True)

    return told


def _resources() -> tuple[Mapping[str, float], Mapping[str, float]]:
    import ray

    return ray.available_resources(), ray.cluster_resources()


def lacking(
    resources: Resources, free: Mapping[str, float], there: Mapping[str, float], seconds: float
) -> str | None:
    """What a predictor needs and the cluster does not have free, as a line; None where it has."""
    needed = {"CPU": resources.infer_cpus, "GPU": resources.infer_gpus}
    short = [name for name, n in needed.items() if n > free.get(name, 0.0) + 1e-6]
    if not short:
        return None
    wants = " and ".join(f"{n:g} {name}" for name, n in needed.items() if n)
    has = ", ".join(f"{free.get(name, 0.0):g} of {there.get(name, 0.0):g} {name}s are free" for name in short)
    return (
        f"waiting for the cluster ({duration(seconds)}): a predictor takes {wants}, and {has}; other jobs have them, or "
        "nodes are still to come (`masklake jobs`, `ray status`)"
    )
