"""What other tools read of an export, by their own code, in plain values: for tests, and for people.

    python tests/helpers/readers.py fiftyone|huggingface|cvat|label-studio DIR

prints it as JSON in any environment that has the tool (`pip install fiftyone mongomock`, `datasets pillow`, `datumaro`,
`label-studio-sdk`); Masklake need not be there.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def fiftyone(folder: str | Path) -> dict[str, Any]:
    """By `fo.Dataset.from_dir`. Its database is mongomock's: MongoDB itself cannot be installed everywhere."""
    mongomock_for_fiftyone()
    import fiftyone as fo

    dataset = fo.Dataset.from_dir(str(folder), dataset_type=fo.types.FiftyOneDataset)
    try:
        field = "predictions" if dataset.has_field("predictions") else "ground_truth"
        return {
            "classes": dataset.default_classes,
            "skeletons": {name: list(value.labels) for name, value in dataset.skeletons.items()},
            "fields": list(dataset.get_field_schema()),
            "samples": [_fiftyone_sample(sample, field) for sample in dataset],
        }
    finally:
        dataset.delete()


def _fiftyone_sample(sample: Any, field: str) -> dict[str, Any]:
    placed = sample[f"{field}_keypoints"] if sample.has_field(f"{field}_keypoints") else None
    return {
        "uri": sample.uri,
        "filepath": sample.filepath,
        "tags": list(sample.tags),
        "size": [sample.metadata.width, sample.metadata.height],
        "detections": [
            {
                "label": detection.label,
                "box": list(detection.bounding_box),
                "confidence": detection.confidence,
                "mask": None if detection.mask is None else detection.mask.tolist(),
            }
            for detection in sample[field].detections
        ],
        "keypoints": [
            {"label": k.label, "index": k.index, "points": [list(p) for p in k.points]}
            for k in (placed.keypoints if placed else ())
        ],
    }


def mongomock_for_fiftyone() -> None:
    """Let FiftyOne, which is not imported yet, keep its documents in this process."""
    os.environ |= {
        "FIFTYONE_DATABASE_URI": "mongodb://localhost",
        "FIFTYONE_DATABASE_VALIDATION": "false",
        "FIFTYONE_DO_NOT_TRACK": "1",
    }
    import mongoengine
    import mongomock
    import pymongo

    client = mongomock.MongoClient()
    client._closed = False
    client.server_info = lambda *_, **__: {"version": "7.0.0", "versionArray": [7, 0, 0, 0], "ok": 1.0}
    connect = mongoengine.connect
    pymongo.MongoClient = lambda *_, **__: client
    mongoengine.connect = lambda name, **_: connect(
        name, host="mongodb://localhost", mongo_client_class=lambda *_, **__: client
    )


def huggingface(folder: str | Path) -> dict[str, Any]:
    """By `datasets.load_dataset` of the folder."""
    import datasets

    splits = datasets.load_dataset(str(folder), cache_dir=str(Path(folder).parent / "hf-cache"))
    first = next(iter(splits.values()))
    return {
        "features": json.loads(json.dumps(first.features.to_dict())),
        "classes": first.features["objects"]["category"].feature.names,
        "rows": {name: [_plain_row(row) for row in rows] for name, rows in splits.items()},
    }


def _plain_row(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"image": [type(row["image"]).__name__, *row["image"].size]}


def cvat(folder: str | Path) -> dict[str, Any]:
    """By datumaro, of which CVAT has a version of its own: masks and boxes of COCO, points of COCO Keypoints."""
    import datumaro

    instances = datumaro.Dataset.import_from(str(Path(folder, "coco")), "coco_instances")
    content = {"instances": [_datumaro_item(item, instances) for item in instances]}
    if Path(folder, "coco-keypoints").exists():
        keypoints = datumaro.Dataset.import_from(str(Path(folder, "coco-keypoints")), "coco_person_keypoints")
        content["keypoints"] = [_datumaro_item(item, keypoints) for item in keypoints]
    return content


def _datumaro_item(item: Any, dataset: Any) -> dict[str, Any]:
    import datumaro

    labels = dataset.categories()[datumaro.AnnotationType.label]
    content: dict[str, Any] = {"id": item.id, "masks": [], "boxes": [], "points": []}
    for annotation in item.annotations:
        name = labels[annotation.label].name
        if isinstance(annotation, datumaro.Mask):
            content["masks"].append([name, annotation.image.astype(int).tolist()])
        elif isinstance(annotation, datumaro.Bbox):
            content["boxes"].append([name, list(annotation.get_bbox())])
        else:
            visible = [value.value for value in annotation.visibility]
            content["points"].append([name, list(annotation.points), visible])
    return content


def label_studio(folder: str | Path) -> dict[str, Any]:
    """By label-studio-sdk's converter, from brush labels to arrays: [name of the class, pixels] of each task."""
    import tempfile

    import numpy as np
    from label_studio_sdk.converter import Converter

    folder = Path(folder)
    converter = Converter(str(folder / "interface.xml"), str(folder), download_resources=False)
    masks: dict[str, list[Any]] = {}
    with tempfile.TemporaryDirectory() as out:
        converter.convert(str(folder / "tasks.json"), out, "BRUSH_TO_NUMPY", is_dir=False)
        for file in sorted(Path(out).glob("task-*.npy")):
            _, task, _, _, _, _, _, *label = file.stem.split("-")
            masks.setdefault(task, []).append(
                ["-".join(label[:-1]), (np.load(file) > 0).astype(int).tolist()]
            )
    return {"formats": converter.supported_formats, "masks": masks}


def main(tool: str, folder: str) -> None:
    readers = {"fiftyone": fiftyone, "huggingface": huggingface, "cvat": cvat, "label-studio": label_studio}
    with os.fdopen(os.dup(1), "w") as output:
        os.dup2(2, 1)  # where they print their progress
        json.dump(readers[tool](folder), output, indent=1, default=str)


if __name__ == "__main__":
    main(*sys.argv[1:])
