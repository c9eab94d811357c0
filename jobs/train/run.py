"""A training on the Ray that is running, and what follows: the result is stored, measured, and perhaps promoted."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masklake.jobs.cluster.waiting import telling
from masklake.jobs.models import resolve as models
from masklake.jobs.terminal.text import say
from masklake.jobs.train import progress as train_progress
from masklake.jobs.train import promotion
from masklake.jobs.train import start as train_start
from masklake.jobs.train.options import TrainOptions
from masklake.pipeline.lake.record import now
from masklake.pipeline.lake.registry import Registry, Version
from masklake.pipeline.lake.run_record import RunFolder
from masklake.pipeline.storage.files import at_home
from masklake.pipeline.storage.store import Storage, join
from masklake.pipeline.train import checkpoints
from masklake.pipeline.train import record as training_record
from masklake.pipeline.train.batches import Batches
from masklake.pipeline.train.driver import EVENTS, Crew, Training
from masklake.pipeline.train.record import TrainingRecord
from masklake.pipeline.train.shuffle import BatchOrder
from masklake.pipeline.train.worker import Work
from masklake.pipeline.words import counted

if TYPE_CHECKING:
    from masklake.jobs.cluster.cluster import Cluster
    from masklake.jobs.eval.truth import Target
    from masklake.pipeline.lake.lake import Lake
    from masklake.pipeline.train.dataset import TrainingSet
    from rich.console import Console

_STATS = ("AP", "AP50")


def train(
    options: TrainOptions,
    record: TrainingRecord,
    labels: TrainingSet,
    cluster: Cluster,
    storage: Storage,
    console: Console,
) -> TrainingRecord:
    """Train to the end: the record, whose state says how it ended."""
    import ray
    from masklake.model import presets
    from masklake.model.train.recipe import Recipe

    recipe = Recipe.from_dict(record.options["recipe"])
    source = _start_of(record, storage)
    spec = presets.describe(source.local())
    workers = options.workers or (max(1, cluster.gpus),) * 2
    crew, shares = _crew(cluster, workers, options.max_failures)
    truth = ray.put(labels)

    def work(board: Any) -> Work:
        return Work(
            network=train_start.NetworkFactory(source=source, frozen=tuple(record.options["frozen"])),
            batches=Batches(
                order=BatchOrder(len(labels), recipe.batch, recipe.seed, labels.wide),
                recipe=recipe,
                preprocessing=spec.preprocessing,
                outputs={info.name: output for output, info in enumerate(spec.classes, start=1)},
                keypoint_names=spec.keypoint_names,
                mirror=spec.mirror,
                storage=storage,
            ),
            truth=truth,
            board=board,
            steps=record.options["steps"],
            minutes=record.options["minutes"],
            save_minutes=options.checkpoint_minutes,
            events=join(record.lake, "runs", record.run, EVENTS),
            storage=storage,
            **shares,
        )

    needed = {"CPU": workers[0] * crew.worker_cpus, "GPU": float(workers[0] if crew.gpus else 0)}
    with train_progress.shown(console, record.options["steps"], record.options["minutes"]) as watch:
        watching = telling(watch, lambda report: "step" in report, "the training", needed, console)
        return Training(record, work, crew, storage, watching, lambda: labels.require_current(storage)).run()


def _start_of(record: TrainingRecord, storage: Storage) -> models.ModelSource:
    return models.ModelSource(name=join(record.lake, "runs", record.run, "start"), storage=storage)


def _crew(cluster: Cluster, workers: tuple[int, int], max_failures: int) -> tuple[Crew, dict[str, Any]]:
    """The training workers, and the CPUs of each one's loaders and torch: together they fit the cluster."""
    each = cluster.cpus / workers[1]
    own = 1.0 if each >= 2 else 0.5 * each
    loader = 1.0 if each >= 4 else round(0.1 * each, 2)
    crew = Crew(workers=workers, worker_cpus=own, gpus=cluster.gpus > 0, max_failures=max_failures)
    return crew, {
        "threads": None if cluster.gpus else max(1, int(each)),
        "loader_cpus": loader,
        "loaders": max(1, int(each - own)),
    }


