"""`masklake segment`: every image of a source becomes rows in a lake."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from typing import TYPE_CHECKING

from masklake.jobs.cluster.cluster import Cluster, ray_cluster
from masklake.jobs.cluster.machine import machine
from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.lock import under_lock
from masklake.jobs.models import resolve as models
from masklake.jobs.options import job_file
from masklake.jobs.options.command import Command
from masklake.jobs.options.parser import resuming, typed
from masklake.jobs.segment import calibration
from masklake.jobs.segment.dry_run import dry_run
from masklake.jobs.segment.engine import local_resources
from masklake.jobs.segment.options import RowOptions, SegmentOptions
from masklake.jobs.terminal import log_lines
from masklake.jobs.terminal.suggestions import did_you_mean
from masklake.jobs.terminal.text import say
from masklake.pipeline.errors import UserError
from masklake.pipeline.segment.lists import LIST_SUFFIXES, URI_COLUMNS
from masklake.pipeline.storage.explain import explaining
from masklake.pipeline.storage.store import Storage, join, normalise, normalise_folder
from masklake.pipeline.words import counted

if TYPE_CHECKING:
    from masklake.pipeline.lake.run_record import RunRecord
    from masklake.pipeline.segment.job import Job, Progress
    from masklake.pipeline.segment.planned import Planned
    from masklake.pipeline.segment.resources import Resources
    from rich.console import Console

SUMMARY = "run a model over a bucket of images and write masks, boxes and keypoints to a lake"
DESCRIPTION = (
    """\
Run a model over every image of SOURCE and write one row per image, and one per detected instance, to LAKE.

