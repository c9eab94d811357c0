"""`masklake train`: learn from the lake's labels on Ray Train, measure the result, promote it when it is better."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.options import job_file
from masklake.jobs.options.command import Command
from masklake.jobs.options.parser import resuming, shown, typed
from masklake.jobs.terminal import log_lines
from masklake.jobs.terminal.suggestions import did_you_mean
from masklake.jobs.terminal.text import say
from masklake.jobs.train.options import DEFAULT_EPOCHS, LearningOptions, TrainOptions
from masklake.pipeline.errors import UserError
from masklake.pipeline.words import counted

if TYPE_CHECKING:
    from masklake.jobs.eval.truth import Target
    from masklake.model.train.recipe import Recipe
    from masklake.pipeline.lake.lake import Lake
    from masklake.pipeline.storage.store import Storage
    from masklake.pipeline.train.dataset import TrainingSet
    from masklake.pipeline.train.record import TrainingRecord
    from rich.console import Console

SUMMARY = "train a model on the lake's labels, measure it, promote it when it is better"
DESCRIPTION = """\
Train a Mask R-CNN on the labels of split train, with Ray Train, and keep it in the lake. Boxes, masks and keypoints
are learnt together; an image without keypoint labels has no keypoint loss, one without masks no mask loss. Images are
read where they lie. The result is measured on split val, which no training sees.

With --promote it becomes the model's production version, if it is better on val than the one that is by --margin;
else that stays. Both figures are in LAKE/runs/RUN/train.json. Without --promote nothing changes but that the lake
has one more version (`masklake models list LAKE`).

It starts from a model (--model, or production), or from a new network on --backbone. The classes are those of the
labels; what the model knows of them already is kept, in the heads too.

Killed at any moment it goes on from its last checkpoint with --resume: with the same batches in the same order.
A killed worker is started again by itself. The loss is on TensorBoard: LAKE/runs/RUN/tensorboard."""
EPILOG = """\
examples:
  masklake train s3://lake --model coco --promote            # the published weights, trained further
  masklake train s3://lake --promote                         # every night: production, trained further
  masklake train lake/ --backbone mobilenet_v2 --backbone-weights mobilenet.pth --minutes 60 --classes person
  masklake train s3://lake --address auto --workers 2:8      # with as many workers as there is room for
  masklake train lake/ --resume last

