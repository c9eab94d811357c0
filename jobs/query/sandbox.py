"""Which SQL may run over a lake: one statement that reads the lake's views and nothing else.

Two locks, each meant to hold alone. DuckDB's settings take away files, network, extensions and Python
variables. And the statement's syntax tree is looked through for tables and functions that are not allowed,
because what DuckDB calls a SELECT can write (a COPY or INSERT inside WITH) and can call functions that
take raw memory addresses (arrow_scan).
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import duckdb
from masklake.jobs.terminal.text import one_line, printable
from masklake.pipeline.errors import UserError

SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "allow_persistent_secrets": "false",
    "python_enable_replacements": "false",
}

_QUERY_NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE"}
_TABLE_FUNCTIONS = {"generate_series", "json_each", "json_tree", "range", "repeat", "unnest"}
# Of the scalar functions only these reach beyond their arguments. `__internal…` trust their input's bytes,
# and so do the functions on aggregate states.
_BANNED_FUNCTIONS = {
    "combine",
    "current_query",
    "current_setting",
    "currval",
    "finalize",
    "getenv",
    "getvariable",
    "in_search_path",
    "json_serialize_plan",
    "nextval",
    "setval",
    "to_aggregate_state",
    "write_log",
}
_EXPLAIN = re.compile(r"(?is)\s*explain(?:\s+|/\*.*?\*/|--[^\n]*\n)+(analyze\b)?(.*)")


_LESS = "; ask for less at a time: a WHERE, a LIMIT, fewer columns"
# DuckDB's advice, and what is said in its place.
_ADVICE = (
    (re.compile(r"Python exception occurred while executing the UDF: \w+: "), ""),
    (
        re.compile(
            r" is not in the catalog, (?:but it|a function by this name) exists in the (\w+) extension.*"
        ),
        r" is of DuckDB's extension \1, and a query over a lake runs without extensions",
    ),
    (re.compile(r"\.? (?:This limit was set by the '|Possible solutions: \* ).*"), _LESS),
    (re.compile(r"\.? Use \"?SET max_expression_depth .*"), "; write it with less nesting, such as x IN (…)"),
    (re.compile(r"\.? (?:Use|You can)\b[^.]*\b(?:SET|PRAGMA) .*"), ""),
    (re.compile(r" Candidate functions: .{300,}"), ""),
)


@dataclass(frozen=True, kw_only=True)
class Query:
    """One statement that passed. `tables` are the views it reads."""

    text: str
    tables: frozenset[str]
    explain: bool = False


def check(connection: duckdb.DuckDBPyConnection, sql: str, views: Collection[str]) -> Query:
    """The statement in `sql`. Raises UserError when it is not exactly one that only reads `views`."""
    try:
        statements = connection.extract_statements(sql)
    except duckdb.Error as error:
        raise UserError(message(error)) from error
    if len(statements) != 1:
        raise UserError(
            f"{len(statements)} SQL statements were given; give exactly one, such as: from images limit 10"
        )
    text, kind = statements[0].query, statements[0].type
    if kind == duckdb.StatementType.EXPLAIN:
        if not (match := _EXPLAIN.fullmatch(text)):
            raise UserError(
                "this form of EXPLAIN is not supported; write EXPLAIN SELECT … or EXPLAIN ANALYZE SELECT …"
            )
        inner = check(connection, match[2], views)
        return Query(text=f"explain {match[1] or ''} {inner.text}", tables=inner.tables, explain=True)
    if kind != duckdb.StatementType.SELECT:
        pivot = "; write PIVOT as FROM (PIVOT … ON column IN (values) USING …)" * ("pivot" in text.lower())
        raise UserError(f"{_words(kind.name)} may not run here: a lake is queried with SELECT only{pivot}")
    [(serialized,)] = connection.execute("select json_serialize_sql(?)", [text]).fetchall()
    tree = json.loads(serialized)
    if tree["error"]:
        raise UserError(
            f"this statement cannot be checked, so it may not run: {one_line(tree['error_message'])}"
        )
    tables: set[str] = set()
    _Walk({view.lower() for view in views}, tables).visit(tree["statements"], frozenset())
    return Query(text=_without_semicolon(text), tables=frozenset(tables))


@dataclass(frozen=True)
class _Walk:
    """Looks through a syntax tree as DuckDB's json_serialize_sql gives it."""

    views: Collection[str]
    tables: set[str]
    """The views that the tree reads; filled on the way."""

    def visit(self, node: Any, ctes: frozenset[str]) -> None:
        """Look through `node`, which sees the WITH names `ctes`. Raises UserError at what is not allowed."""
        if isinstance(node, list):
            for child in node:
                self.visit(child, ctes)
        elif isinstance(node, dict):
            self._visit_node(node, ctes)

    def _visit_node(self, node: dict[str, Any], ctes: frozenset[str]) -> None:
        type_ = node.get("type")
        if isinstance(type_, str) and type_.endswith("_NODE") and type_ not in _QUERY_NODES:
            raise UserError(f"{_words(type_)} may not run here: a lake is queried with SELECT only")
        for entry in node.get("cte_map", {"map": []})["map"]:
            self.visit(entry["value"], ctes)
            ctes |= {entry["key"].lower()}
        if type_ == "RECURSIVE_CTE_NODE":
            # The first part does not see the name yet: there it would mean a table of the catalogue.
            self.visit(node["left"], ctes)
            ctes |= {node["cte_name"].lower()}
        elif "class" in node:
            if node["class"] in ("FUNCTION", "WINDOW"):
                self._scalar(_name(node, "function_name"))
        elif "sample" in node and type_ not in _QUERY_NODES:
            self._table(type_, node, ctes)
        for key, child in node.items():
            if key != "cte_map":
                self.visit(child, ctes)

    def _scalar(self, path: list[str]) -> None:
        name = path[-1].lower()
        if name in _BANNED_FUNCTIONS or name.startswith("__internal"):
            raise UserError(
                f"the function {printable(name)} may not be used here: a query reads the lake only"
            )

    def _table(self, type_: object, node: dict[str, Any], ctes: frozenset[str]) -> None:
        if type_ == "BASE_TABLE":
            self._base_table(_name(node, "table_name"), ctes)
        elif type_ == "TABLE_FUNCTION":
            function = node["function"]
            path = _name(function, "function_name") if function.get("class") == "FUNCTION" else ["?"]
            if len(path) > 1 or path[0].lower() not in _TABLE_FUNCTIONS:
                raise UserError(
                    f"the table function {printable('.'.join(path))} may not be used here: a query reads the lake "
                    f"only (allowed: {', '.join(sorted(_TABLE_FUNCTIONS))})"
                )
        elif type_ == "SHOW_REF":
            if node["show_type"] == "SHOW_SPECIAL" and node["table_name"] == '"tables"':
                self.tables.update(self.views)
            elif node["show_type"] not in ("DESCRIBE", "SUMMARY") or node.get("query") is None:
                raise UserError("only SHOW TABLES, DESCRIBE and SUMMARIZE are allowed of the SHOW statements")
        elif type_ not in ("SUBQUERY", "JOIN", "EXPRESSION_LIST", "EMPTY", "PIVOT"):
            raise UserError(f"{_words(type_)} in FROM may not be used here: a query reads the lake only")

    def _base_table(self, path: list[str], ctes: frozenset[str]) -> None:
        name = path[-1].lower()
        if len(path) == 1 and name in ctes:
            return
        if path[:-1] not in ([], ["main"]) or name not in self.views:
            near = difflib.get_close_matches(name, self.views, 1) if len(path) == 1 else []
            raise UserError(
                f"there is no table {printable('.'.join(path))!r}{f'; did you mean {near[0]}?' if near else ''} "
                f"(the tables are {', '.join(sorted(self.views))})"
            )
        self.tables.add(name)