def conclude(
    options: TrainOptions,
    record: TrainingRecord,
    lake: Lake,
    labels: TrainingSet,
    target: Target | None,
    cluster: Cluster,
    storage: Storage,
    console: Console,
) -> TrainingRecord:
    """Keep the result in the lake with its figures; promote it if --promote is given and it is better."""
    folder = join(record.lake, "runs", record.run, "result")
    module, spec = _result(record, storage)
    train_start.put(module, spec, folder, storage, half=record.options["half"])
    candidate = models.resolve(folder, storage)
    registry, alias = Registry(record.lake, storage), options.alias
    aliases = registry.aliases(record.options["name"])
    figures: dict[str, Any] = {}
    decision = None
    if target is not None:
        before = _production(registry, record.options["name"], alias, storage) if options.promote else None
        # A class that either knows counts for both: a candidate that has lost a class gets worse figures.
        known = {c.name for model in (candidate, before) if model is not None for c in model.spec.classes}
        judge = promotion.Judge(
            target=target.of_classes(known),
            rows=join(record.lake, "runs", record.run, "val"),
            storage=storage,
            weights_dir=options.weights_dir,
        )
        say(console, f"measuring on {counted(len(target.images), 'images')} of split val")
        figures = judge.figures(candidate, cluster, console)
        if options.promote:
            standing = None if before is None else judge.figures(before, cluster, console)
            metric = options.metric or promotion.default_metric(figures)
            decision = promotion.decide(metric, options.margin, figures, standing) | {
                "production_model": before and f"{before.spec.name}@{before.fingerprint}"
            }
    measured_on = f"split val of the labels as of {record.data['as_of']}"
    metrics = {"data": measured_on, "images": len(target.images), **figures} if target else {}
    measured = replace(spec, metrics=metrics)
    # The stored weights once more, with their figures beside them: metrics are no part of the fingerprint.
    train_start.put(module, measured, folder, storage, half=record.options["half"])
    version = _add(registry, candidate, folder, storage)
    if options.out:
        train_start.put(
            module,
            measured,
            str(at_home(options.out).absolute()),
            storage,
            half=record.options["half"],
        )
    for file in ("model.json", "model.safetensors"):
        storage.delete(join(folder, file))
    if decision is not None and decision["promoted"]:
        RunFolder(record.lake, record.run, storage).require_newest(record.attempt)
        promotion.promote(registry, version, alias, aliases)
    record = replace(
        record,
        state="complete",
        model=str(version),
        figures=figures,
        decision=decision,
        updated_at=now(),
        finished_at=now(),
    )
    training_record.save(record, storage)
    checkpoints.clear(record, storage)  # only now: the record says that nobody will resume from them
    _report(record, console)
    return record


def _result(record: TrainingRecord, storage: Storage) -> tuple[Any, Any]:
    """The trained network, in evaluation mode, and its spec."""
    from masklake.model import presets
    from masklake.model.train.learner import AVERAGE, NETWORK
    from masklake.model.train.start import trained_part
    from safetensors.torch import load_file

    loaded = presets.load_model(_start_of(record, storage).local())
    with tempfile.TemporaryDirectory() as folder:
        checkpoints.last_checkpoint(record, storage, Path(folder))
        file = Path(folder) / AVERAGE
        tensors = load_file(file if file.is_file() else Path(folder) / NETWORK)
        trained_part(loaded.module).load_state_dict(tensors)
    spec = replace(
        loaded.spec,
        lineage={
            "command": " ".join(record.command),
            "run": record.run,
            "from": record.start["from"],
            "data": record.data,
            "recipe": record.options["recipe"],
            **record.position,
            "finished": now(),
            "versions": record.versions,
        },
        metrics={},
    )
    return loaded.module.eval(), spec


def _production(registry: Registry, name: str, alias: str, storage: Storage) -> models.Resolved | None:
    if registry.aliases(name).version(alias) is None:
        return None
    return models.resolve(f"{name}:{alias}", storage, lake=registry.lake)


def _add(registry: Registry, candidate: models.Resolved, folder: str, storage: Storage) -> Version:
    from masklake.model.checkpoint import SPEC, WEIGHTS

    name, version = candidate.spec.name, candidate.fingerprint
    registry.add(name, version, {file: storage.read(join(folder, file)) for file in (WEIGHTS, SPEC)})
    return Version(name=name, version=version, uri=join(registry.lake, "models", name, version))


def _report(record: TrainingRecord, console: Console) -> None:
    from masklake.jobs.terminal.tables import ruled_table

    if record.figures:
        table = ruled_table(("",), _STATS)
        for kind, stats in record.figures.items():
            if stats:
                table.add_row(kind, *(f"{stats[name]:.3f}" for name in _STATS))
        console.print(table)
    position = record.position
    say(
        console,
        f"trained: {record.model} after {counted(position['step'], 'steps')}, {counted(position['images'], 'images')}, {position['seconds'] / 60:.1f} minutes",
    )
    if record.decision is None:
        say(console, f"masklake models promote {record.lake} {record.model}    # makes it production")
    else:
        say(console, promotion.described(record.decision))
