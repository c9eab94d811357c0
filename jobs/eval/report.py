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
from masklake.pipeline.words import counted

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


def facts(lake: Lake, target: Target, detector: Detector, comparison: Comparison) -> dict[str, Any]:
    """Everything as plain values: what --format json prints and metrics.json keeps."""
    from masklake.pipeline.lake.record import now

    return {
        "evaluated": target.name,
        "lake": lake.uri,
        "model": detector.model,
        "runs": comparison.runs,
        "at": now(),
        "images": comparison.images,
        "instances": {"labelled": comparison.labelled, "detected": comparison.detected},
        "figures": {kind: measured and measured.stats for kind, measured in comparison.kinds.items()},
        "published": _published(target, detector),
        "classes": _classes(comparison),
        "unknown_classes": comparison.unknown,
        "confusion": {
            "score": comparison.score,
            "iou": 0.5,
            "classes": comparison.classes,
            "counts": comparison.confusion.tolist(),
        },
        "notes": comparison.notes,
    }


def _published(target: Target, detector: Detector) -> dict[str, float] | None:
    """The AP that is published for this model and this data, if it is."""
    from masklake.jobs.eval.truth import COCO_IMAGES
    from masklake.model import presets

    if detector.source != "coco" or target.name != f"coco-{COCO_IMAGES}":
        return None
    metrics = presets.describe("coco").metrics
    return {kind: metrics[name] / 100 for kind, name in _PUBLISHED.items()}


def _classes(comparison: Comparison) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {name: {"class": name, "labelled": 0} for name in comparison.classes}
    for kind, measured in comparison.kinds.items():
        for id_, figures in (measured.classes if measured else {}).items():
            row = rows.setdefault(
                comparison.names[kind][id_], {"class": comparison.names[kind][id_], "labelled": 0}
            )
            row["labelled"] = max(row["labelled"], figures.labelled)
            row[kind] = {"labelled": figures.labelled, **figures.stats}
    return list(rows.values())


def show(facts: dict[str, Any], format_: str) -> None:
    """Print `facts` to standard output as a table, csv or json."""
    if format_ == "json":
        from masklake.jobs.terminal.json import print_json

        print_json(facts)
    elif format_ == "csv":
        sys.stdout.write(_csv(facts))
    else:
        _print(facts)


def _csv(facts: dict[str, Any]) -> str:
    """A row for each kind, and for each kind and class; cells of undefined figures are empty."""
    from masklake.jobs.terminal.text import printable

    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["kind", "class", "labelled", *_ALL_STATS])
    for kind, stats in facts["figures"].items():
        if stats is None:
            continue
        by_class = [(row["class"], row[kind]) for row in facts["classes"] if kind in row]
        labelled = sum(figures["labelled"] for _, figures in by_class)
        for name, figures in [("", stats | {"labelled": labelled}), *by_class]:
            rows.writerow([kind, printable(name), figures["labelled"], *map(figures.get, _ALL_STATS)])
    return text.getvalue()


def _print(facts: dict[str, Any]) -> None:
    from masklake.jobs.terminal.tables import plain_console, ruled_table
    from masklake.jobs.terminal.text import one_line

    console = plain_console()
    console.print(one_line(_heading(facts)), soft_wrap=True)
    console.print()
    published = facts["published"]
    table = ruled_table(("",), _COLUMNS + (("published AP",) if published else ()))
    for kind, stats in facts["figures"].items():
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
    _print_classes(facts, console)
    absent = [kind for kind, stats in facts["figures"].items() if stats is None]
    notes = [f"{kind}: nothing is labelled, so nothing is measured" for kind in absent] + facts["notes"]
    for note in notes + [_ON_OWN_BOXES] * bool(published):
        console.print(one_line(f"note: {note}"), soft_wrap=True)


def _heading(facts: dict[str, Any]) -> str:
    images, instances = facts["images"], facts["instances"]
    text = (
        f"{facts['model']} on {facts['evaluated']}: {counted(images['evaluated'], 'images')}, "
        f"{counted(instances['labelled'], 'labelled instances', 'labelled instance')}, {counted(instances['detected'], 'detections')}"
    )
    if images["failed"]:
        text += f"; {counted(images['failed'], 'images')} failed, counted as without detections"
    if images["missing"]:
        text += f"; {images['missing']:,} labelled images have no row and were left out"
    return text


def _print_classes(facts: dict[str, Any], console: Console) -> None:
    from masklake.jobs.terminal.tables import ruled_table
    from masklake.jobs.terminal.text import elide, printable

    kinds = [kind for kind in KINDS if facts["figures"][kind]]
    headings = (f"{kind} {first}" if first == "AP" else first for kind in kinds for first in _CLASS_COLUMNS)
    table = ruled_table(("class",), ("labelled", *headings))
    for row in facts["classes"]:
        figures = (row.get(kind, {}).get(name) for kind in kinds for name in _CLASS_COLUMNS)
        table.add_row(elide(printable(row["class"]), 40), f"{row['labelled']:,}", *map(_figure, figures))
    console.print(table)
    console.print()


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def write(
    lake: Lake, facts: dict[str, Any], comparison: Comparison, options: EvalOptions, *, quiet: bool
) -> None:
    """Keep facts and pictures in the folder of the newest run that rows are from. Raises UserError if that fails."""
    from masklake.jobs.eval import pictures as eval_pictures
    from masklake.jobs.terminal.tables import plain_console
    from masklake.jobs.terminal.text import one_line
    from masklake.pipeline.storage.explain import explaining
    from masklake.pipeline.storage.store import join

    folder = join(lake.uri, "runs", comparison.runs[-1], "eval", facts["evaluated"])
    title = f"{facts['model']} on {facts['evaluated']}, {counted(comparison.images['evaluated'], 'images')}"
    files = {
        "precision-recall.png": eval_pictures.precision_recall(comparison.kinds, title),
        "confusion.png": eval_pictures.confusion(
            comparison.confusion, comparison.classes, comparison.score, title
        ),
        job_file.NAME: job_file.written(
            dataclasses.replace(options, lake=lake.uri),
            "eval",
            f"The options of the evaluation of {facts['at']}.",
        ),
        "metrics.json": json.dumps(facts, indent=1, ensure_ascii=False).encode("utf-8", "surrogatepass"),
    }
    for name, data in files.items():
        uri = join(folder, name)
        with explaining(uri, "write the evaluation"):
            lake.storage.write(uri, data)
    if not quiet:
        plain_console().print(one_line(f"written: {folder}/{{{','.join(sorted(files))}}}"), soft_wrap=True)
