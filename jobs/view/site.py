"""A gallery as a folder of files that opens from disk or any bucket: no server, nothing from elsewhere.

    index.html, view.css, masks.js, view.js    the page
    list.html                                  the images as a plain table, for browsers without JavaScript
    data/site.js                               what there is to choose from
    data/index-N.js                            a row an image, with class, score and area of its instances: the page filters by them
    data/details-N.js                          masks, boxes, keypoints of DETAILS images
    images/HASH.webp                           a picture an image

Data are scripts, because browsers refuse fetch() of files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any

from masklake.jobs.view import page
from masklake.jobs.view.gallery import WINDOW
from masklake.jobs.view.photos import NoPhotoError, fetch, preview
from masklake.jobs.view.selection import LABELS, NEWEST, GalleryFilter

if TYPE_CHECKING:
    from masklake.jobs.view.gallery import LakeGallery
    from masklake.pipeline.export.folder import ExportFolder
    from masklake.pipeline.storage.store import Storage

DETAILS = 100
_INDEX = 2_000
_PHOTOS_AT_ONCE = 16
MOST_INSTANCES = 2_000
"""Of one image."""


def images_of(gallery: LakeGallery, choice: GalleryFilter, limit: int) -> Iterator[dict[str, Any]]:
    """The first `limit` images that fit (0: all), in the order that was chosen."""
    total = gallery.count(choice)
    for first in range(0, min(total, limit or total), WINDOW):
        yield from gallery.page(choice, first, min(WINDOW, (limit or total) - first))


def write(
    folder: ExportFolder,
    gallery: LakeGallery,
    storage: Storage,
    images: Iterable[dict[str, Any]],
    *,
    choice: GalleryFilter,
    against: str | None,
    side: int,
    with_photos: bool,
) -> None:
    """Write the site into `folder`: `images`, listed by `choice`, with their instances, the labels of each and those of the run `against`.

    side: of the pictures' longer side, pixels. What has no picture is told in `folder.left_out`.
    """
    for name in page.FILES:
        with folder.open(name, "wb") as file:
            file.write((page.STATIC / name).read_bytes())
    writer = _SiteWriter(
        folder, gallery, storage, choice=choice, against=against, side=side, with_photos=with_photos
    )
    with folder.open("list.html") as file, ThreadPoolExecutor() as threads:
        for text in page.list_page(writer.through(images, threads)):
            file.write(text)
    writer.end()


class _SiteWriter:
    def __init__(
        self, folder: ExportFolder, gallery: LakeGallery, storage: Storage, *, choice: GalleryFilter, against: str | None, side: int,
        with_photos: bool,
    ) -> None:  # fmt: skip
        self._folder, self._gallery, self._storage = folder, gallery, storage
        self._choice, self._against, self._side, self._with_photos = choice, against, side, with_photos
        self._labelled = bool(gallery.summary["splits"])
        self._classes = {label: i for i, (label, *_) in enumerate(gallery.summary["classes"])}
        self._words: dict[str, dict[str, int]] = {"run": {}, "model": {}, "status": {}}
        """The position of each run, model and status, so that an image's row names it by number."""
        self._index: list[list[Any]] = []
        self._index_chunks = self._details_chunks = 0

    def through(
        self, images: Iterable[dict[str, Any]], threads: ThreadPoolExecutor
    ) -> Iterator[dict[str, Any]]:
        """`images`, each when it is written."""
        images = iter(images)
        while batch := list(islice(images, DETAILS)):
            self._write_batch(batch, threads)
            yield from batch

    def _write_batch(self, batch: list[dict[str, Any]], threads: ThreadPoolExecutor) -> None:
        def of_source(source: str) -> dict[str, list[dict[str, Any]]]:
            return self._gallery.instances(batch, source, MOST_INSTANCES)

        main = of_source(NEWEST)
        labels = of_source(LABELS) if self._labelled and self._choice.source != LABELS else None
        other = of_source(self._against) if self._against else None
        details = [
            [None if sets is None else page.finite(sets.get(image["id"])) for sets in (main, labels, other)]
            for image in batch
        ]
        for image, (instances, *_), (file, note) in zip(
            batch, details, self._photos(batch, threads), strict=True
        ):
            self._index.append(self._row(image, instances or [], file, note))
            self._folder.instances += len(instances or [])
        self._chunk(f"details-{self._details_chunks}", details)
        self._details_chunks += 1
        if len(self._index) >= _INDEX:
            self._end_index()

    def _photos(
        self, batch: list[dict[str, Any]], threads: ThreadPoolExecutor
    ) -> Iterator[tuple[str | None, str | None]]:
        """(name of the picture, why there is none) of each image."""
        if not self._with_photos:
            yield from [(None, "this gallery was written without pictures")] * len(batch)
            return
        for first in range(0, len(batch), _PHOTOS_AT_ONCE):
            images = batch[first : first + _PHOTOS_AT_ONCE]
            readable = [image for image in images if image["status"] == "ok"]
            objects = dict(
                zip((image["id"] for image in readable), fetch(self._storage, readable), strict=True)
            )
            for image, outcome in zip(
                images, threads.map(self._preview, map(objects.get, (i["id"] for i in images))), strict=True
            ):
                if outcome is None:
                    yield None, None  # the status says why
                elif isinstance(outcome, NoPhotoError):
                    self._folder.leave_out(image["uri"], str(outcome), "without a picture")
                    yield None, str(outcome)
                else:
                    yield self._save(image["uri"], outcome), None

    def _preview(self, data: bytes | NoPhotoError | None) -> bytes | NoPhotoError | None:
        if not isinstance(data, bytes):
            return data
        try:
            return preview(data, self._side, "webp")[0]
        except NoPhotoError as error:
            return error

    def _save(self, uri: str, data: bytes) -> str:
        name = f"{hashlib.sha256(uri.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}.webp"
        with self._folder.open(f"images/{name}", "wb") as file:
            file.write(data)
        return name

    def _row(
        self, image: dict[str, Any], instances: list[dict[str, Any]], file: str | None, note: str | None
    ) -> list[Any]:
        """What the page lists and filters by, in the order in which view.js reads it."""
        self._folder.images += 1
        marks = [
            value
            for row in instances
            for value in (
                self._classes[row["label"]],
                1 if row["score"] is None else row["score"],
                row["area"],
            )
        ]
        numbers = (self._number(kind, image[kind] or "") for kind in ("status", "run", "model"))
        status, run, model = numbers
        return [
            image["id"], file, image["uri"], image["width"], image["height"], status, image["error"], image["n"], run,
            image["image_id"], model, image["time"], image["split"], marks, note,
        ]  # fmt: skip

    def _number(self, kind: str, word: str) -> int:
        words = self._words[kind]
        return words.setdefault(word, len(words))

    def _chunk(self, name: str, content: Any) -> None:
        with self._folder.open(f"data/{name}.js") as file:
            file.write(f"masklake.data({page.text_of(name)},{page.text_of(content)});\n")

    def _end_index(self) -> None:
        self._chunk(f"index-{self._index_chunks}", self._index)
        self._index_chunks += 1
        self._index = []

    def end(self) -> None:
        """What is known only when all images are written."""
        if self._index:
            self._end_index()
        values = page.site(
            self._gallery,
            source=self._choice.source,
            sort=self._choice.sort,
            shown=self._folder.images,
            served=False,
            against=self._against,
            index_chunks=self._index_chunks,
            details_per_chunk=DETAILS,
            **{f"{kind}_names": list(words) for kind, words in self._words.items()},
        )
        with self._folder.open("data/site.js", "wb") as file:
            file.write(page.site_script(values))
