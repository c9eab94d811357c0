"""The suggestion after a misspelt word."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from masklake.jobs.terminal.text import printable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for a word that is nearly one of the known; nothing for one that is not."""
    by_folded = {name.casefold(): name for name in known}
    nearest = difflib.get_close_matches(word.casefold(), by_folded, n=1)
    return f"; did you mean {printable(by_folded[nearest[0]])!r}?" if nearest else ""
