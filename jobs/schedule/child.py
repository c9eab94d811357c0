"""A job's process: `python -m masklake.jobs.schedule.child PARENT ARGUMENTS…` runs `masklake ARGUMENTS…` and ends when its daemon ends.

When the daemon ends, for any reason, the system sends this process SIGTERM; `masklake segment` then stops so that it can
be resumed. (The process asks for the signal here, and not between fork and exec, where a process with threads can
deadlock.)
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def _end_with(parent: int) -> None:
    if not sys.platform.startswith("linux"):
        return  # other systems have no such signal: there the next daemon ends what is left
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(128 + signal.SIGTERM)  # it ended before this was asked for


def main() -> int:
    """Run the command line; its exit code."""
    _end_with(int(sys.argv[1]))
    sys.argv = ["masklake", *sys.argv[2:]]
    from masklake.jobs.cli import main as masklake

    return masklake()


if __name__ == "__main__":
    sys.exit(main())
