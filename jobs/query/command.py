"""`masklake query`: SQL over a lake."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.options.command import Command
from masklake.jobs.query.options import FORMATS, QueryOptions
from masklake.pipeline.errors import UserError
from masklake.pipeline.storage.explain import explaining

if TYPE_CHECKING:
    from masklake.jobs.query.database import Database
    from masklake.jobs.query.sandbox import Query
    from masklake.pipeline.lake.lake import Lake

SUMMARY = "ask a lake questions in SQL"

DESCRIPTION = """\
Run one SELECT (DuckDB's SQL) over a lake. It reads the lake and nothing else, and writes nothing.

Tables:
  images      every input image: uri, width, height, status, error, n_instances, …
  instances   every detected instance: uri, label, score, area, x, y, w, h, mask, keypoints, …
  errors      the images whose status is not ok
  runs        one row per run: state, model, images, failures, seconds, …
  labels      every labelled instance, of the newest label set of each image
  labelled    one row per labelled image, those that hold nothing too: uri, n_instances, source, split, …

images, instances and errors hold the newest run of each image; all_images, all_instances and all_labels hold
every run and every label set; in all_labels, instance -1 is an image that holds nothing.
`masklake query --columns` describes all columns; `masklake query LAKE --ddl duckdb|athena|spark` prints the SQL that makes
these tables there (`masklake catalog` keeps an Iceberg catalog of them).

Functions beside DuckDB's own:
  kp(keypoints, 'left_wrist')   the keypoint of that name, or null: .x and .y in pixels, .score a logit
  box_iou(a, b), box_area(a)    of the boxes of two rows: from instances a join instances b … ; also box_overlap(a, b), pixels
  mask_iou(m, n)                of two masks of one frame; null where the frames differ
  mask_at(m, x, y)              whether a pixel is in the mask; mask_area(m) counts them
  mask_pixels(m)                the pixels as a BLOB, a byte each (0 or 1), rows first, as large as the image
"""

EPILOG = """\
examples:
  how many of what:
    masklake query "select label, count(*) from instances where score > .7 group by all order by 2 desc" --lake s3://lake
  images with at least three people:
    masklake query "select uri, count(*) n from instances where label = 'person' and score > .8 \\
        group by uri having n >= 3" --lake s3://lake --format csv --out crowds.csv
  what failed, and why:
    masklake query "select status, error, count(*) from errors group by all" --lake s3://lake
  where the left wrists are:
    masklake query "select uri, k.x, k.y from (select uri, kp(keypoints, 'left_wrist') k from instances) \\
        where k.score > 2" --lake s3://lake
  the query from a file, with a value, beside a table of your own:
    masklake query s3://lake --file crowds.sql --param least=3 --attach places=places.csv
  how two runs differ:
    masklake query "select run, label, avg(score) from all_instances group by all" --lake s3://lake
  the columns of a table, and what a query reads:
    masklake query "describe instances" --lake s3://lake
    masklake query "explain select uri from instances where label = 'dog'" --lake s3://lake
"""


def run(options: QueryOptions) -> int:
    """Run the command. Raises UserError for SQL that may not or cannot run, and for a lake that cannot be read."""
    if options.columns:
        _print_columns()
        return ExitCode.DONE
    sql = None if options.views or options.ddl else _sql(options)
    if not options.lake:
        raise UserError(
            "no lake is named; add --lake s3://… or --lake DIRECTORY, or write it before the query"
        )
    from masklake.pipeline.lake.lake import Lake

    lake = Lake(options.lake, options.storage.open())
    if sql is None:
        _print_views(lake, options.ddl or "duckdb")
        return ExitCode.DONE
    output = None if options.out is None else Path(options.out)
    format_ = _format("json" if options.json else options.format, output)
    from masklake.jobs.query import attached, parameters
    from masklake.jobs.query.database import VIEWS, Database

    sql = parameters.fill(sql, parameters.parse(options.param))
    attach = attached.parse(options.attach, VIEWS)
    with Database(lake, run=options.run, attach=attach, seconds=options.timeout or None) as database:
        query = database.prepare(sql)
        if query.explain and format_ != "table":
            raise UserError("EXPLAIN prints a plan, not rows; leave --format out")
        with _sink(output) as sink:
            _interruptible(database, lambda: _write(database, query, format_, sink, options))
    return ExitCode.DONE


COMMAND = Command(
    summary=SUMMARY,
    description=DESCRIPTION,
    epilog=EPILOG,
    usage="LAKE SQL [--run ID] [--format FORMAT] [--out FILE] …",
    options=QueryOptions,
    run=run,
)


def _interruptible(database: Database, work: Callable[[], None]) -> None:
    """`work()` in a thread, so that Ctrl-C reaches this one: while DuckDB streams it does not look for signals."""
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(work)
        try:
            future.result()
        except KeyboardInterrupt:
            database.connection.interrupt()
            raise


def _sql(options: QueryOptions) -> str:
    sql, file = options.sql, options.file
    if (sql is None) == (file is None):
        raise UserError(
            "give one query: as an argument, as - for standard input, or by --file; "
            "`masklake query --help` shows examples"
        )
    try:
        with explaining(file or "standard input", "read the query"):
            if sql is None:
                return Path(file or "").read_text(encoding="utf-8")
            return sys.stdin.read() if sql == "-" else sql
    except UnicodeDecodeError as error:
        raise UserError(f"{file or 'standard input'}: the query is not UTF-8 text ({error})") from error


def _format(chosen: str | None, output: Path | None) -> str:
    suffix = "" if output is None else output.suffix.lower().lstrip(".")
    format_ = chosen or (suffix if suffix in FORMATS else "table")
    if format_ == "parquet" and output is None:
        raise UserError("--format parquet needs a file; add --out FILE.parquet")
    return format_


@contextlib.contextmanager
def _sink(output: Path | None) -> Iterator[IO[bytes]]:
    """Standard output, or a file that takes `output`'s place only when all of it is written."""
    if output is None:
        try:
            yield sys.stdout.buffer
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UserError(f"standard output: cannot write the result: {error.strerror or error}") from error
        return
    temporary = output.with_name(f".{output.name}.{secrets.token_hex(4)}.tmp")
    try:
        with explaining(str(output), "write the result"):
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)