exit codes: 0 trained (the line says whether it was promoted) · 1 failed, or the loss was not a number: the last
checkpoint stays · 2 a mistake that the message names · 75 refused by --lock · 130 stopped (Ctrl-C, SIGTERM): --resume goes on from there"""

EXIT_CODES = {
    "trained": ExitCode.DONE,
    "complete": ExitCode.DONE,
    "failed": ExitCode.FAILED,
    "diverged": ExitCode.FAILED,
    "stopped": ExitCode.STOPPED,
}
"""By the state in which a training ends."""
_SMALL_INPUT = 400


def run(options: TrainOptions) -> int:
    """Train. Raises UserError or ModelError for a mistake; the exit code otherwise."""
    from masklake.jobs.lock import under_lock

    return under_lock(options.lake, options.lock, options.storage.open(), lambda: _run(options))


COMMAND = Command(
    summary=SUMMARY,
    description=DESCRIPTION,
    epilog=EPILOG,
    options=TrainOptions,
    run=run,
    from_file=True,
)


def _run(options: TrainOptions) -> ExitCode:
    from masklake.jobs.cluster.cluster import ray_cluster
    from masklake.jobs.terminal.manners import progress_console
    from masklake.jobs.train import run as train_run
    from masklake.pipeline.lake.lake import Lake
    from masklake.pipeline.train import dataset as training_set

    storage, console = options.storage.open(), progress_console()
    lake = Lake(options.lake, storage)
    lake.require()
    lake.require_writable()
    record = _resumed(options, lake.uri, storage) if options.resume else None
    as_of, classes, shuffled = _selection(options, record)
    try:
        labels = training_set.gather(lake, classes=classes, as_of=as_of, shuffled=shuffled)
    except training_set.UnknownClassesError as error:
        raise UserError(f"{error}{did_you_mean(error.unknown[0], error.known)}") from error
    target = _held_out(lake, options, labels)
    if record is None:
        record = _new(options, lake.uri, storage, labels)
    elif record.state != "trained":
        _require_same(record, training_set.as_record(labels))
    say(console, _heading(record, labels, target, storage))
    if not record.options.get("mirrored", True):
        say(
            console,
            "note: images are not mirrored: the keypoints' names do not tell which change places in a mirror; --flip-pairs "
            f"says it (`masklake labels stats {lake.uri}` shows the names)",
        )
    with ray_cluster(options.cluster.address, options.cluster.gpus) as cluster:
        record = train_run.train(options, record, labels, cluster, storage, console)
        if record.state == "trained":
            record = train_run.conclude(options, record, lake, labels, target, cluster, storage, console)
    _closing(record, options, console)
    return EXIT_CODES[record.state]


def _require_same(record: TrainingRecord, data: dict[str, Any]) -> None:
    """Raises UserError where the labels that the training began with are not all there: its steps would be others from here on."""
    for what in ("images", "instances"):
        if data[what] != record.data[what]:
            raise UserError(
                f"training {record.run}: began with labels of {record.data[what]:,} {what}, of which the lake has {data[what]:,} now "
                "(masklake forget?); start a new one"
            )


def _selection(options: TrainOptions, record: TrainingRecord | None) -> tuple[Any, Any, int | None]:
    """Which labels: as of which time (None: now), of which classes, shuffled by which seed (None: not)."""
    import datetime

    if record is None:
        return (
            None,
            options.learning.classes,
            (options.learning.seed or 1) if options.shuffle_labels else None,
        )
    kept = record.options
    return (
        datetime.datetime.fromisoformat(record.data["as_of"]),
        kept["classes"],
        kept["recipe"]["seed"] if kept["shuffled"] else None,
    )


def _held_out(lake: Lake, options: TrainOptions, labels: TrainingSet) -> Target | None:
    """The labels that the result is measured on; None where there are none. Raises UserError where --promote wants some."""
    from masklake.jobs.eval import truth as eval_truth

    try:
        target = eval_truth.of_labels(lake, "val")
    except UserError:
        if options.promote:
            raise
        return None
    if target.of_classes(labels.counts).classes:
        return target
    if options.promote:
        raise UserError(
            f"{lake.uri}: the labels of split val hold none of the classes that are learnt, so nothing can be measured; "
            "label some, or leave out --promote"
        )
    return None


def _new(options: TrainOptions, lake: str, storage: Storage, labels: TrainingSet) -> TrainingRecord:
    """The record of a new training, whose start is in the run's folder."""
    from masklake.jobs.segment.command import versions
    from masklake.jobs.train import start as train_start
    from masklake.pipeline.lake.record import new_run_id
    from masklake.pipeline.lake.registry import check_name
    from masklake.pipeline.storage.explain import explaining
    from masklake.pipeline.storage.store import join
    from masklake.pipeline.train.record import TrainingRecord
    from masklake.pipeline.train.shuffle import BatchOrder

    origin = train_start.origin(options, lake, storage)
    learning = options.learning
    name = learning.name or origin.name
    check_name(name, "model")
    _require_alias(options, lake, storage, name)
    size = (
        None
        if learning.min_size is None
        else (learning.min_size, learning.max_size or -(-learning.min_size * 5 // 3))
    )
    start = train_start.build(origin, labels, name, size, learning.seed or 1, learning.flip_pairs)
    recipe = _recipe(learning, origin, start.spec.preprocessing.min_size)
    order = BatchOrder(len(labels), recipe.batch, recipe.seed, labels.wide)
    epochs = learning.epochs if learning.epochs or learning.steps or learning.minutes else DEFAULT_EPOCHS
    steps = learning.steps or (max(1, round(epochs * order.steps_per_epoch)) if epochs else None)
    run = new_run_id()
    folder = join(lake, "runs", run)
    train_start.keep(start, join(folder, "start"), storage)
    with explaining(folder, "write the training's options"):
        used = dataclasses.replace(
            options,
            lake=lake,
            model=None if origin.model is None else origin.model.source.name,
            learning=_used(learning, recipe, name, epochs),
        )
        storage.write(
            join(folder, job_file.NAME), job_file.written(used, "train", f"The options of training {run}.")
        )
    from masklake.pipeline.train.dataset import as_record

    return TrainingRecord(
        run=run,
        lake=lake,
        command=typed(),
        options={
            "name": name,
            "recipe": recipe.to_dict(),
            "steps": steps,
            "minutes": learning.minutes,
            "classes": list(learning.classes) if learning.classes else None,
            "shuffled": options.shuffle_labels,
            "frozen": list(start.frozen),
            "flip_pairs": learning.flip_pairs,
            "mirrored": start.spec.mirror is not None,
            "half": options.half,
        },
        start={
            "from": origin.describe(),
            "family": start.spec.architecture["family"],
            "backbone": start.spec.architecture.get("detector", start.spec.architecture)["backbone"],
            "fresh": list(start.fresh),
            "notes": list(start.notes),
        },
        data=as_record(labels),
        versions=versions(),
    )


def _used(learning: LearningOptions, recipe: Recipe, name: str, epochs: float | None) -> LearningOptions:
    """`learning` with what was decided where nothing was said."""
    return dataclasses.replace(
        learning,
        name=name,
        epochs=epochs,
        batch_size=recipe.batch,
        learning_rate=recipe.learning_rate,
        schedule=recipe.schedule,
        warm_up=recipe.warm_up,
        average=recipe.average,
        precision=recipe.precision,
        jitter=recipe.jitter,
        colour=recipe.colour,
        seed=recipe.seed,
    )


def _recipe(learning: LearningOptions, origin: Any, min_size: int) -> Recipe:
    from masklake.model.train.recipe import Recipe

    tiny = origin.backbone == "tiny"
    rate = 1e-4 if origin.model is not None else 2e-3 if tiny else 5e-4
    values: dict[str, Any] = {
        "batch": learning.batch_size or (8 if min_size <= _SMALL_INPUT else 4),
        "learning_rate": learning.learning_rate or rate,
        "schedule": learning.schedule,
        "warm_up": learning.warm_up,
        "average": learning.average,
        "precision": learning.precision,
        "jitter": learning.jitter,
        "colour": learning.colour,
        "seed": learning.seed,
    }
    few: dict[str, Any] = {"proposals": 300, "anchors": 128, "rois": 64} if tiny else {}
    return Recipe(**{k: v for k, v in values.items() if v is not None}, **few)


def _resumed(options: TrainOptions, lake: str, storage: Storage) -> TrainingRecord:
    """The record to resume. Raises UserError when it is complete, another driver works on it, or options contradict it."""
    from masklake.pipeline.lake.process import process_alive
    from masklake.pipeline.train import record as training_record

    record = training_record.load(lake, options.resume or "last", storage)
    if record.state == "complete":
        raise UserError(
            f"training {record.run}: is complete ({record.model}); start a new one with --model {record.model}"
        )
    kept = {
        **record.options["recipe"],
        **{name: record.options.get(name) for name in ("steps", "minutes", "classes", "flip_pairs")},
    }
    for field, value in options.learning.explicit_values().items():
        if kept.get("batch" if field == "batch_size" else field) != (
            list(value) if isinstance(value, tuple) else value
        ):
            raise UserError(
                f"training {record.run}: was started with other options than --{field.replace('_', '-')} {shown(value)}; "
                "resume it without that, or start a new one"
            )
    _require_alias(options, lake, storage, record.options["name"])
    return training_record.next_attempt(record, process_alive)


def _require_alias(options: TrainOptions, lake: str, storage: Storage, name: str) -> None:
    """Raises UserError where the result, a version of `name`, could not be promoted: hours of training sooner."""
    from masklake.jobs.models.resolve import require_alias
    from masklake.pipeline.lake.registry import Registry

    if not options.promote:
        return
    try:
        require_alias(Registry(lake, storage), name, options.alias)
    except UserError as error:
        raise UserError(f"{error}; --name says of which model the result is a version") from error


def _heading(record: TrainingRecord, labels: TrainingSet, target: Target | None, storage: Storage) -> str:
    from masklake.pipeline.train.checkpoints import last_step

    data = record.data
    keypoints = f", keypoints of {', '.join(sorted(labels.with_keypoints))}" if labels.keypoint_names else ""
    fresh = f"; new: {', '.join(record.start['fresh'])}" if record.start["fresh"] else ""
    notes = "".join(f"; {note}" for note in record.start.get("notes", []))
    held = (
        f"{counted(len(target.images), 'images')} held out"
        if target
        else "none held out, so nothing will be measured"
    )
    gone_on = (
        f", attempt {record.attempt} from step {last_step(record, storage):,}" if record.attempt > 1 else ""
    )
    return log_lines.first_line(
        record.run,
        f"training {record.start['family']} ({record.start['backbone']}) from {record.start['from']}"
        f"{fresh} on {counted(data['images'], 'images')}, {counted(data['instances'], 'instances')} of {counted(len(data['classes']), 'classes')}{keypoints}; {held}{notes}",
        attempt=gone_on,
    )


def _closing(record: TrainingRecord, options: TrainOptions, console: Console) -> None:
    for uri, reason in list(record.skipped.items())[:5]:
        say(console, f"note: {uri} was left out: {reason}")
    if len(record.skipped) > 5:
        say(console, f"note: {len(record.skipped) - 5:,} more images were left out; train.json lists them")
    if record.state in ("trained", "complete"):
        return
    if record.error:
        say(console, f"{record.state}: {record.error}")
    again = ["train", *resuming(options, "--resume", record.run)]
    step = record.position.get("step", 0)
    advice = "a lower --learning-rate may help" if record.state == "diverged" else log_lines.go_on(again)
    say(console, f"{record.state} at step {step:,}: the last checkpoint is kept; {advice}")
