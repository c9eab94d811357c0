"""Folders for files of this process only. They are removed when it ends, or with the session of the Ray it works for."""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any


def scratch_folder(prefix: str) -> Path:
    """A new folder. In a worker of Ray it lies in Ray's session folder, since workers are killed without warning."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=_session()))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _session() -> Path | None:
    if "ray" not in sys.modules:
        return None
    import ray._private.worker as worker

    node: Any = worker._global_node
    folder = None if node is None else Path(node.get_session_dir_path())
    return folder if folder is not None and folder.is_dir() else None
