"""A run heeds what `masklake forget` takes out: it writes no row of an image that was forgotten since it was planned."""

from __future__ import annotations

import pyarrow as pa
from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.forgotten import ForgottenSince, RowlessImages
from masklake.pipeline.lake.run_record import RunFolder
from masklake.pipeline.segment.manifest import Manifest

FORGOTTEN = "images that were forgotten since the run began (masklake forget)"
"""For the counts of what is left out."""


def heed(folder: RunFolder, since: int) -> ForgottenSince:
    """What was forgotten after the first `since` calls, for the rest of the listing; of the manifest that is there, it is noted which
    images need no row.

    Call it when the record in the lake says that the run is at work, and before anything else is written. Raises UserError where the
    run itself was forgotten; then its record is removed again.
    """
    forgotten, forgets = ForgottenSince.load(folder.lake, folder.storage, since)
    if forgets == since:
        return forgotten
    if forgotten.has_run(folder.run):
        folder.storage.delete(folder.record_uri)
        raise UserError(
            f"run {folder.run}: was forgotten (masklake forget) and cannot go on; start a new one"
        )
    ids: set[int] = set()
    for part in Manifest(folder.manifest_uri, folder.storage).parts():
        gone = pa.array([forgotten.has(uri) for uri in part["uri"].to_pylist()], pa.bool_())
        ids.update(part["image_id"].filter(gone).to_pylist())
    RowlessImages.note(folder, ids, forgets)
    return forgotten
