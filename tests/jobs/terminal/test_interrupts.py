"""Ctrl-C once finishes what is in flight, twice ends at once; and a cleanup that hangs does not hold the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from masklake.jobs.terminal.bar import with_bar
from masklake.jobs.terminal.interrupts import each_whole, finishing


@pytest.fixture(autouse=True)
def _own_handler() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_once_finishes_the_item_and_takes_no_other(capfd: pytest.CaptureFixture[str]) -> None:
    begun, done = [], []
    with pytest.raises(KeyboardInterrupt):
        for item in with_bar([1, 2, 3], "working", 3):
            begun.append(item)
            if item == 2:
                ctrl_c()
            done.append(item)
    assert begun == done == [1, 2]
    assert capfd.readouterr().err == "masklake: stopping after this image (Ctrl-C again stops at once)\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_twice_ends_within_the_item() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt):
        for item in each_whole([1, 2], "this"):
            ctrl_c()
            ctrl_c()
            done.append(item)
    assert done == []


def test_what_is_finished_when_it_comes_is_done() -> None:
    with finishing("this") as came:
        ctrl_c()
    assert came()
    with finishing("this") as came:
        pass
    assert not came() and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_where_ctrl_c_is_ignored_or_in_another_thread_nothing_changes() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with finishing("this") as came:
        ctrl_c()
        assert not came() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    items: list[int] = []
    thread = threading.Thread(target=lambda: items.extend(each_whole([1, 2], "this")))
    thread.start()
    thread.join()
    assert items == [1, 2]


_HANGS = """
import sys, time
from masklake.jobs.terminal import interrupts
interrupts.CLEANUP_S = 0.1
interrupts.interrupt_once()
try:
    print("working", flush=True)
    time.sleep(60)
finally:
    print("cleaning up", flush=True)
    time.sleep(60)
"""


def test_a_cleanup_that_hangs_ends_after_a_second_ctrl_c() -> None:
    with subprocess.Popen([sys.executable, "-c", _HANGS], stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout
        for line in ("working\n", "cleaning up\n"):
            assert process.stdout.readline() == line
            process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "masklake: interrupted\n")
