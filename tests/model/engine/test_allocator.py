"""Keeping freed memory: a block that was freed is used again, without the kernel."""

import subprocess
import sys

import pytest
from masklake.model.engine.allocator import keep_freed_memory

SCRIPT = """
import resource
import numpy as np
from masklake.model.engine.allocator import keep_freed_memory

assert keep_freed_memory({block}, {free})
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty(40 * 2**20, np.uint8).fill(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
@pytest.mark.parametrize(
    ("block", "free", "kept"), [(2**30, 2**31 - 1, True), (2**26, 2**27, True), (2**20, 2**27, False)]
)
def test_the_pages_of_a_freed_block_are_there_the_next_time(block: int, free: int, kept: bool) -> None:
    script = SCRIPT.format(block=block, free=free)
    faults = int(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout)
    assert (faults < 10) == kept


def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
