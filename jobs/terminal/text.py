"""Text for terminals: names from storage are hostile until their control characters are spelled out."""

from __future__ import annotations

import contextlib
import json
import sys
import unicodedata
from typing import TYPE_CHECKING

from masklake.jobs.terminal.manners import is_quiet

if TYPE_CHECKING:
    from rich.console import Console

# Control and format characters (escape sequences, bidirectional overrides, zero-width joiners), lone
# surrogates, private use and unassigned ones, and the two line separators outside ASCII.
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def printable(text: str) -> str:
    """`text` with every character that a terminal would act on or hide spelled out: \\n, \\x1b, \\u202e."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_spelled(c) if unicodedata.category(c) in _HIDDEN else c for c in text)


def _spelled(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def printable_json(text: str) -> str:
    """The JSON `text`, which has no raw control characters below U+0020, as equal JSON without hidden ones."""
    if text.isascii() and "\x7f" not in text:
        return text
    return "".join(json.dumps(c)[1:-1] if unicodedata.category(c) in _HIDDEN else c for c in text)


def elide(text: str, width: int) -> str:
    """`text` in at most `width` characters, cut with an ellipsis."""
    return text if len(text) <= width else text[: width - 1] + "…"


def one_line(text: str) -> str:
    """`text` on one printable line."""
    return printable(" ".join(text.split()))


def note(text: str) -> None:
    """A line for people on standard error, beside a command's output; none after -q."""
    if is_quiet():
        return
    with contextlib.suppress(OSError):  # standard error is closed; the work goes on
        sys.stderr.write(f"masklake: {one_line(text)}\n")
        sys.stderr.flush()


def say(console: Console, text: str) -> None:
    """A line for people among a command's output."""
    console.print(one_line(text), highlight=False, markup=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """`seconds` as people write it: 42 s, 3 min 20 s, 2 h 05 min."""
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    return f"{total // 3600} h {total % 3600 // 60:02d} min"