def _name(node: dict[str, Any], key: str) -> list[str]:
    """The catalogue, schema and name of a table or function, as far as they were written."""
    path = node.get("qualified_name", {}).get("path") or [node["catalog"], node["schema"], node[key]]
    return [part for part in path if part]


def _words(type_: object) -> str:
    return str(type_).removesuffix("_NODE").removesuffix("_QUERY").replace("_", " ")


def _without_semicolon(text: str) -> str:
    """`text` up to the semicolon that ends the statement, so that it can stand in parentheses."""
    for position, kind in duckdb.tokenize(text):
        # Positions count bytes.
        if kind == duckdb.token_type.operator and text.encode()[position : position + 1] == b";":
            return text.encode()[:position].decode()
    return text


def message(error: BaseException | None) -> str:
    """DuckDB's message on one line, its candidates included, its picture of the place left out."""
    text = str(error)
    cause = re.split(r"\n\s*LINE \d+:|Traceback \(most recent call last\):", text)[0]
    return _without_advice(one_line(cause if cause.strip() else text.strip().splitlines()[-1]))


def _without_advice(text: str) -> str:
    """`text` with what helps here in place of what a query may not do: load an extension, change a setting."""
    for pattern, instead in _ADVICE:
        text = pattern.sub(instead, text)
    return text
