"""From a source to a stream of objects, in the order of their URIs, without holding the listing in memory.

A source is a folder or bucket prefix, a single object, a glob, a list file (.txt, .csv, .parquet), or an S3
inventory (its `manifest.json`).
"""

from __future__ import annotations

import itertools
import re
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue

from masklake.pipeline.errors import UserError
from masklake.pipeline.segment.lists import is_list, lines_of, read_inventory, read_list
from masklake.pipeline.storage.clouds import CloudStore
from masklake.pipeline.storage.explain import explaining
from masklake.pipeline.storage.files import FsspecStore, LocalStore, spelled
from masklake.pipeline.storage.objects import ObjectInfo
from masklake.pipeline.storage.s3 import S3Store, split
from masklake.pipeline.storage.store import Storage

IMAGE_SUFFIXES = frozenset(
    [
        "jpg",
        "jpeg",
        "jpe",
        "jfif",
        "png",
        "apng",
        "webp",
        "avif",
        "avifs",
        "tif",
        "tiff",
        "gif",
        "bmp",
        "dib",
        "ppm",
        "pgm",
        "pbm",
        "pnm",
        "jp2",
        "j2k",
        "tga",
        "ico",
        "heic",
        "heif",
    ]
)
_MAGIC = re.compile(r"[*?\[]")
_LISTERS = 8
_PAGES_AHEAD = 4


@dataclass
class Listing:
    """A source, listed while it is iterated. `ignored` counts objects that do not look like images, `left_out` the lines
    of a list that give no image, by reason.

    A key counts as an image by its suffix, or when it has none; `every_object` takes all keys. List files are
    taken as they are.

    It begins after the object `start_after`. Lines of a list may name an object again, so the position in a list is the
    line `after_line`, which names that object (None: the last line that does).

    Raises UserError when the source cannot be a source; storage errors are raised as they are.
    """

    source: str
    storage: Storage
    every_object: bool = False
    start_after: str = ""
    after_line: int | None = None
    ignored: int = field(default=0, init=False)
    left_out: Counter[str] = field(default_factory=Counter, init=False)

    @property
    def prefix(self) -> str:
        """A text with which every listed URI begins; "" where none is known."""
        if is_list(self.source) or self.source.endswith("/manifest.json"):
            return ""
        if not isinstance(self.storage.store(self.source), S3Store | LocalStore):
            return ""  # drivers of other storage write URIs in their own way
        return spelled(_MAGIC.split(self.source)[0].rstrip("/"))

    def __iter__(self) -> Iterator[ObjectInfo]:
        if is_list(self.source):
            return self._after_line(read_list(self.source, self.storage, self.left_out))
        if self.source.endswith("/manifest.json"):
            return self._after(filter(self._wanted, read_inventory(self.source, self.storage)))
        listed = filter(self._wanted, _by_name(self.source, self.storage, self.start_after))
        if not self.start_after:
            return listed
        if isinstance(self.storage.store(self.source), FsspecStore):  # its listing may have no order
            return self._after(listed)
        return (info for info in listed if info.uri > self.start_after)

    def _after(self, listed: Iterator[ObjectInfo]) -> Iterator[ObjectInfo]:
        if self.start_after and not any(info.uri == self.start_after for info in listed):
            raise self._changed()
        yield from listed

    def _after_line(self, listed: Iterator[ObjectInfo]) -> Iterator[ObjectInfo]:
        if not self.start_after:
            yield from listed
            return
        lines = lines_of(self.start_after, self.source, self.storage)
        last = max(lines, default=0) if self.after_line is None else self.after_line
        if last not in lines:
            raise self._changed(f" in line {self.after_line:,}" if self.after_line else "")
        yield from (info for info in listed if info.line is None or info.line > last)

    def _changed(self, where: str = "") -> UserError:
        return UserError(
            f"{self.source}: no longer holds {self.start_after}{where}, where its listing stopped; start a new run"
        )

    def _wanted(self, info: ObjectInfo) -> bool:
        name = info.uri.rpartition("/")[2]
        if not name:  # "folder/" placeholders that consoles create
            wanted = False
        elif self.every_object:
            wanted = True
        else:
            suffix = name.lower().rpartition(".")[2] if "." in name.lstrip(".") else ""
            wanted = not suffix or suffix in IMAGE_SUFFIXES
        self.ignored += not wanted
        return wanted


def gone_on(source: str, storage: Storage, every_object: bool, uri: str, line: int | None) -> Listing:
    """The rest of a listing that stopped at `uri` ("": all of it), in a list at `line`."""
    if uri and line is None and is_list(source):
        # An older Masklake, which noted no line, went by the first one that names the image.
        with explaining(source, "list the source"):
            line = min(lines_of(uri, source, storage), default=None)
    return Listing(source, storage, every_object, uri, line)


