"""Encode: from detections to rows of the lake's two tables.

Masks become COCO RLE, computed in the crop of their box (`model.masks.rle`), so the cost depends on the box, not on the
frame. Masks of images predicted by tiles are RLE already.
"""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass

import masklake.model.masks.rle as rle
import numpy as np
import pyarrow as pa
from masklake.model.errors import ModelError
from masklake.pipeline.schema import IMAGES, INSTANCES, KEYPOINT, RLE, Status
from masklake.pipeline.streams.outcome import with_outcomes

_NAMES = pa.struct(
    [pa.field(f.name, f.type.value_type if pa.types.is_dictionary(f.type) else f.type) for f in KEYPOINT]
)


def _plain(field: pa.Field) -> pa.Field:
    """`field` with plain values instead of dictionaries, so that tables can be concatenated without unifying dictionaries."""
    if field.name == "keypoints":
        return field.with_type(pa.list_(pa.field("element", _NAMES, nullable=False)))
    return field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field


_INSTANCE_FIELDS = [_plain(f) for f in INSTANCES if f.name not in ("run", "image_id", "uri", "model")]


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What the model's numbers mean: class names by id, the ids of classes with keypoints, and the names of the keypoints."""

    classes: dict[int, str]
    with_keypoints: frozenset[int]
    keypoint_names: tuple[str, ...]


def encode_rows(rows: pa.Table, vocabulary: Vocabulary) -> pa.Table:
    """Inferred `rows` as rows of IMAGES (less run and model) with a column `instances`, a list of structs of
    INSTANCES (less run, image_id, uri, model). One row per image, in order.

    An image whose detections are not finite numbers (the model overflowed) becomes a failed row.
    """
    counts, groups = [], []
    statuses, errors = rows["status"].to_pylist(), rows["error"].to_pylist()
    for i, row in enumerate(rows.select([
        "status", "width", "height", "boxes", "label_ids", "scores", "masks", "keypoints", "rles"
    ]).to_pylist()):  # fmt: skip
        image_instances = None
        if row["status"] == Status.OK:
            try:
                image_instances = _instances(row, vocabulary)
            except ModelError as error:
                statuses[i], errors[i] = str(Status.FAILED), f"the model's detections are unusable: {error}"
        counts.append(len(image_instances) if image_instances is not None else 0)
        if image_instances is not None and len(image_instances):
            groups.append(image_instances)
    offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    empty = pa.StructArray.from_arrays(
        [pa.array([], f.type) for f in _INSTANCE_FIELDS], fields=_INSTANCE_FIELDS
    )
    instances = pa.LargeListArray.from_arrays(offsets, pa.concat_arrays([empty, *groups]))
    table = with_outcomes(
        rows.select([f.name for f in IMAGES if f.name in rows.schema.names]), statuses, errors
    )
    table = table.append_column("n_instances", pa.array(counts, pa.int32()))
    time = datetime.datetime.now(datetime.UTC)
    table = table.append_column("processed_at", pa.array([time] * len(rows), pa.timestamp("us", tz="UTC")))
    return table.append_column("instances", instances)


def _instances(row: dict, vocabulary: Vocabulary) -> pa.StructArray:
    scores = np.frombuffer(row["scores"], "<f4")
    labels = np.frombuffer(row["label_ids"], "<i4")
    boxes = np.frombuffer(row["boxes"], "<f4").reshape(-1, 4)
    if not np.isfinite(boxes).all() or not np.isfinite(scores).all():
        raise ModelError("boxes or scores have values that are not finite")
    size = (row["height"], row["width"])
    extents = boxes[:, 2:] - boxes[:, :2]
    if row["masks"] is None and row["rles"] is None:
        masks = pa.nulls(len(scores), RLE)
        areas = np.rint(extents.prod(axis=1)).astype(np.int32)
    else:
        if row["rles"] is None:
            probs = np.frombuffer(row["masks"], "<f4")
            side = math.isqrt(len(probs) // len(scores)) if len(scores) else 1
            encoded = rle.encode_masks(probs.reshape(len(scores), side, side), boxes, size)
        else:
            encoded = [{"size": list(size), "counts": counts} for counts in row["rles"]]
        masks = _rle_array([encoded_mask["counts"].decode("ascii") for encoded_mask in encoded], size)
        areas = rle.area(encoded).astype(np.int32)
    keypoints = (
        None
        if row["keypoints"] is None
        else np.frombuffer(row["keypoints"], "<f4").reshape(len(scores), len(vocabulary.keypoint_names), 3)
    )
    columns = [
        pa.array(np.arange(len(scores), dtype=np.int32)),
        pa.array(labels),
        pa.array([vocabulary.classes[i] for i in labels.tolist()], pa.string()),
        pa.array(scores),
        pa.array(areas),
        pa.array(np.ascontiguousarray(boxes[:, 0])),
        pa.array(np.ascontiguousarray(boxes[:, 1])),
        pa.array(np.ascontiguousarray(extents[:, 0])),
        pa.array(np.ascontiguousarray(extents[:, 1])),
        masks,
        _keypoints_array(keypoints, labels, vocabulary),
    ]
    return pa.StructArray.from_arrays(columns, fields=_INSTANCE_FIELDS)


def _rle_array(counts: list[str], size: tuple[int, int]) -> pa.StructArray:
    sizes = pa.array(np.tile(np.asarray(size, np.int32), len(counts)))
    pairs = pa.FixedSizeListArray.from_arrays(sizes, type=RLE.field("size").type)
    return pa.StructArray.from_arrays([pairs, pa.array(counts, pa.string())], fields=list(RLE))


def _keypoints_array(
    keypoints: np.ndarray | None, labels: np.ndarray, vocabulary: Vocabulary
) -> pa.ListArray:
    """Keypoints of the instances whose class has them, null for the others."""
    has = (
        np.isin(labels, list(vocabulary.with_keypoints))
        if keypoints is not None
        else np.zeros(len(labels), bool)
    )
    kept = keypoints[has].reshape(-1, 3) if keypoints is not None else np.empty((0, 3), np.float32)
    columns = [pa.array(list(vocabulary.keypoint_names) * int(has.sum()), pa.string())]
    columns += [pa.array(np.ascontiguousarray(kept[:, i])) for i in range(3)]
    values = pa.StructArray.from_arrays(columns, fields=list(_NAMES))
    offsets = np.concatenate([[0], np.cumsum(has * len(vocabulary.keypoint_names))]).astype(np.int32)
    return pa.ListArray.from_arrays(
        pa.array(offsets),
        values,
        type=pa.list_(pa.field("element", _NAMES, nullable=False)),
        mask=pa.array(~has),
    )
