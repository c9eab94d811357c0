"""Fetch: from manifest rows to the same rows with the objects' bytes."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
from masklake.pipeline.errors import UserError
from masklake.pipeline.schema import MANIFEST, Status
from masklake.pipeline.storage.objects import Fetched, TooLargeError
from masklake.pipeline.storage.store import Storage, redact

FETCHED = pa.schema([*MANIFEST, ("status", pa.string()), ("error", pa.string()), ("data", pa.large_binary())])


def fetch(rows: pa.Table, storage: Storage, max_bytes: int) -> pa.Table:
    """`rows` (MANIFEST) with status, error and data (FETCHED), one row each, in order.

    Objects over `max_bytes` are not read. Etag, size and time are replaced by those of the version that was read.
    """
    table = rows.to_pylist()
    wanted = [row for row in table if (row["size_bytes"] or 0) <= max_bytes]
    by_store: dict[str, list[dict]] = {}
    for row in wanted:
        by_store.setdefault(row["uri"].partition("://")[0] if "://" in row["uri"] else "", []).append(row)
    outcomes: dict[int, Fetched | Exception] = {}
    for group in by_store.values():
        answers: Sequence[Fetched | Exception]
        try:
            answers = storage.get_many([row["uri"] for row in group], max_bytes)
        except UserError as error:  # a list of URIs names a protocol that nothing here can open
            answers = [error] * len(group)
        outcomes.update(zip((row["image_id"] for row in group), answers, strict=True))
    for row in table:
        _fill(row, outcomes.get(row["image_id"]) or TooLargeError(row["size_bytes"], max_bytes))
    return pa.Table.from_pylist(table, FETCHED)


def _fill(row: dict, outcome: Fetched | Exception) -> None:
    if isinstance(outcome, Fetched) and _is_part(row, outcome):
        outcome = OSError(
            f"the storage gave {outcome.size:,} bytes of it, and listed {row['size_bytes']:,} of the same version"
        )
    if isinstance(outcome, Fetched):
        row |= {
            "etag": outcome.etag,
            "size_bytes": outcome.size,
            "last_modified": outcome.modified,
            "status": str(Status.OK),
            "error": None,
            "data": outcome.data,
        }
        return
    if isinstance(outcome, TooLargeError):
        status, error = Status.TOO_LARGE, str(outcome)
    elif isinstance(outcome, FileNotFoundError):
        status, error = Status.MISSING, "gone since it was listed, or never there"
    elif isinstance(outcome, PermissionError):
        status, error = Status.FAILED, f"permission denied: {outcome}"
    elif isinstance(outcome, UserError):
        status, error = Status.FAILED, str(outcome)
    else:
        status, error = Status.FAILED, f"could not be read: {type(outcome).__name__}: {outcome}"
    row |= {"status": str(status), "error": redact(error), "data": None}


def _is_part(row: dict, outcome: Fetched) -> bool:
    """Whether it is the version that was listed, and of another size: a proxy cut it off, and its Content-Length with it."""
    same = outcome.etag is not None and outcome.etag == row["etag"]
    return same and row["size_bytes"] is not None and outcome.size != row["size_bytes"]