def _by_name(source: str, storage: Storage, start_after: str) -> Iterator[ObjectInfo]:
    """A folder, one object, or a glob."""
    magic = _MAGIC.search(source)
    if magic and isinstance(storage.store(source), S3Store) and not split(source[: magic.end()])[1]:
        raise UserError(f"{source}: the bucket's name must stand before the first wildcard")
    # A key may contain `*?[`: an object of exactly that name comes before the glob.
    if not source.endswith("/") and (exact := _single(source, storage)):
        return _with_below(exact, storage, start_after)
    if magic and not _has_any(source, storage):
        from fsspec.utils import glob_translate

        pattern = re.compile(glob_translate(source))
        root = source[: magic.start()].rpartition("/")[0]
        return (
            info
            for info in _tree(root, storage, source[: magic.start()], start_after)
            if pattern.match(info.uri)
        )
    if isinstance(storage.store(source), LocalStore) and not Path(source).is_dir():
        raise FileNotFoundError(source)  # only a file system has missing folders
    return _tree(source.rstrip("/") or "/", storage, source.rstrip("/") + "/", start_after)


def _with_below(exact: ObjectInfo, storage: Storage, start_after: str) -> Iterator[ObjectInfo]:
    """The object of exactly the source's name, and the objects below that name: object storage may have both.

    An empty object of a folder's name only marks the folder, as consoles and old tools do.
    """
    if isinstance(storage.store(exact.uri), LocalStore):
        yield exact
        return
    below = _tree(exact.uri, storage, f"{exact.uri}/", start_after)
    try:
        first = next(below, None)
    except PermissionError:  # this user has rights on the one object only
        first = None
    if exact.size or (first is None and not start_after):
        yield exact
    if first is not None:
        yield first
        yield from below


def _single(source: str, storage: Storage) -> ObjectInfo | None:
    store = storage.store(source)
    if isinstance(store, S3Store):
        try:
            return store.stat(source) if split(source)[1] else None
        except (
            PermissionError
        ):  # this user has rights below the folder only; the listing says what is forbidden
            return None
    if isinstance(store, LocalStore):
        return store.stat(source) if Path(source).is_file() else None
    if isinstance(store, CloudStore):
        return store.stat(source) if split(source)[1] else None
    return store.stat(source) if store.fs.isfile(source) else None


def _has_any(folder: str, storage: Storage) -> bool:
    return next(_tree(folder, storage, folder.rstrip("/") + "/", ""), None) is not None


def _tree(root: str, storage: Storage, prefix: str, start_after: str) -> Iterator[ObjectInfo]:
    store = storage.store(root)
    if isinstance(store, S3Store):
        bucket, key_prefix = split(prefix)
        return _parallel_pages(store, bucket, key_prefix, split(start_after)[1] if start_after else "")
    return storage.walk(root)


def _parallel_pages(store: S3Store, bucket: str, prefix: str, start_after: str) -> Iterator[ObjectInfo]:
    """Keys under `prefix` in key order; the folders below it are listed by several threads at once.

    One level of folders is listed with a delimiter (and one level deeper while there is a single folder, as in
    year/month trees); each folder is then a flat listing of its own. Bounded queues hold at most a few pages a folder
    ahead of the reader.
    """
    entries = _level(store, bucket, prefix, start_after)
    head = list(itertools.islice(entries, 2))
    if len(head) == 1 and isinstance(head[0], str):
        yield from _parallel_pages(store, bucket, head[0], start_after)
        return
    done = object()

    def produce(folder: str, queue: Queue, stop: list[bool]) -> None:
        try:
            for objects, _ in store.pages(bucket, folder, start_after=start_after):
                if stop:
                    return
                queue.put(objects)
            queue.put(done)
        except Exception as error:  # noqa: BLE001  # raised again in the reader's thread
            queue.put(error)

    stop: list[bool] = []
    ahead: list[tuple[ObjectInfo | str, Queue | None]] = []
    entries = itertools.chain(head, entries)
    try:
        while True:
            while len(ahead) < _LISTERS and (entry := next(entries, None)) is not None:
                queue: Queue | None = None
                if isinstance(entry, str):
                    queue = Queue(_PAGES_AHEAD)
                    # Not of a pool, whose threads a process that ends in the midst of a listing would wait for.
                    threading.Thread(target=produce, args=(entry, queue, stop), daemon=True).start()
                ahead.append((entry, queue))
            if not ahead:
                return
            entry, queue = ahead[0]  # stays in `ahead` while it is read: its thread may have to be released
            if queue is None:
                assert isinstance(entry, ObjectInfo)  # noqa: S101  # narrows the type: folders have a queue
                yield entry
            else:
                while (page := queue.get()) is not done:
                    if isinstance(page, Exception):
                        raise page
                    yield from page
            del ahead[0]
    finally:
        stop.append(True)
        for _, queue in ahead:
            while queue is not None and not queue.empty():
                queue.get_nowait()


def _level(store: S3Store, bucket: str, prefix: str, start_after: str) -> Iterator[ObjectInfo | str]:
    """Objects directly under `prefix` and the folders below it, merged in key order, without those that end before
    `start_after`. (Servers differ in what StartAfter does to common prefixes, so it is not sent.)"""
    skip = len(f"s3://{bucket}/")

    def key(entry: ObjectInfo | str) -> str:
        return entry if isinstance(entry, str) else entry.uri[skip:]

    for objects, folders in store.pages(bucket, prefix, delimiter="/"):
        entries: list[ObjectInfo | str] = [*objects, *folders]
        for entry in sorted(entries, key=key):
            if key(entry) > start_after or (isinstance(entry, str) and start_after.startswith(entry)):
                yield entry
