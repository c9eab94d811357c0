"""The promotion gate: candidate and production on the same held-out images, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.registry import Registry, Version
from masklake.pipeline.storage.store import Storage, join

if TYPE_CHECKING:
    from masklake.jobs.cluster.cluster import Cluster
    from masklake.jobs.eval.truth import Target
    from masklake.jobs.models.resolve import Resolved
    from rich.console import Console


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Measures models on `target`; a class of it that one of them does not know counts as missed.

    Their rows go into a lake of its own, in the run's folder: what a candidate finds is no result of the lake.
    """

    target: Target
    rows: str
    storage: Storage
    weights_dir: str | None
    """The folder of the published weights, where production is the model `coco`."""

    def figures(self, model: Resolved, cluster: Cluster, console: Console) -> dict[str, Any]:
        """The stats of each kind; None where nothing is labelled."""
        from masklake.jobs.eval import rows as eval_rows
        from masklake.jobs.eval.measure import measure
        from masklake.pipeline.lake.lake import Lake

        self._detect(model, cluster, console)
        lake = Lake(self.rows, self.storage)
        detector = eval_rows.of_model(lake, model)
        images = eval_rows.newest_images(lake, detector.runs, self.target.images)
        comparison = measure(lake, self.target, detector, images, score=0.5, all_classes=True)
        return {kind: measured and measured.stats for kind, measured in comparison.kinds.items()}

    def _detect(self, model: Resolved, cluster: Cluster, console: Console) -> None:
        import pyarrow as pa
        from masklake.jobs.options.shared import StorageOptions
        from masklake.jobs.segment.command import execute, new_job
        from masklake.jobs.segment.options import SegmentOptions
        from masklake.pipeline.segment.planned import Planned
        from masklake.pipeline.storage import parquet

        source = join(self.rows, "images.parquet")
        self.storage.write(source, parquet.encode(pa.table({"uri": sorted(self.target.images)})))
        over_them = SegmentOptions(
            source=source,
            lake=self.rows,
            model=model.source.name,
            weights_dir=self.weights_dir if model.source.name == "coco" else None,
            storage=StorageOptions.from_storage(self.storage),
        )
        job, resolved = new_job(over_them)
        planned = Planned(job)
        if planned.first is None:
            return
        code = execute(over_them, job, planned, resolved, cluster, console)
        if code:
            raise UserError(
                f"{model.spec.name}@{model.fingerprint}: could not be run over the images of split {self.target.name}, as printed above"
            )


def metric_of(figures: dict[str, Any], metric: str) -> float:
    """The value of KIND.STAT. Raises UserError where it is not defined on this split."""
    kind, _, stat = metric.partition(".")
    value = (figures.get(kind) or {}).get(stat)
    if value is None:
        raise UserError(
            f"--metric {metric}: is not defined on split val, which has no {kind} labelled; choose another"
        )
    return float(value)


def default_metric(figures: dict[str, Any]) -> str:
    return "mask.AP" if figures.get("mask") else "box.AP"


def decide(
    metric: str, margin: float, candidate: dict[str, Any], production: dict[str, Any] | None
) -> dict[str, Any]:
    """Whether the candidate is to be promoted, with both numbers. Without a production model the candidate is promoted."""
    value = metric_of(candidate, metric)
    before = None if production is None else metric_of(production, metric)
    return {
        "metric": metric,
        "margin": margin,
        "candidate": value,
        "production": before,
        "promoted": before is None or value >= before + margin,
    }


def verdict(decision: dict[str, Any]) -> str:
    """What was decided, in a word or two."""
    return "promoted" if decision["promoted"] else "not promoted"


def described(decision: dict[str, Any]) -> str:
    """What was decided and why, in a line."""
    before = "there was none"
    if decision["production"] is not None:
        before = f"{decision['production_model']} has {decision['production']:.3f}"
    stays = "" if decision["promoted"] else ": production stays"
    return (
        f"{verdict(decision)}{stays}: {decision['metric']} {decision['candidate']:.3f}; {before}; "
        f"margin {decision['margin']:g}"
    )


def promote(registry: Registry, version: Version, alias: str, aliases: Any) -> None:
    """Move the alias, unless somebody has moved it since `aliases` was read: then it raises UserError."""
    if aliases.version(alias) != version.version:
        registry.promote(version, alias, aliases)
