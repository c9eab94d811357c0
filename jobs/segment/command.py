"""`masklake segment`: every image of a source becomes rows in a lake."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import shlex
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from masklake.jobs.cluster.cluster import Cluster, ray_cluster
from masklake.jobs.lock import exclusively
from masklake.jobs.models import resolve as models
from masklake.jobs.options import said_before, storage_from
from masklake.jobs.segment.options import DEFAULTS, tiling
from masklake.jobs.segment.options import (
    add_arguments as add_arguments,  # part of what a command module offers
)
from masklake.pipeline.errors import UserError
from masklake.pipeline.segment.lists import LIST_SUFFIXES, URI_COLUMNS
from masklake.pipeline.storage.store import Storage, normalise, normalise_folder

if TYPE_CHECKING:
    from masklake.pipeline.lake.run_record import RunRecord
    from masklake.pipeline.segment.run import Job, Planned, Progress
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
columns etag and size_bytes are used where they are there. LAKE is a folder or prefix; it is made if needed.

Objects count as images by their suffix (or when they have none); --every-object takes all. What finished
runs with the same model and options have covered is skipped, unless it has changed; --all redoes it."""
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
_EXIT_CODES = {"complete": 0, "failed": 1, "incomplete": 3, "stopped": 130}


def run(args: argparse.Namespace) -> int:
    """Segment a source. Raises UserError or ModelError for a mistake; the exit code otherwise."""
    from rich.console import Console

    return exclusively(args, lambda: segment(args, Console(stderr=False)))


def segment(args: argparse.Namespace, console: Console) -> int:
    """`run` on a console of the caller's."""
    from masklake.pipeline.lake.lake import Lake
    from masklake.pipeline.segment.run import Planned

    storage = storage_from(args)
    source, lake = normalise(args.source), normalise_folder(args.lake)
    _refuse_nesting(source, lake)
    if not source.lower().endswith((*LIST_SUFFIXES, ".json")) and Lake(source, storage).looks_like_one():
        raise UserError(f"{source}: is a lake, not a folder of images; SOURCE comes first, then LAKE")
    job, model = (
        _resumed(args, source, lake, storage) if args.resume else new_job(args, source, lake, storage)
    )
    planned = Planned(job)
    if args.dry_run:
        return _dry_run(planned, job, model, console)
    if planned.first is None and not planned.totals.complete:
        console.print(
            f"nothing to do: finished runs with this model cover all {planned.totals.covered:,} images "
            f"(--all redoes them)", highlight=False, soft_wrap=True, markup=False,
        )  # fmt: skip
        return 0
    _check_weights(model)
    Lake(lake, storage).require_writable()
    with ray_cluster(args.address, args.gpus) as cluster:
        return execute(args, job, planned, model, cluster, console)


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


def new_job(
    args: argparse.Namespace, source: str, lake: str, storage: Storage
) -> tuple[Job, models.Resolved]:
    from masklake.pipeline.lake.record import new_run_id
    from masklake.pipeline.lake.run_record import RunRecord

    model = models.resolve(args.model or "coco", storage, args.weights_dir, lake=lake, first=args.first_model)
    options = {
        name: default if (value := getattr(args, name)) is None else value
        for name, default in DEFAULTS.items()
    }
    options["classes"] = list(options["classes"]) if options["classes"] else None
    options["full_decode"] |= options["precision"] == "exact"  # a fraction of a JPEG is another image
    record = RunRecord(
        run=new_run_id(),
        lake=lake,
        source=source,
        command=["masklake", *sys.argv[1:]],
        options=options,
        selection={"limit": args.limit, "every_object": args.every_object, "redo_all": args.all},
        model=model.record(),
        sizes={name: size for name in SIZES if (size := getattr(args, name)) is not None},
        versions=versions(),
    )
    return _job(args, record, model, storage), model


def _resumed(
    args: argparse.Namespace, source: str, lake: str, storage: Storage
) -> tuple[Job, models.Resolved]:
    from masklake.pipeline.lake.lake import Lake
    from masklake.pipeline.lake.process import process_alive
    from masklake.pipeline.lake.run_record import RunFolder, resumed

    record = RunFolder(lake, Lake(lake, storage).resolve(args.resume), storage).load()
    resumed(record, process_alive)  # says at once when there is nothing to resume
    asked = {"source": source} | {
        name: value for name in DEFAULTS if (value := getattr(args, name)) is not None
    }
    kept = record.all_options | {"source": record.source}
    for name, value in asked.items():
        if kept[name] != (list(value) if isinstance(value, tuple) else value):
            raise UserError(
                f"run {record.run}: was started with {name} {kept[name]!r}, not {value!r}; resume it without that, or start a new run"
            )
    model = models.resolve(
        args.model or record.model["source"], storage, args.weights_dir, lake=lake, first=args.first_model
    )
    if model.fingerprint != record.model["fingerprint"]:
        raise UserError(
            f"run {record.run}: was started with model {record.model['name']}@{record.model['fingerprint']}, "
            f"which is not this {model.spec.name}@{model.fingerprint}; give --model the first, or start a new run"
        )
    sizes = record.sizes | {name: size for name in SIZES if (size := getattr(args, name)) is not None}
    return _job(args, replace(record, sizes=sizes), model, storage), model


