"""Whether a storage obeys the condition of a conditional write, on which every lock in a lake relies.

Some accept the condition and ignore it: then two writers both succeed, and neither learns of the other. GCS's S3
interface is one of these (it applies If-Match to reads only), and so are some emulators and gateways. So each process
tests a lake's storage once, before work that only one process may do at a time.
"""

from __future__ import annotations

import contextlib
import functools
import secrets

from masklake.pipeline.errors import UserError
from masklake.pipeline.storage.store import Storage, join

_REMEDY = "keep the lake on S3, on GCS as gs://, on Azure as az://, or in a folder"


def require_conditions(lake: str, storage: Storage) -> None:
    """Raises UserError where two writers to `lake` could both succeed. Errors of the storage are raised as they are."""
    if fault := _fault(lake, storage):
        raise UserError(
            f"{lake}: work that only one may do at a time is refused there, since {fault}; {_REMEDY}"
        )


@functools.cache
def _fault(lake: str, storage: Storage) -> str | None:
    store = storage.store(lake)
    if store.conditional is not None:
        return store.conditional
    token = secrets.token_hex(8)
    uri = join(lake, "locks", f".probe-{token}")
    storage.write(uri, f"1 {token}".encode())
    try:
        first = storage.stat(uri)
        if first is None or first.etag is None:
            return "its objects have no version to compare"
        if storage.put_new(uri, f"2 {token}".encode()):
            return "it ignores the condition of a write that must be the first (If-None-Match)"
        if not storage.replace(uri, f"3 {token}".encode(), first.etag):
            return "it refuses a write on the condition of the version that is there (If-Match)"
        if storage.replace(uri, f"4 {token}".encode(), first.etag):
            return "it ignores the condition of a write that is too late (If-Match)"
    finally:
        with contextlib.suppress(Exception):  # a small object may stay behind
            storage.delete(uri)
    return None
