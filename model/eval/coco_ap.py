"""COCO average precision and recall of boxes, masks and keypoints, computed by pycocotools. Free of torch."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from masklake.model.coco import KEYPOINT_NAMES
from masklake.model.eval.federated import searched
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

# The key of a kind in what is returned: its name in COCOeval, its field in annotations and results.
KINDS = {
    "box": ("bbox", "bbox"),
    "mask": ("segm", "segmentation"),
    "keypoints": ("keypoints", "keypoints"),
}

AREA_STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""Of boxes and masks, in COCOeval's order. s, m, l: areas below 32², to 96² and above, in pixels; AR1 and AR10
are with at most 1 and 10 detections an image and class, all others with 100."""

KEYPOINT_STATS = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
"""With object keypoint similarity for IoU, and at most 20 detections an image."""

CLASS_STATS = ("AP", "AP50", "AP75", "AR")

OTHER_SIGMA = 0.05
"""The tolerance of a keypoint that COCO does not have; COCO's own go from 0.025 (eyes) to 0.107 (hips)."""


_IGNORED = "masklake_ignored"


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """One class. `stats` has CLASS_STATS, from 0 to 1; `labelled` counts its annotations outside crowds."""

    stats: dict[str, float]
    labelled: int


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What COCOeval finds for one kind.

    stats: AREA_STATS or KEYPOINT_STATS from 0 to 1; None where there is no annotation of such an area.
    classes: by category id, those with an annotation of this kind outside crowds: the mean is over them.
    recall: (101,), 0 to 1; precision: (10, classes, 101) at these recalls and IoU 0.50:0.05:0.95, in the order of
        `classes`, area "all", most detections.
    """

    stats: dict[str, float | None]
    classes: dict[int, ClassFigures]
    recall: NDArray[np.float64]
    precision: NDArray[np.float64]


def sigmas_of(keypoint_names: Sequence[str]) -> NDArray[np.float64]:
    """(K,) float64 tolerance of each keypoint by its name: COCO's where COCO has that keypoint, else OTHER_SIGMA."""
    sigmas = dict(zip(KEYPOINT_NAMES, Params("keypoints").kpt_oks_sigmas.tolist(), strict=True))
    return np.array([sigmas.get(name, OTHER_SIGMA) for name in keypoint_names])


def coco_ap(
    truth: dict[str, Any], results: Sequence[dict[str, Any]], *, sigmas: Sequence[float] | None = None
) -> dict[str, dict[str, float] | None]:
    """{"box": {"AP": …, "AP50": …, "AP75": …}, "mask": …, "keypoints": …} of `evaluate`, each from 0 to 1."""
    by_kind = evaluate(truth, results, sigmas=sigmas)
    names = ("AP", "AP50", "AP75")
    return {
        kind: None if measured is None else {name: measured.stats[name] or 0.0 for name in names}
        for kind, measured in by_kind.items()
    }


def evaluate(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    *,
    sigmas: Sequence[float] | NDArray[np.float64] | None = None,
    kinds: Collection[str] = tuple(KINDS),
) -> dict[str, Measured | None]:
    """Every figure of `pycocotools.cocoeval.COCOeval`, for each of `kinds`.

    AP is the mean over IoU (for keypoints, OKS) 0.50:0.05:0.95, AP50 and AP75 are those at 0.50 and 0.75.

    truth: a COCO dataset (images, annotations, categories); it is not changed. Its annotations' ids are not used, so
        that id 0, by which COCOeval takes what is matched for missed, is as good as any. An annotation with `ignore`
        neither counts nor costs, which COCOeval documents and does not do. LVIS' `neg_category_ids` and
        `not_exhaustive_category_ids` of images are heeded (`model.eval.federated`).
    results: COCO results: image_id, category_id, score and any of bbox (x, y, w, h pixels of the original
        frame), segmentation (RLE) and keypoints (x, y and a third number for each keypoint).
    sigmas: the tolerance of each keypoint, by default those of COCO's 17.

    A kind is None where AP is undefined: the truth has no annotation of that kind outside crowds (for
    keypoints: none with a labelled keypoint). Where the truth has some and the results have none, AP is 0. An
    annotation without a mask, of a class that has some, is for masks like a crowd: a detection in its box counts
    neither as right nor as wrong.

    Raises ValueError for results of images that the truth does not have, and where annotations have another
    number of keypoints than `sigmas`.
    """
    image_ids = {image["id"] for image in truth["images"]}
    strangers = sorted({result["image_id"] for result in results} - image_ids, key=str)
    if strangers:
        raise ValueError(
            f"results of image {strangers[0]!r}, which the truth does not have; "
            "evaluate on the images that were predicted"
        )
    tolerances = Params("keypoints").kpt_oks_sigmas if sigmas is None else np.asarray(sigmas, np.float64)
    truth, results = searched(truth, results)
    # Copies, because COCOeval writes into annotations.
    annotations = [
        {"iscrowd": 0, **annotation, "id": i, _IGNORED: bool(annotation.get("ignore"))}
        for i, annotation in enumerate(truth["annotations"], start=1)
    ]
    if "keypoints" in kinds:
        _complete_keypoints(annotations, len(tolerances))
    with contextlib.redirect_stdout(io.StringIO()):
        return {kind: _measure(kind, truth, annotations, results, tolerances) for kind in kinds}


