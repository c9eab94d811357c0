"""The formats by name, and the loop that every export is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Protocol

import pyarrow as pa
from masklake.pipeline.export.coco import Coco, CocoResults, Like
from masklake.pipeline.export.cvat import Cvat
from masklake.pipeline.export.fiftyone import FiftyOne
from masklake.pipeline.export.folder import ExportFolder
from masklake.pipeline.export.huggingface import HuggingFace
from masklake.pipeline.export.image import Contents, ExportImage
from masklake.pipeline.export.label_studio import LabelStudioTasks
from masklake.pipeline.export.mask_files import MasksIndexed, MasksInstances
from masklake.pipeline.export.yolo import YoloDetect, YoloPose, YoloSegment
from masklake.pipeline.schema import MANIFEST, Status
from masklake.pipeline.segment.fetch import fetch
from masklake.pipeline.storage.store import Storage


class Format(Protocol):
    """Writes the files of one format, image by image. It counts what it has no place for in the folder's notes."""

    def photos(self, split: str) -> str | None:
        """The folder below the export in which copies of images of a split lie; None where `add` keeps them itself."""

    def add(self, image: ExportImage) -> None:
        """Write an image and its instances."""

    def finish(self) -> None:
        """Write what can only be written at the end."""


FORMATS: dict[str, Callable[..., Format]] = {
    "coco": Coco,
    "coco-results": CocoResults,
    "yolo-detect": YoloDetect,
    "yolo-segment": YoloSegment,
    "yolo-pose": YoloPose,
    "cvat": Cvat,
    "label-studio": LabelStudioTasks,
    "masks-indexed": MasksIndexed,
    "masks-instances": MasksInstances,
    "fiftyone": FiftyOne,
    "huggingface": HuggingFace,
}

_FETCHED_AT_ONCE = 16
_MOST_BYTES = 2**30
"""Of one image that is copied."""


def export(
    name: str,
    images: Iterable[ExportImage],
    contents: Contents,
    folder: ExportFolder,
    *,
    photos_from: Storage | None = None,
    like: Like | None = None,
) -> None:
    """Write `images` in the format `name`. One image is held at a time, or 16 where `photos_from` gives copies of them.

    An image that cannot be copied, or has changed since the model saw it, is not in the export; the folder says why.
    """
    more: dict[str, Any] = {} if like is None else {"like": like}
    format_ = FORMATS[name](folder, contents, with_photos=photos_from is not None, **more)
    if photos_from is not None:
        images = _with_photos(images, photos_from, folder)
    for image in images:
        before = folder.images
        format_.add(image)
        if folder.images == before:
            continue  # it was left out
        folder.instances += len(image.instances)
        if image.photo is not None and (photos := format_.photos(image.split)) is not None:
            folder.save_photo(photos, image.uri, image.photo)
    format_.finish()
    folder.notes, folder.remarks = +folder.notes, +folder.remarks
    folder.instances -= folder.notes.total()


def _with_photos(
    images: Iterable[ExportImage], storage: Storage, folder: ExportFolder
) -> Iterator[ExportImage]:
    rest = iter(images)
    while batch := list(islice(rest, _FETCHED_AT_ONCE)):
        wanted = [
            dict.fromkeys(MANIFEST.names) | {"image_id": i, "uri": image.uri} for i, image in enumerate(batch)
        ]
        rows = fetch(pa.Table.from_pylist(wanted, MANIFEST), storage, _MOST_BYTES).to_pylist()
        for image, row in zip(batch, rows, strict=True):
            if row["status"] != Status.OK:
                folder.leave_out(image.uri, row["error"], f"that could not be copied ({row['status']})")
            elif image.etag and row["etag"] and image.etag != row["etag"]:
                folder.leave_out(
                    image.uri, "it is another object than the model saw", "that changed since the run"
                )
            else:
                yield ExportImage(**vars(image) | {"photo": row["data"]})
