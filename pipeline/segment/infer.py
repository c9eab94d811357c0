"""Infer: from decoded rows to detections, with one predictor per actor.

The predictor comes from a factory, so that this module knows no model. Detections travel as the raw bytes of
their arrays: boxes, scores, and mask probabilities on the head's grid, never masks of a full frame. For images predicted
by tiles the masks are RLE.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from masklake.pipeline.schema import Status
from masklake.pipeline.streams.outcome import with_outcomes

DETECTED = (
    pa.field("boxes", pa.large_binary()),
    pa.field("label_ids", pa.large_binary()),
    pa.field("scores", pa.large_binary()),
    pa.field("masks", pa.large_binary()),
    pa.field("keypoints", pa.large_binary()),
    pa.field("rles", pa.large_list(pa.large_binary())),
)
"""boxes float32 (N, 4) xyxy, label_ids int32 (N,), scores float32 (N,), masks float32 (N, M, M) or null,
keypoints float32 (N, K, 3) or null; pixels of the original frame. rles: counts of N COCO RLEs of the original frame, in
place of masks for images that were predicted by tiles, or null."""

_ARRAYS = (("boxes", "<f4"), ("labels", "<i4"), ("scores", "<f4"), ("masks", "<f4"), ("keypoints", "<f4"))
"""(attribute of `Detections`, dtype), in the order of DETECTED."""


class Predicts(Protocol):
    """What the pipeline needs of a predictor: `model.predictor.Predictor` is one."""

    def predict(self, images: Sequence[Any], frames: Sequence[tuple[int, int]] | None = None) -> list[Any]:
        """A `Detections`, or a `PredictFailure`, for each RGB image, uint8 (H, W, 3).

        `frames` are the (height, width) of the frames that the results are scaled into.
        """


PredictorFactory = Callable[[], Predicts]


def infer_rows(rows: pa.Table, predictor: Predicts) -> pa.Table:
    """`rows` with the pixels replaced by the DETECTED columns; rows that have failed pass through."""
    statuses, errors = rows["status"].to_pylist(), rows["error"].to_pylist()
    todo = [i for i, status in enumerate(statuses) if status == Status.OK]
    shapes = list(zip(rows["pixel_height"].to_pylist(), rows["pixel_width"].to_pylist(), strict=True))
    frames = list(zip(rows["height"].to_pylist(), rows["width"].to_pylist(), strict=True))
    images = [np.frombuffer(rows["pixels"][i].as_buffer(), np.uint8).reshape(*shapes[i], 3) for i in todo]
    columns: dict[str, list] = {field.name: [None] * len(rows) for field in DETECTED}
    if images:
        for i, detections in zip(todo, predictor.predict(images, [frames[i] for i in todo]), strict=True):
            if hasattr(detections, "reason"):
                statuses[i], errors[i] = str(Status.FAILED), detections.reason
                continue
            for field, (name, dtype) in zip(DETECTED, _ARRAYS, strict=False):
                array = getattr(detections, name)
                columns[field.name][i] = (
                    None if array is None else np.ascontiguousarray(array, dtype).tobytes()
                )
            if detections.rles is not None:
                columns["rles"][i] = [encoded["counts"] for encoded in detections.rles]
    out = rows.drop_columns(["pixels", "pixel_width", "pixel_height"])
    return with_detections(out, statuses, errors, columns)


def with_detections(
    rows: pa.Table, statuses: list[str], errors: list[str | None], columns: dict[str, list]
) -> pa.Table:
    """`rows` with new status and error, and the DETECTED columns added."""
    rows = with_outcomes(rows, statuses, errors)
    for field in DETECTED:
        rows = rows.append_column(field, pa.array(columns[field.name], field.type))
    return rows