def _job(args: argparse.Namespace, record: RunRecord, model: models.Resolved, storage: Storage) -> Job:
    from masklake.model.decode import DecodeOptions
    from masklake.pipeline.segment.run import Job

    options = record.all_options
    known = [c.name for c in model.spec.classes]
    if unknown := sorted(set(options["classes"] or ()) - set(known)):
        raise UserError(
            f"--classes {','.join(unknown)}: {model.spec.name} knows no such class; it knows {', '.join(known)}"
        )
    preprocessing = model.spec.preprocessing
    return Job(
        record=record,
        storage=storage,
        predictor=_factory(record, model, threads=None),
        vocabulary=model.vocabulary(),
        decode=DecodeOptions(
            max_pixels=options["max_pixels"],
            target=None if options["full_decode"] else (preprocessing.min_size, preprocessing.max_size),
            tiling=tiling(options),
        ),
        max_bytes=options["max_bytes"],
        resume=bool(args.resume),
        **record.selection,
    )


def _factory(record: RunRecord, model: models.Resolved, threads: int | None) -> models.PredictorFactory:
    options = record.all_options
    return models.PredictorFactory(
        source=model.source,
        fingerprint=model.fingerprint,
        score_threshold=options["score"],
        max_detections=options["max_detections"],
        classes=tuple(options["classes"]) if options["classes"] else None,
        precision=options["precision"],
        threads=threads,
        tiling=tiling(options),
    )


def versions() -> dict[str, str]:
    """Of Python and the packages that decide results."""
    packages = ("masklake", "ray", "torch", "torchvision", "pyarrow")
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in packages
    }


def _dry_run(planned: Planned, job: Job, model: models.Resolved, console: Console) -> int:
    images = size = 0
    for info in planned.objects():
        images += 1
        size += info.size or 0
    left = " more" if job.resume else ""
    console.print(
        f"would run {model.spec.name}@{model.fingerprint} over {images:,}{left} images, {size:,} bytes",
        highlight=False,
        soft_wrap=True,
    )
    if planned.totals.covered:
        console.print(
            f"would skip {planned.totals.covered:,} that finished runs cover (--all redoes them)",
            highlight=False,
            soft_wrap=True,
        )
    if planned.listing.ignored:
        console.print(
            f"would ignore {planned.listing.ignored:,} objects that do not look like images (--every-object takes them)",
            highlight=False,
            soft_wrap=True,
        )
    for reason, lines in planned.listing.left_out.items():
        console.print(f"would leave out {lines:,} {reason}", highlight=False, soft_wrap=True, markup=False)
    console.print("nothing was written", highlight=False, soft_wrap=True)
    return 0


def _check_weights(model: models.Resolved) -> None:
    """Load a model that does not ship with Masklake once before anything is written: only so do wrong shapes
    and NaN show, and published weights are downloaded once and not by every worker."""
    if model.source.name != "demo":
        from masklake.model import presets

        presets.load_model(model.source.local(), weights_dir=model.source.weights_dir)


def _predicts(progress: Progress) -> bool:
    """Whether a predictor has begun."""
    return bool(progress.snapshot.get("stages", {}).get("infer", {}).get("workers"))


def execute(
    args: argparse.Namespace,
    job: Job,
    planned: Planned,
    model: models.Resolved,
    cluster: Cluster,
    console: Console,
) -> int:
    """Run a planned job on the Ray that is there: the exit code."""
    from masklake.jobs.cluster.waiting import telling
    from masklake.jobs.segment.progress import shown
    from masklake.jobs.segment.summary import summarise
    from masklake.pipeline.segment.resources import Resources
    from masklake.pipeline.segment.run import run as run_job

    resources = Resources.fitted(
        cluster.cpus,
        cluster.gpus,
        memory=cluster.memory,
        node_cpus=cluster.node_cpus,
        actors=args.actors,
        packet_images=args.batch_size or job.record.sizes.get("batch_size"),
        commit_images=args.commit_images or job.record.sizes.get("commit_images"),
    )
    if not cluster.gpus:
        threads = max(1, cluster.cpus // resources.actors[1])
        job = replace(job, predictor=_factory(job.record, model, threads))
    console.print(
        f"run {job.record.run}: {model.spec.name}@{model.fingerprint} over {job.record.source} into {job.record.lake}",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )
    needed = {"CPU": resources.infer_cpus, "GPU": resources.infer_gpus}
    with shown(console) as watch:
        watching = telling(watch, _predicts, "a predictor", needed, console)
        record, progress = run_job(job, planned, resources, watching)
    again = ["masklake", "segment", args.source, args.lake, "--resume", record.run, *said_before(args)]
    summarise(record, progress, shlex.join(again), console)
    return _EXIT_CODES[record.state]
