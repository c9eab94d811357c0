"""Parameters: `$name` in a query stands for a value that is given beside it, and is never read as SQL."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import duckdb
from masklake.jobs.query.literals import literal
from masklake.jobs.terminal.suggestions import did_you_mean
from masklake.pipeline.errors import UserError

_GIVEN = re.compile(r"(?s)([A-Za-z_]\w*)=(.*)")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_QUOTED = re.compile(r"(?s)'(.*)'")


def parse(given: Iterable[str]) -> dict[str, str]:
    """The values of `name=value`, as SQL: a number is one, all else is text; quotes ('5') make text of a number.

    Raises UserError for anything else, and for a name that is given twice.
    """
    literals: dict[str, str] = {}
    for text in given:
        match = _GIVEN.fullmatch(text)
        if not match:
            raise UserError(f"--param {text!r}: write --param name=value; the query has it as $name")
        name, value = match.groups()
        if name in literals:
            raise UserError(f"--param {name} is given twice")
        quoted = _QUOTED.fullmatch(value)
        text_value = quoted[1] if quoted else value
        number = not quoted and _NUMBER.fullmatch(value)
        literals[name] = f"({value})" if number else literal(text_value)
    return literals


def fill(sql: str, literals: Mapping[str, str]) -> str:
    """`sql` with the values in place of `$name`, but in texts, names and comments. Raises UserError where names do not fit."""
    raw = sql.encode()
    filled, end, used = b"", 0, set()
    tokens = duckdb.tokenize(sql) if "$" in sql else []
    for position, kind in tokens:
        if position < end or kind != duckdb.token_type.operator:
            continue
        match = re.match(rb"\$([A-Za-z_]\w*)", raw[position:])
        if not match:
            continue
        name = match[1].decode()
        if name not in literals:
            near = did_you_mean(name, literals)
            raise UserError(f"the query has ${name}: give --param {name}=VALUE{near}")
        filled += raw[end:position] + literals[name].encode()
        end = position + match.end()
        used.add(name)
    if unused := sorted(literals.keys() - used):
        raise UserError(f"--param {unused[0]}: the query has no ${unused[0]}")
    return (filled + raw[end:]).decode()
