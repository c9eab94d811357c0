"""One line of JSON for each image that failed, in the log of the worker where it failed.

Ray keeps the logs of workers in files on each node (`logs/` of its session), named by worker and job. The lake holds the
same reasons, but only once the images are committed.
"""

from __future__ import annotations

import json
import logging

import pyarrow as pa
import pyarrow.compute as pc
from masklake.pipeline.schema import Status
from masklake.pipeline.storage.store import redact

_LOG = logging.getLogger("masklake.images")  # without a handler, Python prints warnings to stderr


def log_failures(run: str, stage: str, before: pa.Table, after: pa.Table) -> None:
    """Log the rows that have failed in `after` and not yet in `before`, which has the same rows (maybe without a status)."""
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
