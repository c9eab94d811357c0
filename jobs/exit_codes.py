"""What a command's exit code means: one meaning each, the same in every command."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of `masklake`. Scripts, schedules and Kubernetes decide by them; a meaning never changes."""

    DONE = 0
    """What was asked for is done."""
    FAILED = 1
    """It was tried and did not end well, or a storage or cluster did not answer: it may work later. Or a check found
    what it looks for."""
    MISTAKE = 2
    """Nothing was done: the command, its options or what they name are wrong, and the message says how to mend it."""
    INCOMPLETE = 3
    """The run has ended and rows are missing: --resume goes on."""
    REFUSED = 75
    """Another holds the lock: it may work later (EX_TEMPFAIL of sysexits.h)."""
    STOPPED = 130
    """Ctrl-C or SIGTERM: what is in the lake stays valid, and --resume goes on."""


MEANINGS = """\
exit codes: 0 done · 1 failed (a storage or cluster that does not answer, too), or a check found something ·
2 a mistake that the message names: nothing was done · 3 incomplete, --resume goes on · 75 another holds the lock (--lock), try later · 130 stopped by Ctrl-C or SIGTERM"""
"""For `masklake --help`."""