def _write(database: Database, query: Query, format_: str, sink: IO[bytes], options: QueryOptions) -> None:
    from masklake.jobs.query import results

    if format_ == "csv":
        results.write_csv(database, query, sink, hidden=options.out is not None or not sys.stdout.isatty())
    elif format_ == "json":
        results.write_json(database, query, sink)
    elif format_ == "parquet":
        results.write_parquet(database, query, sink)
    else:
        _print_table(database, query, sink, options)


def _print_table(database: Database, query: Query, sink: IO[bytes], options: QueryOptions) -> None:
    from masklake.jobs.query import results
    from masklake.jobs.terminal.tables import plain_console

    limit = options.limit_rows or None
    if options.out is None:
        results.print_table(database, query, plain_console(), limit)
        return
    text = io.TextIOWrapper(sink, encoding="utf-8", write_through=True)
    results.print_table(database, query, plain_console(text), limit)
    text.detach()


def _print_views(lake: Lake, dialect: str) -> None:
    from masklake.jobs.query import ddl, published

    lake.require()
    runs, labels = bool(lake.parts("images")), bool(lake.parts("labels"))
    if dialect == "duckdb":
        sys.stdout.write(published.script(lake.uri, runs=runs, labels=labels))
    else:
        sys.stdout.write(ddl.script(dialect, lake.uri, runs=runs, labels=labels))


def _print_columns() -> None:
    from masklake.jobs.terminal.tables import plain_console, ruled_table
    from masklake.pipeline.lake.lake import SCHEMAS

    console = plain_console()
    for name, schema in SCHEMAS.items():
        table = ruled_table((name, "type", "description"), wrap=True)
        for field in schema:
            table.add_row(field.name, _sql_type(field.type), field.metadata[b"description"].decode())
        console.print(table)
        console.print()


def _sql_type(type_: Any) -> str:
    """An Arrow type as DuckDB shows it."""
    import pyarrow as pa

    if pa.types.is_dictionary(type_):
        return _sql_type(type_.value_type)
    if pa.types.is_struct(type_):
        return "struct({})".format(", ".join(f"{field.name} {_sql_type(field.type)}" for field in type_))
    if pa.types.is_fixed_size_list(type_) or pa.types.is_list(type_):
        return _sql_type(type_.value_type) + "[]"
    if pa.types.is_timestamp(type_):
        return "timestamptz"
    names = {"string": "varchar", "int64": "bigint", "int32": "integer", "int8": "tinyint", "bool": "boolean"}
    return names.get(str(type_), str(type_))