SOURCE is a folder or prefix (s3://bucket/photos/, a directory, any URI that fsspec opens), one image, a
glob (s3://bucket/2026-*/*.jpg), a list of URIs, or the manifest.json of an S3 inventory. Lists are .txt (a
URI a line) or .csv / .parquet with a column named """
    + ", ".join(URI_COLUMNS)
    + """;
the columns etag and size_bytes are used if a list has them. LAKE is a folder or prefix; it is made if needed.

An object counts as an image by its suffix, or if it has none; --every-object takes all. Images that finished
runs with the same model and options have covered are skipped, unless they have changed; --all does them again."""
)
EPILOG = """\
examples:
  masklake segment s3://photos/2026/ s3://lake/
  masklake segment photos/ lake/ --model demo --limit 100
  masklake segment s3://photos/ s3://lake/ --classes person,dog --score 0.5 --dry-run
  masklake segment s3://aerial/ s3://lake/ --tile 1024 --overlap 256
  masklake segment s3://photos/ s3://lake/ --resume last
  masklake segment s3://photos/ s3://lake/ --model production    # an alias of `masklake models`, or NAME@VERSION

exit codes: 0 complete · 1 failed · 2 a mistake that the message names · 3 incomplete: resume · 75 refused by --lock ·
130 stopped (Ctrl-C, SIGTERM): what is in the lake stays valid, and --resume goes on from there"""

SIZES = ("batch_size", "commit_images")
EXIT_CODES = {
    "complete": ExitCode.DONE,
    "failed": ExitCode.FAILED,
    "incomplete": ExitCode.INCOMPLETE,
    "stopped": ExitCode.STOPPED,
}
"""By the state in which a run ends."""


def run(options: SegmentOptions) -> int:
    """Segment a source. Raises UserError or ModelError for a mistake; the exit code otherwise."""
    from masklake.jobs.terminal.manners import progress_console

    lock = None if options.dry_run else options.lock
    return under_lock(
        options.lake, lock, options.storage.open(), lambda: segment(options, progress_console())
    )


COMMAND = Command(
    summary=SUMMARY,
    description=DESCRIPTION,
    epilog=EPILOG,
    options=SegmentOptions,
    run=run,
    from_file=True,
)


def segment(options: SegmentOptions, console: Console) -> ExitCode:
    """`run` on a console of the caller's, and under no lock."""
    from masklake.pipeline.lake.lake import Lake
    from masklake.pipeline.segment.planned import Planned

    source = normalise(options.source)
    _refuse_nesting(source, normalise_folder(options.lake))
    if (
        not source.lower().endswith((*LIST_SUFFIXES, ".json"))
        and Lake(source, options.storage.open()).looks_like_one()
    ):
        raise UserError(f"{source}: is a lake, not a folder of images; SOURCE comes first, then LAKE")
    job, model = resumed_job(options) if options.resume else new_job(options)
    planned = Planned(job)
    if options.dry_run:
        return dry_run(planned, job, model, console)
    if planned.first is None and not planned.totals.complete:
        console.print(
            f"nothing to do: finished runs with this model cover all {counted(planned.totals.covered, 'images')} "
            f"(--all redoes them)", highlight=False, soft_wrap=True, markup=False,
        )  # fmt: skip
        return ExitCode.DONE
    _check_weights(model)
    Lake(job.record.lake, job.storage).require_writable()
    if not options.resume:
        _leave_options(options, job)
    here = machine(options.cluster.gpus)
    if resources := local_resources(options, planned, here, _task_sizes(options, job)):
        return execute(options, job, planned, model, here, console, resources)
    with ray_cluster(options.cluster.address, options.cluster.gpus) as cluster:
        return execute(options, job, planned, model, cluster, console)


def _leave_options(options: SegmentOptions, job: Job) -> None:
    """Write what the run uses beside its record, as a file that --config reads."""
    uri = join(job.record.lake, "runs", job.record.run, job_file.NAME)
    used = dataclasses.replace(
        options,
        source=job.record.source,  # complete, so that the file can be read from any folder
        lake=job.record.lake,
        model=job.record.model["source"],  # an alias is replaced by the model that it named
        first_model=None,
    )
    text = job_file.written(used, "segment", f"The options of run {job.record.run}.")
    with explaining(uri, "write the run's options"):
        job.storage.write(uri, text)


def _refuse_nesting(source: str, lake: str) -> None:
    folder = source.rstrip("/") + "/"
    if (lake + "/").startswith(folder):
        raise UserError(
            f"{lake}: the lake lies inside the source {source}, and would be read as images; put it elsewhere"
        )
    if folder.startswith(lake + "/") and folder[len(lake) + 1 :].split("/")[0] in (
        "images",
        "instances",
        "runs",
        "labels",
        "models",
    ):
        raise UserError(f"{source}: the source lies inside the lake {lake}; copy the images elsewhere")


def new_job(options: SegmentOptions) -> tuple[Job, models.Resolved]:
    """A new run, and its model. Raises UserError or ModelError for what cannot be run."""
    from masklake.pipeline.lake.record import new_run_id
    from masklake.pipeline.lake.run_record import RunRecord

    lake, storage = normalise_folder(options.lake), options.storage.open()
    model = _model(options, options.model or "coco")
    rows = options.rows.record()
    if options.rows.precision == "int8":
        rows[calibration.KEY] = calibration.require(options, lake, model)
    record = RunRecord(
        run=new_run_id(),
        lake=lake,
        source=normalise(options.source),
        command=typed(),
        options=rows,
        selection={
            "limit": options.limit,
            "every_object": options.every_object,
            "redo_all": options.redo_all,
        },
        model=model.record(),
        sizes=_sizes(options),
        versions=versions(),
    )
    return _job(record, model, storage, resume=False), model


def resumed_job(options: SegmentOptions) -> tuple[Job, models.Resolved]:
    """The run that --resume names, and its model. Raises UserError when other options contradict it."""
    from masklake.pipeline.lake.lake import Lake
    from masklake.pipeline.lake.process import process_alive
    from masklake.pipeline.lake.run_record import RunFolder, resumed

    lake, storage = normalise_folder(options.lake), options.storage.open()
    record = RunFolder(lake, Lake(lake, storage).resolve(options.resume or "last"), storage).load()
    resumed(record, process_alive)  # says at once when there is nothing to resume
    kept = record.all_options | {"source": record.source}
    for name, value in {"source": normalise(options.source), **options.rows.explicit_values()}.items():
        if kept[name] != (list(value) if isinstance(value, tuple) else value):
            raise UserError(
                f"run {record.run}: was started with {name} {kept[name]!r}, not {value!r}; resume it without that, or start a new run"
            )
    model = _model(options, options.model or record.model["source"])
    if model.fingerprint != record.model["fingerprint"]:
        raise UserError(
            f"run {record.run}: was started with model {record.model['name']}@{record.model['fingerprint']}, "
            f"which is not this {model.spec.name}@{model.fingerprint}; give --model the first, or start a new run"
        )
    record = dataclasses.replace(record, sizes=record.sizes | _sizes(options))
    return _job(record, model, storage, resume=True), model


def _sizes(options: SegmentOptions) -> dict[str, int]:
    """The sizes that were given; the run's record keeps them."""
    return {name: size for name in SIZES if (size := getattr(options, name)) is not None}


def _task_sizes(options: SegmentOptions, job: Job) -> dict[str, int]:
    """The sizes of the stages' tasks, where they are given now or were when the run began."""
    sizes = job.record.sizes | _sizes(options)
    names = {"batch_size": "packet_images", "commit_images": "commit_images"}
    return {names[name]: size for name, size in sizes.items() if name in names}


def _model(options: SegmentOptions, name: str) -> models.Resolved:
    return models.resolve(
        name,
        options.storage.open(),
        options.weights_dir,
        lake=normalise_folder(options.lake),
        first=options.first_model,
    )


def _job(record: RunRecord, model: models.Resolved, storage: Storage, *, resume: bool) -> Job:
    from masklake.pipeline.segment.job import Job

    rows = RowOptions.of_record(record.all_options)
    known = [c.name for c in model.spec.classes]
    if unknown := sorted(set(rows.classes or ()) - set(known)):
        raise UserError(
            f"--classes {','.join(unknown)}: {model.spec.name} knows no such class; it knows {', '.join(known)}"
            f"{did_you_mean(unknown[0], known)}"
        )
    return Job(
        record=record,
        storage=storage,
        predictor=_factory(record, model, None, storage),
        vocabulary=model.vocabulary(),
        decode=rows.decoding(model.spec.preprocessing),
        max_bytes=rows.max_bytes,
        resume=resume,
        **record.selection,
    )


def _factory(
    record: RunRecord, model: models.Resolved, threads: int | None, storage: Storage
) -> models.PredictorFactory:
    rows = RowOptions.of_record(record.all_options)
    return rows.predictor(model, threads, calibration.of_record(record, storage, model))


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that results depend on."""
    packages = ("masklake", "ray", "torch", "torchvision", "pyarrow")
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in packages
    }


def _check_weights(model: models.Resolved) -> None:
    """Load a model that does not ship with Masklake once before anything is written: this finds wrong shapes
    and NaN in time, and downloads published weights once instead of in every worker."""
    if model.source.name != "demo":
        from masklake.model import presets

        presets.load_model(model.source.local(), weights_dir=model.source.weights_dir)


def _predicts(progress: Progress) -> bool:
    """Whether a predictor has started to work."""
    return bool(progress.snapshot.get("stages", {}).get("infer", {}).get("workers"))


def execute(
    options: SegmentOptions,
    job: Job,
    planned: Planned,
    model: models.Resolved,
    cluster: Cluster,
    console: Console,
    local: Resources | None = None,
) -> ExitCode:
    """Run a planned job on the Ray that is running, or in `local` workers of this machine; the exit code."""
    from masklake.jobs.cluster.waiting import telling
    from masklake.jobs.segment.progress import shown
    from masklake.jobs.segment.summary import summarise
    from masklake.pipeline.segment.local_engine import LocalEngine
    from masklake.pipeline.segment.ray_engine import RayEngine
    from masklake.pipeline.segment.resources import Resources
    from masklake.pipeline.segment.run import run as run_job

    resources = local or Resources.fitted(
        cluster.cpus,
        cluster.gpus,
        memory=cluster.memory,
        node_cpus=cluster.node_cpus,
        actors=options.actors,
        image_seconds=options.image_seconds,
        **_task_sizes(options, job),
    )
    if job.record.options["precision"] == "int8" and cluster.gpus:
        raise UserError(
            "--precision int8: is for CPUs, and there are GPUs here; give --gpus 0, or another precision"
        )
    if not cluster.gpus:
        threads = max(1, cluster.cpus // resources.actors[1])
        job = dataclasses.replace(job, predictor=_factory(job.record, model, threads, job.storage))
    say(
        console,
        log_lines.first_line(
            job.record.run,
            f"{model.spec.name}@{model.fingerprint} over {job.record.source} into {job.record.lake}",
        ),
    )
    needed = {"CPU": resources.infer_cpus, "GPU": resources.infer_gpus}
    with shown(console) as watch:
        watching = watch if local else telling(watch, _predicts, "a predictor", needed, console)
        engine = LocalEngine if local else RayEngine
        record, progress = run_job(job, planned, resources, watching, engine)
    again = ["segment", *resuming(options, "--resume", record.run)]
    summarise(record, progress, log_lines.go_on(again), console)
    return EXIT_CODES[record.state]
