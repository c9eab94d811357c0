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


@dataclass(frozen=True)
class _Instances:
    """The instances of one image."""

    labels: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    size: tuple[int, int]
    counts: list[str | None]
    """Run lengths of the masks; None for a model without masks."""
    keypoints: np.ndarray | None


def encode_rows(rows: pa.Table, vocabulary: Vocabulary) -> pa.Table:
    """Inferred `rows` as rows of IMAGES (less run and model) with a column `instances`, a list of structs of
    INSTANCES (less run, image_id, uri, model). One row per image, in order.

    An image whose detections are not finite numbers (the model overflowed) becomes a failed row.
    """
    counts, groups = np.zeros(len(rows), np.int64), []
    statuses, errors = rows["status"].to_pylist(), rows["error"].to_pylist()
    for i, status in enumerate(statuses):
        if status != Status.OK:
            continue
        try:
            instances = _instances({name: rows[name][i] for name in _DETECTED}, vocabulary)
        except ModelError as error:
            statuses[i], errors[i] = str(Status.FAILED), f"the model's detections are unusable: {error}"
            continue
        counts[i] = len(instances.scores)
        if counts[i]:
            groups.append(instances)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    table = with_outcomes(
        rows.select([f.name for f in IMAGES if f.name in rows.schema.names]), statuses, errors
    )
    table = table.append_column("n_instances", pa.array(counts, pa.int32()))
    time = datetime.datetime.now(datetime.UTC)
    table = table.append_column("processed_at", pa.array([time] * len(rows), pa.timestamp("us", tz="UTC")))
    return table.append_column(
        "instances", pa.LargeListArray.from_arrays(offsets, _structs(groups, vocabulary))
    )


_DETECTED = ("width", "height", "boxes", "label_ids", "scores", "masks", "keypoints", "rles")


def _instances(row: dict[str, pa.Scalar], vocabulary: Vocabulary) -> _Instances:
    """The instances of one image, without a copy of what is large."""
    scores = np.frombuffer(row["scores"].as_buffer(), "<f4")
    boxes = np.frombuffer(row["boxes"].as_buffer(), "<f4").reshape(-1, 4)
    if not np.isfinite(boxes).all() or not np.isfinite(scores).all():
        raise ModelError("boxes or scores have values that are not finite")
    n, size = len(scores), (row["height"].as_py(), row["width"].as_py())
    counts: list[str | None] = [None] * n
    if not n or (not row["masks"].is_valid and not row["rles"].is_valid):
        areas = np.rint((boxes[:, 2:] - boxes[:, :2]).prod(axis=1)).astype(np.int32)
    else:
        if row["masks"].is_valid:
            probs = np.frombuffer(row["masks"].as_buffer(), "<f4")
            side = math.isqrt(len(probs) // n)
            encoded = rle.encode_masks(probs.reshape(n, side, side), boxes, size)
        else:
            encoded = [{"size": list(size), "counts": text} for text in row["rles"].as_py()]
        counts = [encoded_mask["counts"].decode("ascii") for encoded_mask in encoded]
        areas = rle.area(encoded).astype(np.int32)
    return _Instances(
        labels=np.frombuffer(row["label_ids"].as_buffer(), "<i4"),
        scores=scores,
        boxes=boxes,
        areas=areas,
        size=size,
        counts=counts,
        keypoints=np.frombuffer(row["keypoints"].as_buffer(), "<f4").reshape(
            n, len(vocabulary.keypoint_names), 3
        )
        if row["keypoints"].is_valid
        else None,
    )


def _structs(groups: list[_Instances], vocabulary: Vocabulary) -> pa.StructArray:
    """The instances of all images, one after another."""
    if not groups:
        return pa.StructArray.from_arrays(
            [pa.array([], f.type) for f in _INSTANCE_FIELDS], fields=_INSTANCE_FIELDS
        )
    boxes = np.concatenate([group.boxes for group in groups])
    extents = boxes[:, 2:] - boxes[:, :2]
    labels = np.concatenate([group.labels for group in groups])
    columns = [
        pa.array(np.concatenate([np.arange(len(group.scores), dtype=np.int32) for group in groups])),
        pa.array(labels),
        pa.array([vocabulary.classes[i] for i in labels.tolist()], pa.string()),
        pa.array(np.concatenate([group.scores for group in groups])),
        pa.array(np.concatenate([group.areas for group in groups])),
        *(pa.array(np.ascontiguousarray(column)) for column in (*boxes[:, :2].T, *extents.T)),
        _masks_array(groups),
        _keypoints_array(groups, labels, vocabulary),
    ]
    return pa.StructArray.from_arrays(columns, fields=_INSTANCE_FIELDS)


def _masks_array(groups: list[_Instances]) -> pa.StructArray:
    counts = pa.array([text for group in groups for text in group.counts], pa.string())
    sizes = np.repeat([group.size for group in groups], [len(group.scores) for group in groups], axis=0)
    pairs = pa.FixedSizeListArray.from_arrays(
        pa.array(sizes.reshape(-1), pa.int32()), type=RLE.field("size").type
    )
    return pa.StructArray.from_arrays([pairs, counts], fields=list(RLE), mask=counts.is_null())


def _keypoints_array(groups: list[_Instances], labels: np.ndarray, vocabulary: Vocabulary) -> pa.ListArray:
    """Keypoints of the instances whose class has them, null for the others."""
    names, lengths = vocabulary.keypoint_names, [len(group.scores) for group in groups]
    has = np.isin(labels, list(vocabulary.with_keypoints))
    has &= np.repeat([group.keypoints is not None for group in groups], lengths)
    keypoints = [
        np.zeros((n, len(names), 3), np.float32) if group.keypoints is None else group.keypoints
        for group, n in zip(groups, lengths, strict=True)
    ]
    kept = np.concatenate(keypoints)[has].reshape(-1, 3)
    columns = [pa.array(list(names) * int(has.sum()), pa.string())]
    columns += [pa.array(np.ascontiguousarray(kept[:, i])) for i in range(3)]
    values = pa.StructArray.from_arrays(columns, fields=list(_NAMES))
    offsets = np.concatenate([[0], np.cumsum(has * len(names))]).astype(np.int32)
    return pa.ListArray.from_arrays(
        pa.array(offsets),
        values,
        type=pa.list_(pa.field("element", _NAMES, nullable=False)),
        mask=pa.array(~has),
    )
