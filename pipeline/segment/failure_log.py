"""One line of JSON for each image that failed, to the log of the worker that it failed in.

Ray keeps what workers log in files of each node (`logs/` of its session), with the worker's and the job's id in their
names. The lake has the same reasons, but only once the images are committed.
"""

from __future__ import annotations

import json
import logging

import pyarrow as pa
import pyarrow.compute as pc
from masklake.pipeline.schema import Status
from masklake.pipeline.storage.store import redact

_LOG = logging.getLogger("masklake.images")  # Python prints warnings that nobody handles as they are


def log_failures(run: str, stage: str, before: pa.Table, after: pa.Table) -> None:
    """Log the rows of `after` that have failed and, row by row, had not in `before` (which may have no status yet)."""
    failed = pc.not_equal(after["status"], str(Status.OK))
    if "status" in before.schema.names:
        failed = pc.and_(failed, pc.equal(before["status"], str(Status.OK)))
    if not pc.any(failed).as_py():
        return
    for row in after.select(["image_id", "uri", "status", "error"]).filter(failed).to_pylist():
        line = {
            "run": run,
            "stage": stage,
            "image_id": row["image_id"],
            "uri": redact(row["uri"]),
            "status": row["status"],
            "reason": redact(row["error"] or ""),
        }
        _LOG.warning("%s", json.dumps(line))
