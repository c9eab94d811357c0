"""Folders that go with the process that made them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from masklake.pipeline.streams import scratch


def test_a_folder_goes_with_its_process() -> None:
    code = (
        "from masklake.pipeline.streams.scratch import scratch_folder\n"
        "folder = scratch_folder('masklake-test-'); (folder / 'x').touch(); print(folder)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    folder = Path(process.stdout.strip())
    assert folder.name.startswith("masklake-test-")
    assert not folder.exists()


def test_in_a_worker_it_lies_in_rays_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray._private.worker as worker

    class Node:
        def get_session_dir_path(self) -> str:
            return str(tmp_path)

    monkeypatch.setattr(worker, "_global_node", Node())
    assert scratch.scratch_folder("masklake-test-").parent == tmp_path
