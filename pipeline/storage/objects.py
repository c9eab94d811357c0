"""What storage says of an object."""

from __future__ import annotations

import datetime
from typing import NamedTuple


class ObjectInfo(NamedTuple):
    """An object as a listing shows it. `etag` names this version of its content."""

    uri: str
    etag: str | None
    size: int | None
    modified: datetime.datetime | None


class Fetched(NamedTuple):
    """An object's content, and the version that was read, which may be newer than the one listed."""

    data: bytes
    etag: str | None
    size: int
    modified: datetime.datetime | None


class NoBucketError(OSError):
    """There is no such bucket, which says nothing of the object: it is not missing."""


class TooLargeError(OSError):
    """The object has more bytes than the caller will take; nothing of it was read."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"{size:,} bytes; the limit is {limit:,} (--max-bytes)")