def _complete_keypoints(annotations: list[dict[str, Any]], count: int) -> None:
    """Give every annotation the keypoints that COCOeval expects, unlabelled where it has none."""
    for annotation in annotations:
        keypoints = annotation.get("keypoints")
        if keypoints and len(keypoints) != 3 * count:
            raise ValueError(
                f"annotation {annotation['id']} has {len(keypoints) / 3:g} keypoints, there are {count} sigmas; "
                "give one for each keypoint"
            )
        annotation["keypoints"] = keypoints or [0] * (3 * count)
        counted = int(np.count_nonzero(keypoints[2::3])) if keypoints else 0
        annotation["num_keypoints"] = annotation.get("num_keypoints", counted) if counted else 0


def _measure(
    kind: str,
    truth: Mapping[str, Any],
    annotations: list[dict[str, Any]],
    results: Sequence[Mapping[str, Any]],
    tolerances: NDArray[np.float64],
) -> Measured | None:
    name, field = KINDS[kind]
    labelled = Counter(
        annotation["category_id"]
        for annotation in annotations
        if annotation.get(field)
        and not annotation["iscrowd"]
        and not annotation[_IGNORED]
        and (kind != "keypoints" or annotation["num_keypoints"])
    )
    if not labelled:
        return None
    if kind == "mask":
        annotations = [
            annotation if annotation.get(field) else _as_crowd(annotation) for annotation in annotations
        ]
    dataset = _indexed({"info": {}, **truth, "annotations": annotations})
    # COCO.loadRes takes the first field that it knows as the kind: hand it no other.
    fields = ("image_id", "category_id", "score", field)
    kind_results = [
        {key: result[key] for key in fields}
        for result in results
        if result["category_id"] in labelled and result.get(field) is not None
    ]
    loaded = dataset.loadRes(kind_results) if kind_results else _indexed({**truth, "annotations": []})
    evaluation = _Evaluation(dataset, loaded, name)
    evaluation.params.catIds = sorted(labelled)
    evaluation.params.kpt_oks_sigmas = tolerances
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    names = KEYPOINT_STATS if kind == "keypoints" else AREA_STATS
    stats = dict(zip(names, _defined(evaluation.stats.tolist()), strict=True))
    # Axes: IoU, recall, class, area ("all" first), most detections (the largest last).
    precision = evaluation.eval["precision"][:, :, :, 0, -1].transpose(0, 2, 1)
    return Measured(
        stats=stats,
        classes={
            class_: ClassFigures(
                stats=_class_stats(precision[:, k], evaluation.eval["recall"][:, k, 0, -1]),
                labelled=labelled[class_],
            )
            for k, class_ in enumerate(sorted(labelled))
        },
        recall=evaluation.params.recThrs,
        precision=precision,
    )


class _Evaluation(COCOeval):
    def _prepare(self) -> None:
        """Heed `ignore`, which COCOeval overwrites with iscrowd (cocoapi #123)."""
        super()._prepare()
        for labelled in self._gts.values():
            for annotation in labelled:
                annotation["ignore"] = annotation["ignore"] or annotation[_IGNORED]


def _indexed(content: dict[str, Any]) -> COCO:
    dataset = COCO()
    dataset.dataset = content
    dataset.createIndex()
    return dataset


def _as_crowd(annotation: dict[str, Any]) -> dict[str, Any]:
    x, y, w, h = annotation["bbox"]
    return {**annotation, "iscrowd": 1, "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]}


def _defined(values: Sequence[float]) -> Iterator[float | None]:
    """COCOeval writes -1 where there is nothing to measure."""
    return (None if value < 0 else value for value in values)


def _class_stats(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> dict[str, float]:
    """CLASS_STATS from (10, 101) precisions and (10,) recalls of one class."""
    values = (precision.mean(), precision[0].mean(), precision[5].mean(), recall.mean())
    return {name: float(value) for name, value in zip(CLASS_STATS, values, strict=True)}
