"""Query results as a table, CSV, JSON or Parquet. All but the table stream: memory does not grow with the rows."""

from __future__ import annotations

import json
from typing import IO, TYPE_CHECKING, Any

from masklake.jobs.query.literals import literal
from masklake.jobs.terminal.tables import ruled_table
from masklake.jobs.terminal.text import elide, printable, printable_json
from masklake.pipeline.words import counted

if TYPE_CHECKING:
    import duckdb
    from masklake.jobs.query.database import Database
    from masklake.jobs.query.sandbox import Query
    from rich.console import Console
    from rich.text import Text

_INTEGERS = {
    *("tinyint", "smallint", "integer", "bigint", "hugeint"),
    *("utinyint", "usmallint", "uinteger", "ubigint"),
}
_NUMBERS = {*_INTEGERS, "float", "double", "decimal"}
_TIMES = {"date", "timestamp", "timestamp with time zone"}
_NESTED = {"struct", "list", "array", "map", "union", "variant"}
# What each format writes as it is; nested values otherwise become JSON, and the rest text.
_PLAIN = {
    "table": {*_NUMBERS, "boolean", "varchar"},
    "csv": {*_NUMBERS, *_TIMES, "boolean", "varchar"},
    "parquet": {*_NUMBERS, *_TIMES, "boolean", "varchar", "blob", "enum", "struct", "list", "array", "map"},
}

_BATCH_ROWS = 10_000
_CELL_WIDTH = 60
_NARROWEST = 12
_GAP = 3
"""Characters between two columns."""


def write_csv(database: Database, query: Query, sink: IO[bytes], *, hidden: bool) -> None:
    """CSV with a header; texts are quoted, nulls are empty, nested values are JSON.

    Without `hidden` (for a terminal) control characters become �.
    """
    import pyarrow.csv

    relation = _projected(database, query, "csv", hidden=hidden)
    with database.explaining():
        reader = relation.to_arrow_reader(_BATCH_ROWS)
        with pyarrow.csv.CSVWriter(sink, reader.schema) as writer:
            for batch in reader:
                writer.write_batch(batch)


def write_parquet(database: Database, query: Query, sink: IO[bytes]) -> None:
    """Parquet, zstd, with the query's own types."""
    import pyarrow.parquet

    relation = _projected(database, query, "parquet")
    with database.explaining():
        reader = relation.to_arrow_reader(_BATCH_ROWS * 10)
        with pyarrow.parquet.ParquetWriter(sink, reader.schema, compression="zstd") as writer:
            for batch in reader:
                writer.write_batch(batch)


def write_json(database: Database, query: Query, sink: IO[bytes]) -> None:
    """One JSON array with an object a row, each on a line of its own. NaN and infinities become null."""
    inner = f"from (\n{query.text}\n)"
    relation = database.relation(inner)
    fields = ", ".join(
        # Through text, so that 0.7 stays 0.7: JSON knows no single precision.
        f"{literal(name)}: {_quoted(name)}" + "::varchar::double" * (type_.id == "float")
        for name, type_ in zip(relation.columns, relation.types, strict=True)
    )
    rows = database.relation(f"{inner} select to_json({{{fields}}})::varchar")
    sink.write(b"[")
    separator = "\n"
    with database.explaining():
        for batch in rows.to_arrow_reader(_BATCH_ROWS):
            objects = batch.column(0).to_pylist()
            text = ",\n".join(objects)
            if not text.isascii() or any(odd in text for odd in ("NaN", "Infinity", "\x7f")):
                text = ",\n".join(map(_json, objects))
            sink.write((separator + text).encode())
            separator = ",\n"
    sink.write(b"\n]\n")


def _json(text: str) -> str:
    """DuckDB's JSON of a row, without the numbers that JSON does not have and with hidden characters spelled."""
    if "NaN" in text or "Infinity" in text:
        text = json.dumps(json.loads(text, parse_constant=lambda _: None), ensure_ascii=False)
    return printable_json(text)


def print_table(database: Database, query: Query, console: Console, limit: int | None) -> None:
    """A table of at most `limit` rows; the plan as text for EXPLAIN."""
    from rich.text import Text

    if query.explain:
        with database.explaining():
            for _, plan in database.relation(query.text).fetchall():
                console.print("\n".join(printable(line) for line in plan.splitlines()))
        return
    relation = _projected(database, query, "table", limit=None if limit is None else limit + 1)
    with database.explaining():
        rows = relation.fetchall()
    more = limit is not None and len(rows) > limit
    columns = [
        [Text(printable(name), "bold"), *(_cell(row[i]) for row in rows[:limit])]
        for i, name in enumerate(relation.columns)
    ]
    numeric = [type_.id in _NUMBERS for type_ in relation.types]
    widths = _fitted([max(cell.cell_len for cell in column) for column in columns], numeric, console.width)
    # Columns that do not fit even so make long lines: rich would leave some out.
    console.width = max(console.width, sum(widths) + _GAP * len(widths))
    table = ruled_table()
    for column, right, width in zip(columns, numeric, widths, strict=True):
        table.add_column(column[0], justify="right" if right else "left", no_wrap=True, width=width)
    for cells in zip(*(column[1:] for column in columns), strict=True):
        table.add_row(*cells)
    console.print(table)
    shown_rows = len(rows[:limit])
    console.print(
        Text(f"the first {counted(shown_rows, 'rows')}; there are more (--limit-rows 0 shows all)", "dim")
        if more
        else Text(counted(shown_rows, "rows"), "dim")
    )


def _fitted(widths: list[int], numeric: list[bool], total: int) -> list[int]:
    """`widths` with the widest texts cut until the row has `total` characters; numbers are never cut."""
    widths = list(widths)
    while sum(widths) + _GAP * len(widths) > total:
        cuttable = [i for i, width in enumerate(widths) if not numeric[i] and width > _NARROWEST]
        if not cuttable:
            break
        widths[max(cuttable, key=lambda i: widths[i])] -= 1
    return widths


def _cell(value: Any) -> Text:
    from rich.text import Text

    if value is None:
        return Text("null", "dim")
    if isinstance(value, float):
        return Text(f"{value:.1f}" if 1e6 <= abs(value) < 1e15 else f"{value:.6g}")
    return Text(elide(printable(str(value)), _CELL_WIDTH))


def _projected(
    database: Database, query: Query, format_: str, *, limit: int | None = None, hidden: bool = True
) -> duckdb.DuckDBPyRelation:
    """`query` with the columns that `format_` cannot write turned into JSON or text."""
    inner = f"from (\n{query.text}\n)"
    relation = database.relation(inner)
    columns = [
        _expression(name, type_.id, format_, hidden)
        for name, type_ in zip(relation.columns, relation.types, strict=True)
    ]
    most = "" if limit is None else f"limit {limit}"
    return database.relation(f"select {', '.join(columns)} {inner} {most}")


def _expression(name: str, type_: str, format_: str, hidden: bool) -> str:
    column = _quoted(name)
    expression = column
    if type_ not in _PLAIN[format_]:
        expression = f"to_json({column})::varchar" if type_ in _NESTED else f"{column}::varchar"
    if not hidden and type_ not in {*_NUMBERS, *_TIMES, "boolean"}:
        expression = f"regexp_replace({expression}, '\\p{{C}}', '�', 'g')"
    return expression if expression == column else f"{expression} as {column}"


def _quoted(name: str) -> str:
    return '"{}"'.format(name.replace('"', '""'))
