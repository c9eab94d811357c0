"""Lines of a command's output that Masklake itself reads again: the id of the run, how it ended, the command that resumes it.

Schedules and `masklake jobs` find them in the log of a process that may be on another machine, or has ended.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

_RUN = re.compile(r"^run ([0-9]{8}T[0-9]{6}-[0-9a-f]{6})\b", re.MULTILINE)
_OUTCOME = re.compile(
    r"^(?:masklake: error: |  because: (?=\S)|(?=(?:complete|incomplete|stopped|failed|diverged|trained|promoted|not promoted): ))(.+)$",
    re.MULTILINE,
)
_GO_ON = re.compile(r"go on with:\s+masklake (.+?)\s*$", re.MULTILINE)


def first_line(run: str, text: str, attempt: str = "") -> str:
    """The first line of a run or training."""
    return f"run {run}{attempt}: {text}"


def go_on(arguments: Sequence[str]) -> str:
    """The line with the command that resumes it; `arguments` are those of `masklake`."""
    return f"go on with:  {shlex.join(['masklake', *arguments])}"


def run_in(log: str) -> str | None:
    """The id of the run that a log is of."""
    match = _RUN.search(log)
    return match[1] if match else None


def resuming_in(log: str) -> str | None:
    """The arguments of the last command in a log that resumes the run."""
    matches = _GO_ON.findall(log)
    return str(matches[-1]) if matches else None


def outcome_in(log: str) -> str | None:
    """The last line of a log that says how the command ended, or its error; None where there is no such line.

    A training that measures its result runs a segmentation on the way: the last one is the command's own.
    """
    matches = _OUTCOME.findall(log)
    return str(matches[-1]).strip() if matches else None
