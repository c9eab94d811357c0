"""The ids of an annotation file, so that exported results are evaluated beside it."""

from __future__ import annotations

from masklake.pipeline.errors import UserError
from masklake.pipeline.export.coco import Like
from masklake.pipeline.labels.formats.detect import parse
from masklake.pipeline.labels.formats.node import Node
from masklake.pipeline.labels.placement import place
from masklake.pipeline.labels.sets import LabelledImage
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.storage.explain import explaining
from masklake.pipeline.storage.store import normalise


def read(lake: Lake, file: str) -> tuple[Like, int]:
    """The ids of `file`, a COCO annotation file, and how many of its images the lake does not have.

    Images are found as `masklake labels import` finds them. Raises UserError where it cannot be read, or names none of them.
    """
    with explaining(file, "read the annotation file"):
        data = lake.storage.read(normalise(file))
    root = Node(parse(data, file), file)
    ids: dict[str, int] = {}
    images = []
    for i, value in enumerate(root.items("images")):
        node = Node(value, f"{file}: image {i + 1} of the file")
        own = value.get("masklake") if isinstance(value, dict) else None
        name = node.text("file_name")
        ids[name] = node.whole("id", 0)
        uri = own.get("uri") if isinstance(own, dict) else None
        images.append(
            LabelledImage(name=name, uri=uri if isinstance(uri, str) else None, width=None, height=None)
        )
    classes, keypoints = {}, {}
    for i, value in enumerate(root.items("categories")):
        node = Node(value, f"{file}: category {i + 1} of the file")
        name = node.text("name")
        classes[name] = node.whole("id", 0)
        if value.get("keypoints"):
            keypoints[name] = tuple(map(str, value["keypoints"]))
    placement = place(images, lake)
    if not placement.placed:
        raise UserError(f"{file}: names no image that the lake has; its first is {next(iter(ids), 'none')!r}")
    like = Like(
        images={uri: ids[image.name] for image, uri in placement.placed},
        classes=classes,
        keypoints=keypoints,
    )
    return like, len(placement.unplaced)
