"""Two lines of a command's output that other programs of ours read again: which run it is, and what resumes it.

Schedules and `masklake jobs` find them in the log of a process that may be on another machine, or dead.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

_RUN = re.compile(r"^run ([0-9]{8}T[0-9]{6}-[0-9a-f]{6})\b", re.MULTILINE)
_GO_ON = re.compile(r"go on with:\s+masklake (.+?)\s*$", re.MULTILINE)


def first_line(run: str, text: str, attempt: str = "") -> str:
    """The first line of a run or training."""
    return f"run {run}{attempt}: {text}"


def go_on(arguments: Sequence[str]) -> str:
    """What resumes it, as the arguments of `masklake`."""
    return f"go on with:  {shlex.join(['masklake', *arguments])}"


def run_in(log: str) -> str | None:
    """The run that a log says it is of."""
    match = _RUN.search(log)
    return match[1] if match else None


def resuming_in(log: str) -> str | None:
    """The last command that a log says to go on with, as after `masklake`."""
    matches = _GO_ON.findall(log)
    return str(matches[-1]) if matches else None
