"""From labels and rows to figures: which images and classes are compared, and what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from masklake.jobs.terminal.text import printable
from masklake.pipeline.errors import UserError
from masklake.pipeline.schema import Status
from masklake.pipeline.words import counted

if TYPE_CHECKING:
    import numpy as np
    from masklake.jobs.eval.rows import Detector, ImageRow
    from masklake.jobs.eval.truth import Target, Truth
    from masklake.model.eval.coco_ap import Measured
    from masklake.pipeline.lake.lake import Lake
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The figures of one evaluation. `kinds` has box, mask and keypoints; None where nothing is labelled."""

    kinds: dict[str, Measured | None]
    names: dict[str, dict[int, str]]
    """Class names by category id, for each kind."""
    classes: list[str]
    """The classes that are measured, in the order of the confusion counts."""
    unknown: list[str]
    """Classes of the labels that the model does not know."""
    confusion: NDArray[np.int64]
    """(C + 1, C + 1); see model.confusion."""
    score: float
    images: dict[str, int]
    """How many images are labelled, evaluated, failed (these are counted as evaluated too), missing, of_other_size."""
    runs: list[str]
    """The runs that the rows come from, oldest first."""
    labelled: int
    """How many instances are labelled, crowds included."""
    detected: int
    notes: list[str]


def measure(
    lake: Lake,
    target: Target,
    detector: Detector,
    images: Mapping[str, ImageRow],
    *,
    score: float,
    all_classes: bool,
) -> Comparison:
    """Compare the rows of `images` with the target.

    Raises UserError where AP is undefined: no class in common, no object outside crowds, no image of the same size.
    """
    from masklake.jobs.eval import rows as eval_rows
    from masklake.model.eval.coco_ap import KINDS, evaluate, sigmas_of
    from masklake.model.eval.confusion import confusion

    other_size = [uri for uri in target.images if uri in images and not _agree(target, uri, images[uri])]
    compared = {uri: images[uri] for uri in target.images if uri in images and uri not in set(other_size)}
    if not compared:
        raise UserError(_size_note(target, other_size, images) + "; import labels of the images as they are")
    known = set(detector.classes)
    unknown = [name for name in target.classes if name not in known]
    classes = target.classes if all_classes else [name for name in target.classes if name in known]
    if target.classes and not classes:
        raise UserError(
            f"{detector.model}: knows none of the labelled classes ({_listed(unknown)}), it knows {_listed(detector.classes)}; "
            "rename the labels' classes, or give --all-classes"
        )
    rows = eval_rows.instances(lake, compared)
    ids = {target.images[uri] for uri in compared}
    kinds: dict[str, Measured | None] = dict.fromkeys(KINDS)
    names: dict[str, dict[int, str]] = {}
    narrowed = [truth.only(ids, classes) for truth in target.truths]
    for truth in narrowed:
        results = eval_rows.as_results(rows, target.images, truth.ids, truth.keypoints)
        sigmas = sigmas_of(truth.keypoints) if truth.keypoints else None
        kinds |= evaluate(truth.content, results, sigmas=sigmas, kinds=truth.kinds)
        names |= dict.fromkeys(truth.kinds, truth.names)
    if not any(kinds.values()):
        raise UserError(_undefined(target, narrowed[0], len(compared)))
    boxes = narrowed[0]
    order = [name for name in classes if name in boxes.ids]
    results = eval_rows.as_results(rows, target.images, boxes.ids, ())
    return Comparison(
        kinds=kinds,
        names=names,
        classes=order,
        unknown=unknown,
        confusion=confusion(boxes.content, results, [boxes.ids[name] for name in order], score=score),
        score=score,
        images={
            "labelled": len(target.images),
            "evaluated": len(compared),
            "failed": sum(row.status != Status.OK for row in compared.values()),
            "missing": len(target.images.keys() - images.keys()),
            "of_other_size": len(other_size),
        },
        runs=sorted({row.run for row in compared.values()}),
        labelled=len(boxes.content["annotations"]),
        detected=len(rows),
        notes=[
            *detector.notes,
            *_notes(unknown, all_classes, len(rows) - len(results), narrowed),
            *([_size_note(target, other_size, images) + ": left out"] if other_size else []),
        ],
    )


def _agree(target: Target, uri: str, row: ImageRow) -> bool:
    labelled_size = target.sizes[uri]
    return labelled_size is None or None in row.size or labelled_size == row.size


def _size_note(target: Target, uris: list[str], images: Mapping[str, ImageRow]) -> str:
    uri = uris[0]
    (width, height), seen = target.sizes[uri] or (0, 0), images[uri].size
    return (
        f"{counted(len(uris), 'images')} had another size when they were labelled, the first {printable(uri)} "
        f"{width}×{height} and not {seen[0]}×{seen[1]}"
    )


def _undefined(target: Target, boxes: Truth, images: int) -> str:
    annotations = boxes.content["annotations"]
    labelled = f"only crowds ({len(annotations):,})" if annotations else "no instance"
    return (
        f"the labels ({target.name}) have {labelled} in {counted(images, 'images')}, so there is no AP to speak of; "
        "label single objects, or evaluate another split"
    )


def _notes(unknown: list[str], all_classes: bool, unnamed: int, truths: list[Truth]) -> list[str]:
    from masklake.model.coco import KEYPOINT_NAMES

    notes = []
    if unknown:
        how = "counted as missed" if all_classes else "left out of the mean (--all-classes counts them)"
        notes.append(f"classes that the model does not know, {how}: {_listed(unknown)}")
    if unnamed:
        notes.append(f"left out: {counted(unnamed, 'detections')} of classes that no label names")
    other = sorted({name for truth in truths for name in truth.keypoints} - set(KEYPOINT_NAMES))
    if other:
        notes.append(f"keypoints that COCO does not have, with a tolerance of 0.05: {_listed(other)}")
    return notes


def _listed(names: Any) -> str:
    names = list(names)
    return ", ".join(map(printable, names[:20])) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
