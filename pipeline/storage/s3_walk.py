"""All objects below a prefix, in key order, by several requests at a time where there are many folders."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from masklake.pipeline.storage.ahead import ahead
from masklake.pipeline.storage.objects import ObjectInfo

if TYPE_CHECKING:
    from masklake.pipeline.storage.s3 import S3Store

_FIRST_PAGES = 2
_LISTERS = 8
_RANGES = 32


def walk(store: S3Store, bucket: str, prefix: str) -> Iterator[ObjectInfo]:
    """The objects whose keys begin with `prefix`, which is empty or ends with a slash.

    What fits on two pages costs no other request. Beyond that, the folders directly below are asked for, and cut into
    ranges of keys that are listed at the same time; memory then holds the pages of a few ranges.
    """
    pages = store.pages(bucket, prefix)
    objects: list[ObjectInfo] = []
    for objects, _ in itertools.islice(pages, _FIRST_PAGES):
        yield from objects
    objects, _ = next(pages, ([], []))
    if not objects:
        return
    yield from objects
    last = objects[-1].uri[len(f"s3://{bucket}/") :]
    starts = [folder for folder in _folders(store, bucket, prefix) if folder > last]
    if len(starts) < _LISTERS:
        for objects, _ in pages:
            yield from objects
        return
    starts = [last, *starts[:: -(-len(starts) // _RANGES)]]

    def listed(bounds: tuple[str, str | None]) -> list[ObjectInfo]:
        start, end = bounds
        infos = []
        for objects, _ in store.pages(bucket, prefix, start_after=start):
            inside = [i for i in objects if end is None or i.uri <= f"s3://{bucket}/{end}"]
            infos += inside
            if len(inside) < len(objects):
                break
        return infos

    for infos in ahead(listed, zip(starts, [*starts[1:], None], strict=True), _LISTERS):
        yield from infos


def _folders(store: S3Store, bucket: str, prefix: str) -> list[str]:
    """The folders directly below `prefix`; none where its first page has none, as where one folder holds many objects."""
    folders: list[str] = []
    for _, below in store.pages(bucket, prefix, delimiter="/"):
        if not below and not folders:
            break
        folders += below
    return folders
