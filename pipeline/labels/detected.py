"""What a model detected, as an instance of a label set: for people to correct, and for formats that know labels only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from masklake.pipeline.labels.masks import LabelMask
from masklake.pipeline.labels.sets import Instance, Keypoint


def detected_instance(row: Mapping[str, Any]) -> Instance:
    """A row of `instances` as labels say it."""
    return Instance(
        label=row["label"],
        label_id=row["label_id"],
        box=(row["x"], row["y"], row["w"], row["h"]),
        mask=LabelMask.of_row(row["mask"]),
        # A logit below 0 means that the keypoint is probably not there: the annotator decides.
        keypoints=tuple(
            Keypoint(keypoint["name"], keypoint["x"], keypoint["y"], 2 if keypoint["score"] > 0 else 0)
            for keypoint in row["keypoints"] or ()
        ),
    )
