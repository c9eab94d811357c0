"""Work that does not come back ends its process; and how long work may take."""

from __future__ import annotations

import subprocess
import sys

import pytest
from masklake.pipeline.segment.deadline import of_bytes, of_pixels, within

_LOOP = """
import ctypes, time
from masklake.pipeline.segment.deadline import within
with within(30):
    pass
with within(0.3):
    {work}
print("came back", flush=True)
"""


@pytest.mark.parametrize("work", ["ctypes.PyDLL(None).sleep(60)", "time.sleep(60)", "while True: pass"])
def test_a_process_that_does_not_come_back_is_ended(work: str) -> None:
    """With the interpreter's lock held, without it, and in Python; where it was is told."""
    ended = subprocess.run(
        [sys.executable, "-c", _LOOP.format(work=work)],
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert ended.returncode != 0
    assert ended.stdout == ""
    assert "Timeout" in ended.stderr
    assert "line 7" in ended.stderr


def test_work_that_comes_back_or_raises_goes_on() -> None:
    with within(60):
        pass
    with pytest.raises(ZeroDivisionError), within(60):
        raise ZeroDivisionError
    ended = subprocess.run(
        [sys.executable, "-c", _LOOP.format(work="pass") + "time.sleep(0.5)"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, "came back\n")


def test_how_long() -> None:
    """One image has its time, whatever its size was before it was known; among others each adds a tenth; large ones count more."""
    assert of_pixels([640 * 480], 10) == of_pixels([None], 10) == of_bytes([0], 10) == of_pixels([], 10) == 10
    assert of_pixels([640 * 480] * 11, 10) == 20
    assert of_pixels([40_000_000], 10) == 100
    assert of_pixels([40_000_000, 1], 10) == 101
