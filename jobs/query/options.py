"""The options of `masklake query`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from masklake.jobs.options.declare import Options, argument, flag, included, option
from masklake.jobs.options.kinds import local_file, one_of, zero_or_more
from masklake.jobs.options.shared import StorageOptions, json_flag
from masklake.pipeline.errors import UserError

FORMATS = ("table", "csv", "json", "parquet")
DIALECTS = ("athena", "duckdb", "spark")


@dataclass(frozen=True, kw_only=True)
class QueryOptions(Options):
    """The options of `masklake query`."""

    words: tuple[str, ...] = argument(
        "LAKE SQL", nargs="*", default=(),
        help="the lake, and the query in quotes; - reads the query from standard input",
    )  # fmt: skip
    lake: str | None = option(str, "LAKE", help="the lake, if it is not written before the query")
    file: str | None = option(str, "FILE", help="read the query from a file")
    run: str | None = option(
        str, "ID", help="read this run only (default: the newest run of each image); `last` is the newest run"
    )
    param: tuple[str, ...] = option(
        str, "NAME=VALUE", repeated=True, default=(),
        help="a value for $NAME in the query, never read as SQL: a number, else text ('5' in quotes is text too); may be given again",
    )  # fmt: skip
    attach: tuple[str, ...] = option(
        str, "NAME=FILE", repeated=True, default=(),
        help="a CSV, Parquet or JSON file of your own as the table NAME, read-only, and this file alone; may be given again",
    )  # fmt: skip
    format: str | None = option(
        one_of(*FORMATS), f"{{{','.join(FORMATS)}}}",
        help="the format of the result (default: by the suffix of --out, else table); json is one array with an object per row",
    )  # fmt: skip
    json: bool = json_flag("the same as --format json")
    out: str | None = option(
        local_file,
        "FILE",
        short=("--output",),
        help="write the result to a local file; after an error there is no half-written file",
    )
    limit_rows: int = option(
        zero_or_more, "N", default=100,
        help="how many rows a table shows (default 100, 0 for all); the other formats always have all rows",
    )  # fmt: skip
    timeout: int = option(
        zero_or_more, "SECONDS", default=3600,
        help="end a query that takes longer (default 3600, 0 for no end)",
    )  # fmt: skip
    views: bool = flag(help="print the SQL that makes these tables in your own DuckDB, and exit")
    ddl: str | None = option(
        one_of(*DIALECTS), f"{{{','.join(DIALECTS)}}}",
        help="print the statements that make these tables in Athena, in Spark, or (as --views) in DuckDB, and exit",
    )  # fmt: skip
    columns: bool = flag(help="print the name, type and meaning of each column, and exit")
    storage: StorageOptions = included(StorageOptions)
    sql: str | None = dataclasses.field(default=None, init=False)
    """The query of the command line."""

    def validate(self) -> None:
        """Tell LAKE from SQL: with --lake, or with --file, there is only the other one."""
        words = list(self.words)
        only_lake = self.views or self.ddl is not None or self.file is not None
        if self.lake is None and (len(words) > 1 or (words and only_lake)):
            object.__setattr__(self, "lake", words.pop(0))
        if len(words) > 1:
            raise UserError(f"{words[1]!r}: give one query, in quotes")
        object.__setattr__(self, "sql", words[0] if words else None)
