"""Words as SQL: what a lake, a user or a model named, so that nothing in it is read as SQL."""

from __future__ import annotations


def literal(text: str) -> str:
    """`text` as a literal of SQL."""
    return "'{}'".format(text.replace("'", "''"))
