"""Images to export, and the folder that a format makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from masklake.pipeline.export.folder import ExportFolder
from masklake.pipeline.export.formats import export
from masklake.pipeline.export.image import Contents, ExportImage
from masklake.pipeline.labels.formats.coco_writer import class_ids, common_folder, keypoints_by_class
from masklake.pipeline.labels.masks import LabelMask, from_pixels
from masklake.pipeline.labels.sets import Instance, LabelSet

from tests.helpers.label_sets import HEIGHT, WIDTH, an_instance, label_set

HOSTILE = [
    "s3://p/../../../etc/passwd",
    "s3://p/a\nb\x00\x1b[31m.jpg",
    "s3://p/<script>alert(1)</script>.jpg",
    "s3://p/'; drop table images; --.png",
    "/etc/passwd",
    "s3://p/..",
    "s3://p/" + "x" * 400 + ".jpg",
    "s3://p/ü/à.jpeg",
    "s3://p/=cmd|'/C calc'!A0.jpg",
]
"""Keys that must stay text."""


def ring() -> LabelMask:
    """A square with a hole, and a second part away from it."""
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[4:24, 6:30] = 1
    pixels[10:18, 12:24] = 0
    pixels[30:40, 40:60] = 1
    return from_pixels(pixels)


def ring_instance(**fields: Any) -> Instance:
    return an_instance("cat", (6, 4, 54, 36), mask=ring(), **fields)


def labelled() -> list[ExportImage]:
    """A person with keypoints and a dog; a cat with a hole; an image that holds nothing."""
    sets = [
        label_set(
            "s3://p/a.jpg",
            an_instance("person", keypoints=True),
            an_instance("dog", (20, 20, 10, 8)),
        ),
        label_set("s3://p/b.jpg", ring_instance(), split="val"),
        label_set("s3://p/c.jpg"),
    ]
    return [ExportImage(labels=labels) for labels in sets]


def detected(labels: LabelSet, *scores: float) -> ExportImage:
    """The label set as a model's result."""
    keypoints = [
        [{"name": k.name, "x": k.x, "y": k.y, "score": 1.0 if k.visibility else -1.0} for k in i.keypoints]
        for i in labels.instances
    ]
    return ExportImage(
        labels=labels,
        scores=scores,
        detected_keypoints=tuple(keypoints),
        model="demo@0123456789ab",
    )


def contents(images: Sequence[ExportImage]) -> Contents:
    sets = [image.labels for image in images]
    return Contents(
        ids=class_ids(sets),
        keypoints=keypoints_by_class(sets),
        folder=common_folder([image.uri for image in images]),
        detected=images[0].scores is not None,
    )


def written(folder: Path, format_: str, images: Sequence[ExportImage], **more: Any) -> ExportFolder:
    """The folder that the export of `images` makes."""
    folder.mkdir(parents=True)
    made_folder = ExportFolder(folder)
    export(format_, images, contents(images), made_folder, **more)
    made_folder.close()
    return made_folder


def all_files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())
