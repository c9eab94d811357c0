"""What `masklake eval` says and keeps: tables, CSV, JSON, and the files in the run's folder."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import sys
from typing import TYPE_CHECKING, Any

from masklake.jobs.options import job_file
from masklake.model.eval.coco_ap import AREA_STATS, KEYPOINT_STATS, KINDS

if TYPE_CHECKING:
    from masklake.jobs.eval.measure import Comparison
    from masklake.jobs.eval.options import EvalOptions
    from masklake.jobs.eval.rows import Detector
    from masklake.jobs.eval.truth import Target
    from masklake.pipeline.lake.lake import Lake
    from rich.console import Console

_COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "AR20")
_CLASS_COLUMNS = ("AP", "AP50", "AR")
_ALL_STATS = tuple(dict.fromkeys((*AREA_STATS, *KEYPOINT_STATS)))
_PUBLISHED = {"box": "box_ap", "mask": "mask_ap", "keypoints": "keypoint_ap"}
_ON_OWN_BOXES = (
    "published: torchvision's figures for these weights on the 5,000 images of val2017. Keypoints: there on the "
    "keypoint network's own boxes, here in the mask network's person boxes, so these two need not agree"
)


def facts(lake: Lake, target: Target, detector: Detector, found: Comparison) -> dict[str, Any]:
    """Everything as plain values: what --format json prints and metrics.json keeps."""
    from masklake.pipeline.lake.record import now

    return {
        "evaluated": target.name,
        "lake": lake.uri,
        "model": detector.model,
        "runs": found.runs,
        "at": now(),
        "images": found.images,
        "instances": {"labelled": found.labelled, "detected": found.detected},
        "figures": {kind: measured and measured.stats for kind, measured in found.kinds.items()},
        "published": _published(target, detector),
        "classes": _classes(found),
        "unknown_classes": found.unknown,
        "confusion": {
            "score": found.score,
            "iou": 0.5,
            "classes": found.classes,
            "counts": found.confusion.tolist(),
        },
        "notes": found.notes,
    }


def _published(target: Target, detector: Detector) -> dict[str, float] | None:
    """The AP that is published for this model and this data, if it is."""
    from masklake.jobs.eval.truth import COCO_IMAGES
    from masklake.model import presets

    if detector.source != "coco" or target.name != f"coco-{COCO_IMAGES}":
        return None
    metrics = presets.describe("coco").metrics
    return {kind: metrics[name] / 100 for kind, name in _PUBLISHED.items()}


def _classes(found: Comparison) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {name: {"class": name, "labelled": 0} for name in found.classes}
    for kind, measured in found.kinds.items():
        for id_, figures in (measured.classes if measured else {}).items():
            row = rows.setdefault(found.names[kind][id_], {"class": found.names[kind][id_], "labelled": 0})
            row["labelled"] = max(row["labelled"], figures.labelled)
            row[kind] = {"labelled": figures.labelled, **figures.stats}
    return list(rows.values())


def show(told: dict[str, Any], format_: str) -> None:
    """Print `facts` to standard output as a table, csv or json."""
    if format_ == "json":
        from masklake.jobs.terminal.json import print_json

        print_json(told)
    elif format_ == "csv":
        sys.stdout.write(_csv(told))
    else:
        _print(told)


def _csv(told: dict[str, Any]) -> str:
    """A row for each kind, and for each kind and class; what is undefined is empty."""
    from masklake.jobs.terminal.text import printable

    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["kind", "class", "labelled", *_ALL_STATS])
    for kind, stats in told["figures"].items():
        if stats is None:
            continue
        by_class = [(one["class"], one[kind]) for one in told["classes"] if kind in one]
        labelled = sum(figures["labelled"] for _, figures in by_class)
        for name, figures in [("", stats | {"labelled": labelled}), *by_class]:
            rows.writerow([kind, printable(name), figures["labelled"], *map(figures.get, _ALL_STATS)])
    return text.getvalue()


def _print(told: dict[str, Any]) -> None:
    from masklake.jobs.terminal.tables import plain_console, ruled_table
    from masklake.jobs.terminal.text import one_line

    console = plain_console()
    console.print(one_line(_heading(told)), soft_wrap=True)
    console.print()
    published = told["published"]
    table = ruled_table(("",), _COLUMNS + (("published AP",) if published else ()))
    for kind, stats in told["figures"].items():
        if stats is None:
            continue
        named = stats if kind != "keypoints" else {**stats, "AR20": stats["AR"]}
        table.add_row(
            kind,
            *(_figure(named.get(name)) for name in _COLUMNS),
            *([_figure(published[kind])] if published else []),
        )
    console.print(table)
    console.print()
    _print_classes(told, console)
    absent = [kind for kind, stats in told["figures"].items() if stats is None]
    notes = [f"{kind}: nothing is labelled, so nothing is measured" for kind in absent] + told["notes"]
    for note in notes + [_ON_OWN_BOXES] * bool(published):
        console.print(one_line(f"note: {note}"), soft_wrap=True)


def _heading(told: dict[str, Any]) -> str:
    images, instances = told["images"], told["instances"]
    text = (
        f"{told['model']} on {told['evaluated']}: {images['evaluated']:,} images, {instances['labelled']:,} labelled "
        f"instances, {instances['detected']:,} detections"
    )
    if images["failed"]:
        text += f"; {images['failed']:,} images failed and count as without detections"
    if images["missing"]:
        text += f"; {images['missing']:,} labelled images have no row and were left out"
    return text


def _print_classes(told: dict[str, Any], console: Console) -> None:
    from masklake.jobs.terminal.tables import ruled_table
    from masklake.jobs.terminal.text import elide, printable

    kinds = [kind for kind in KINDS if told["figures"][kind]]
    headings = (f"{kind} {first}" if first == "AP" else first for kind in kinds for first in _CLASS_COLUMNS)
    table = ruled_table(("class",), ("labelled", *headings))
    for one in told["classes"]:
        figures = (one.get(kind, {}).get(name) for kind in kinds for name in _CLASS_COLUMNS)
        table.add_row(elide(printable(one["class"]), 40), f"{one['labelled']:,}", *map(_figure, figures))
    console.print(table)
    console.print()


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def write(lake: Lake, told: dict[str, Any], found: Comparison, options: EvalOptions, *, quiet: bool) -> None:
    """Keep facts and pictures in the folder of the newest run that rows are from. Raises UserError if that fails."""
    from masklake.jobs.eval import pictures as eval_pictures
    from masklake.jobs.terminal.tables import plain_console
    from masklake.jobs.terminal.text import one_line
    from masklake.pipeline.storage.explain import explaining
    from masklake.pipeline.storage.store import join

    folder = join(lake.uri, "runs", found.runs[-1], "eval", told["evaluated"])
    title = f"{told['model']} on {told['evaluated']}, {found.images['evaluated']:,} images"
    files = {
        "precision-recall.png": eval_pictures.precision_recall(found.kinds, title),
        "confusion.png": eval_pictures.confusion(found.confusion, found.classes, found.score, title),
        job_file.NAME: job_file.written(
            dataclasses.replace(options, lake=lake.uri),
            "eval",
            f"The options of the evaluation of {told['at']}.",
        ),
        "metrics.json": json.dumps(told, indent=1, ensure_ascii=False).encode("utf-8", "surrogatepass"),
    }
    for name, data in files.items():
        uri = join(folder, name)
        with explaining(uri, "write the evaluation"):
            lake.storage.write(uri, data)
    if not quiet:
        plain_console().print(one_line(f"written: {folder}/{{{','.join(sorted(files))}}}"), soft_wrap=True)
