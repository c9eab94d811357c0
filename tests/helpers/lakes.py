"""Small lakes from plain Python rows, written by the schema but not by the pipeline under test."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from masklake.model.coco import CATEGORIES, KEYPOINT_NAMES
from masklake.pipeline.lake.run_record import RunRecord
from masklake.pipeline.schema import IMAGES, INSTANCES, LABELS, VERSION_KEY, with_footer
from masklake.pipeline.storage.store import Storage, join

MODEL = "demo@0123456789ab"
WHEN = datetime.datetime(2026, 11, 22, 23, 54, 16, tzinfo=datetime.UTC)
_OF_THE_SET = ("uri", "width", "height", "source", "split", "labelled_at")
_IDS = {name: id_ for id_, name in CATEGORIES}


def rle(height: int, width: int, box: tuple[int, int, int, int]) -> dict[str, Any]:
    """The RLE of a filled rectangle x, y, w, h, as pycocotools makes it."""
    from pycocotools import mask

    x, y, w, h = box
    pixels = np.zeros((height, width), np.uint8, order="F")
    pixels[y : y + h, x : x + w] = 1
    encoded = mask.encode(pixels)
    return {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")}


def image(uri: str, **fields: Any) -> dict[str, Any]:
    """A row of images, 64×48, ok; `fields` replace any of it."""
    row = {
        "uri": uri,
        "etag": f"etag-{uri}",
        "size_bytes": 1000,
        "last_modified": WHEN,
        "width": 64,
        "height": 48,
        "status": "ok",
        "error": None,
        "processed_at": WHEN,
    }
    return row | fields


def instance(
    label: str, score: float, box: tuple[int, int, int, int] = (8, 4, 16, 12), **fields: Any
) -> dict[str, Any]:
    """A row of instances in a 64×48 image: a rectangle for a mask, 17 keypoints on a person."""
    x, y, w, h = box
    keypoints = [
        {"name": name, "x": x + w * (i + 0.5) / 17, "y": y + h / 2, "score": 3.0 + i}
        for i, name in enumerate(KEYPOINT_NAMES)
    ]
    row = {
        "label_id": _IDS[label],
        "label": label,
        "score": score,
        "area": w * h,
        **dict(zip("xywh", map(float, box), strict=True)),
        "mask": rle(48, 64, box),
        "keypoints": keypoints if label == "person" else None,
    }
    return row | fields


def label_row(uri: str, label: str, **fields: Any) -> dict[str, Any]:
    """A row of labels."""
    row: dict[str, Any] = {
        name: value for name, value in instance(label, 1.0).items() if name in LABELS.names
    }
    if row["keypoints"]:
        row["keypoints"] = [{**keypoint, "visibility": 2} for keypoint in row["keypoints"]]
        for keypoint in row["keypoints"]:
            del keypoint["score"]
    own = {
        "uri": uri,
        "width": 64,
        "height": 48,
        "instance": 0,
        "iscrowd": False,
        "source": "human",
        "split": "train",
        "labelled_at": WHEN,
    }
    return row | own | fields


def empty_label_row(uri: str, **fields: Any) -> dict[str, Any]:
    """The one row of labels of an image that was looked at and has no instances."""
    row = dict.fromkeys(LABELS.names) | {name: label_row(uri, "dog")[name] for name in _OF_THE_SET}
    return row | {"instance": -1} | fields


def record(run: str, lake: str, **fields: Any) -> RunRecord:
    """A run record of a finished run."""
    base = RunRecord(
        run=run,
        lake=lake,
        source="s3://photos/",
        command=["masklake", "segment", "s3://photos/", lake],
        options={"score_threshold": 0.05},
        selection={"limit": None, "every_object": False, "redo_all": False},
        model={"name": "demo", "fingerprint": "0123456789ab", "classes": ["person"]},
        versions={"masklake": "0.1.0"},
        state="complete",
        host="worker-1",
        pid=4711,
        created_at="2026-11-22T23:54:16+00:00",
        updated_at="2026-11-22T23:55:16+00:00",
        finished_at="2026-11-22T23:55:16+00:00",
    )
    return replace(base, **fields)


@dataclass
class LakeBuilder:
    """Writes the parts of a lake at `uri`, in the order it is told."""

    uri: str
    storage: Storage = field(default_factory=Storage)
    _parts: int = 0
    _ids: dict[str, int] = field(default_factory=dict)

    def part(
        self,
        run: str,
        images: Mapping[str, list[dict[str, Any]]] | list[tuple[dict[str, Any], list[dict[str, Any]]]],
        *,
        commit: bool = True,
        version: int | None = None,
        row_group_size: int | None = None,
    ) -> str:
        """Write one pair of parts and return its file name.

        `images` are URIs, or rows made by `image`, with their instances. Without `commit` only the instances
        part is written, as by a job that is killed between the two.
        """
        image_rows, instance_rows = [], []
        for key, rows in images.items() if isinstance(images, Mapping) else images:
            ranked = sorted(rows, key=lambda row: -row["score"])
            id_ = self._ids[run] = self._ids.get(run, -1) + 1
            row = image(key) if isinstance(key, str) else dict(key)
            common = {"run": run, "image_id": id_, "model": MODEL}
            image_rows.append({**row, **common, "n_instances": len(ranked)})
            instance_rows += [
                {**instance_row, **common, "uri": row["uri"], "instance": i}
                for i, instance_row in enumerate(ranked)
            ]
        instance_rows.sort(key=lambda row: (row["label"], -row["score"]))
        name = f"part-001-{self._parts:010d}-0123456789ab.parquet"
        self._parts += 1
        for table, schema, rows in (
            ("instances", INSTANCES, instance_rows),
            ("images", IMAGES, image_rows),
        ):
            if commit or table == "instances":
                uri = join(self.uri, table, f"run={run}", name)
                self._write(uri, rows, with_footer(schema, MODEL), version, row_group_size)
        return name

    def labels(self, rows: list[dict[str, Any]], *, version: int | None = None) -> None:
        """Write one part of labels."""
        name = f"part-{self._parts:05d}.parquet"
        self._parts += 1
        self._write(join(self.uri, "labels", name), rows, with_footer(LABELS, None), version, None)

    def record(self, run: str, **fields: Any) -> RunRecord:
        """Write a run.json."""
        run_record = record(run, self.uri, **fields)
        self.storage.write(join(self.uri, "runs", run, "run.json"), run_record.to_json())
        return run_record

    def raw_record(self, run: str, **changed: Any) -> None:
        """Write a run.json with fields that no RunRecord could have."""
        content = asdict(record(run, self.uri)) | changed
        self.storage.write(join(self.uri, "runs", run, "run.json"), json.dumps(content).encode())

    def _write(
        self,
        uri: str,
        rows: list[dict[str, Any]],
        schema: pa.Schema,
        version: int | None,
        row_group_size: int | None,
    ) -> None:
        if version is not None:
            schema = schema.with_metadata({**schema.metadata, VERSION_KEY: str(version).encode()})
        sink = pa.BufferOutputStream()
        table = pa.Table.from_pylist(rows, schema=schema)
        pq.write_table(table, sink, compression="zstd", row_group_size=row_group_size)
        self.storage.write(uri, sink.getvalue().to_pybytes())
