"""What storage returns about an object: its metadata, its content, and two of its errors."""

from __future__ import annotations

import datetime
from typing import NamedTuple


def bare_etag(etag: str | None) -> str | None:
    """An ETag in one spelling, without the quotes that some answers put around it; gateways to other storage may leave it out."""
    return None if etag is None else etag.strip('"')


class ObjectInfo(NamedTuple):
    """An object as a listing shows it. `etag` names this version of its content."""

    uri: str
    etag: str | None
    size: int | None
    modified: datetime.datetime | None
    line: int | None = None
    """Where a list of images names it: its line, or row, from 1."""


class Fetched(NamedTuple):
    """An object's content, and the version that was read, which may be newer than the one listed."""

    data: bytes
    etag: str | None
    size: int
    modified: datetime.datetime | None


class NoBucketError(OSError):
    """There is no such bucket. That does not mean that the object is missing."""


class TooLargeError(OSError):
    """The object has more bytes than the caller accepts; nothing of it was read."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"{size:,} bytes; the limit is {limit:,} (--max-bytes)")
