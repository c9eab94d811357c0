"""SQL over a lake: DuckDB with the lake's tables as views; it can read them and nothing else.

The views are `images`, `instances`, `labels`, `labelled` (a row per labelled image), `errors` (images that did
not end ok) and `runs`; the newest run of each image, and the newest label set, unless one run is chosen.
`all_images`, `all_instances` and `all_labels` hold every run and label set.
"""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb
from masklake.jobs.query import functions, published
from masklake.jobs.query.attached import READERS, AttachedFile
from masklake.jobs.query.explaining import Explaining
from masklake.jobs.query.lake_files import ROOT, LakeFiles
from masklake.jobs.query.literals import literal
from masklake.jobs.query.runs_table import MAKE_RUNS, runs_table
from masklake.jobs.query.sandbox import SETTINGS, Query, check, message
from masklake.jobs.query.uri_ranges import UriRange, overlapping
from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.lake import SCHEMAS, Lake, Part, require_version
from masklake.pipeline.lake.part_summary import PartSummary
from masklake.pipeline.lake.row_pack import packed
from masklake.pipeline.schema import VERSION_KEY
from masklake.pipeline.storage.explain import explain
from masklake.pipeline.storage.store import join

MEMORY = "60%"
"""Of the machine's or container's memory; beyond it queries spill to disk. Python and Arrow need the rest."""

REMOTE_THREADS = 32
"""Footers and columns of a remote lake are read by the query's threads, which then mostly wait. At 20 ms a request,
a query over 200 parts took 5.2 s with 2 threads and 0.6 s with 32."""

FOOTERS_KEPT = 20_000
"""Up to so many parts of images their footers are kept, at 23 kB each; of 100,000 parts they would take 2.3 GB a table."""

# What each view is made from.
_SOURCES = {
    "images": "all_images",
    "instances": "all_instances",
    "errors": "images",
    "labels": "all_labels",
    "labelled": "all_labels",
}
VIEWS = (*_SOURCES, "runs", "all_images", "all_instances", "all_labels")

_VERSIONS = "select decode(value), min(file_name) from parquet_kv_metadata({}) where key = ? group by 1"
_URI_RANGES = """
    select split_part(split_part(file_name, '/run=', 2), '/', 1) as run,
        if(count(*) > count(stats_min_value), null, min(stats_min_value)),
        if(count(*) > count(stats_max_value), null, max(stats_max_value))
    from own.statistics where path_in_schema = 'uri' and row_group_num_rows > 0 group by run
"""
_REPLACED = """
    create table own.replaced as
    select i.run, i.image_id from own.overlapping i
    join (select uri, max(run) as run from own.overlapping group by uri having min(run) < max(run)) newest
    on i.uri = newest.uri and i.run < newest.run
"""
_REPLACED_BY_RUN = """
    select run, count(*), (select count(*) from own.overlapping o where o.run = r.run) from own.replaced r group by run
"""


class Database:
    """A lake opened for SQL. `run` restricts every view but those of labels to one run: an id, or `last`. Each file of `attach`
    is a table beside the views. `seconds` is how long a query may take, its reading included; None for no end.

    Use as a context manager. Raises UserError when the lake cannot be read.
    """

    def __init__(
        self,
        lake: Lake,
        *,
        run: str | None = None,
        attach: Sequence[AttachedFile] = (),
        seconds: float | None = None,
    ) -> None:
        lake.require()
        self.lake = lake
        self.seconds = seconds
        self._run = None if run is None else lake.resolve(run)
        self._attached = [file.name for file in attach]
        self._made_views = set(self._attached)
        self._files: LakeFiles | None = None
        # Large sorts and joins spill here; DuckDB would take a folder of the working directory.
        self._spill = tempfile.TemporaryDirectory(prefix="masklake-query-")
        self.connection = duckdb.connect(config={**SETTINGS, "temp_directory": self._spill.name})
        self.connection.execute("set memory_limit = ?", [MEMORY])
        spilled = shutil.disk_usage(self._spill.name).free // 2  # others need the disk too
        self.connection.execute("set max_temp_directory_size = ?", [f"{spilled} bytes"])
        self._remote = "://" in lake.uri
        if self._remote:
            self.connection.execute("set threads = ?", [REMOTE_THREADS])
        self.connection.execute("set timezone = 'UTC'")
        # Footers are read once, for the version check, the pruning of runs and the query itself.
        kept = len(lake.parts("images")) <= FOOTERS_KEPT
        self.connection.execute(f"set parquet_metadata_cache = {kept}")
        self.connection.execute("create schema own")
        functions.add(self.connection)
        for file in attach:
            self._attach(file)
        self.connection.execute("set allowed_directories = ['masklake://lake/']")
        self.connection.execute("set enable_external_access = false")
        self.connection.execute("set lock_configuration = true")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, type_: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.connection.close()
        self._spill.cleanup()

    def prepare(self, sql: str) -> Query:
        """The one statement in `sql`, with the views that it reads in place.

        Raises UserError when it is not a single statement that only reads views.
        """
        with self.explaining():
            query = check(self.connection, sql, (*VIEWS, *self._attached))
            for view in sorted(query.tables):
                self._make(view)
        return query

    def relation(self, text: str) -> duckdb.DuckDBPyRelation:
        """`text`, checked SQL or SQL around it, as a relation that runs when it is read; read it in `explaining`."""
        with self.explaining():
            return self.connection.sql(text)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of the one statement in `sql`, with Python values."""
        text = self.prepare(sql).text
        with self.explaining():
            # By way of Arrow: DuckDB's own rows need pytz where a timestamp has a time zone.
            table = self.relation(text).to_arrow_table()
        return list(zip(*(column.to_pylist() for column in table.columns), strict=True))

    def hold(self, name: str, sql: str, most: int) -> bool:
        """Keep the rows of `sql` in a table beside the views, if they are at most `most`; whether they are."""
        text = self.prepare(f"{sql} limit {most + 1}").text
        with self.explaining():
            self._execute(f'create table "{name}" as {text}')
            ((rows,),) = self._execute(
                "select estimated_size from duckdb_tables() where table_name = ?", name
            )
            if rows > most:
                self._execute(f'drop table "{name}"')
                return False
        self._attached.append(name)
        self._made_views.add(name)
        return True

    def explaining(self, *, limited: bool = True) -> Explaining:
        """A context that turns DuckDB's errors and those of storage into UserError, and that ends where `limited` and it
        takes too long."""
        return Explaining(self.connection, self.storage_failure, self.seconds if limited else None)

    def storage_failure(self) -> UserError | None:
        """Why a part could not be read, if that is what happened."""
        if self._files is None or self._files.failure is None:
            return None
        path, error = self._files.failure
        uri = join(self.lake.uri, path)
        if isinstance(error, FileNotFoundError):
            return UserError(
                f"{uri}: has gone since the lake was listed (a run, compact or forget is at work there?); query again"
            )
        return explain(error, uri, "read it")

    def _make(self, view: str) -> None:
        if view in self._made_views:
            return
        self._made_views.add(view)
        if view in _SOURCES:
            self._make(_SOURCES[view])
        if view == "runs":
            self._make_runs()
        elif view == "errors":
            self._execute(published.ERRORS)
        elif view == "labels":
            self._execute(published.LABELS)
        elif view == "labelled":
            self._execute(published.LABELLED)
        elif view.startswith("all_"):
            table = view.removeprefix("all_")
            self._scan(view, table, self._parts(table))
        else:
            self._make_newest(view)

    def _execute(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        return self.connection.execute(sql, values).fetchall()

    def _parts(self, table: str) -> list[Part]:
        parts = self.lake.parts(table)
        if table == "labels":
            return parts
        if self._run is not None:
            parts = [part for part in parts if part.run == self._run]
        self.lake.require_readable(dict.fromkeys(part.run for part in parts))
        return parts

    def _uris(self, table: str, parts: Iterable[Part]) -> str:
        """`parts` as an SQL list of file names; with an empty table's file where there are none, and for labels, whose
        parts of older versions lack the newest columns."""
        if self._files is None:
            self._files = LakeFiles(*self.lake.arrow(), keep_open=self._remote)
            self._files.spill = (
                self._spill
            )  # relations outlive this object, and the connection keeps its files
            self.connection.register_filesystem(self._files)
        uris = self._files.serve(parts)
        if not uris or table == "labels":
            from masklake.pipeline.storage.parquet import encode

            empty = encode(SCHEMAS[table].empty_table())
            uris = [*self._files.serve_bytes(f"empty/{table}.parquet", empty), *uris]
        return f"[{', '.join(map(literal, uris))}]"

    def _attach(self, file: AttachedFile) -> None:
        """Make the table of a file, before the connection loses its access to files."""
        place = file.placed(self.lake.storage, Path(self._spill.name))
        try:
            self._execute(f'create table "{file.name}" as from {READERS[file.kind]}(?)', str(place))
        except duckdb.Error as error:
            raise UserError(f"--attach {file.name}: {file.uri}: {message(error)}") from error

    def _scan(self, view: str, table: str, parts: list[Part]) -> None:
        """Make `view` from the files of `parts`, all of some runs, or copies of their rows. The run is taken from the path, so that
        files prune by it."""
        rows, parts = ([], parts) if table == "labels" else packed(self.lake, table, parts)
        uris = self._uris(table, parts)
        self._require_versions(table, parts)
        hive = "true, hive_types_autocast = false" if parts and table != "labels" else "false"
        sources = [
            f"from read_parquet({uris}, hive_partitioning = {hive}, union_by_name = {table == 'labels'})"
        ]
        for packed_rows in rows:
            uris = self._uris(table, [packed_rows.part])
            runs = ", ".join(map(literal, sorted(packed_rows.others)))
            counting = f"where run not in ({runs})" if runs else ""
            sources.append(f"from read_parquet({uris}, hive_partitioning = false) {counting}")
        self._execute(f"create view {view} as {' union all by name '.join(sources)}")

    def _require_versions(self, table: str, parts: list[Part]) -> None:
        """Raises UserError when a newer Masklake wrote one of `parts`; the records of finished runs speak for theirs."""
        unknown = [part for part in parts if part.run not in self._summaries]
        if not unknown:
            return
        for version, path in self._execute(_VERSIONS.format(self._uris(table, unknown)), VERSION_KEY):
            require_version(version, join(self.lake.uri, path.removeprefix(ROOT)))

    @functools.cached_property
    def _summaries(self) -> dict[str, PartSummary]:
        return self.lake.summaries(None if self._run is None else [self._run])

    def _make_runs(self) -> None:
        """Make `runs` from every run.json."""
        table = runs_table(self.lake.runs(None if self._run is None else [self._run]))
        # Row by row, and from Python's values, DuckDB takes a millisecond each.
        self.connection.register("own_rows", table)
        self._execute(MAKE_RUNS)
        self.connection.unregister("own_rows")

    def _make_newest(self, view: str) -> None:
        """Make `images` or `instances`: what no later run has replaced.

        Runs whose images have all been replaced are left out as files, and only what is left of the
        replaced images is joined away, so that the usual lake is a plain scan.
        """
        gone, some = self._replaced
        source = f"all_{view}"
        if gone:
            source = f"own.newest_{view}"
            self._scan(source, view, [part for part in self._parts(view) if part.run not in gone])
        join_away = "anti join own.replaced using (run, image_id)" if some else ""
        self._execute(f"create view {view} as from {source} {join_away}")

    @functools.cached_property
    def _replaced(self) -> tuple[set[str], bool]:
        """Runs whose every image is in a later run, and whether images of other runs are as well.

        The latter are (run, image_id) in the table `own.replaced`.
        """
        parts = self._parts("images")
        overlapping = self._overlapping(parts)
        if not overlapping:
            return set(), False
        self._scan("own.overlapping", "images", [part for part in parts if part.run in overlapping])
        self._execute(_REPLACED)
        counts = self._execute(_REPLACED_BY_RUN)
        gone = {run for run, replaced, images in counts if replaced == images}
        return gone, len(counts) > len(gone)

    def _overlapping(self, parts: list[Part]) -> list[str]:
        """Runs that may share an image with another one, going by the smallest and the largest URI of each.

        Nightly runs over keys that begin with a date share none, and then no row has to be read.
        """
        if len({part.run for part in parts}) < 2:
            return []
        ranges: list[UriRange] = [
            (run, summary.first_uri, summary.last_uri)
            for run, summary in self._summaries.items()
            if summary.first_uri is not None
        ]
        unknown = [part for part in parts if part.run not in self._summaries]
        if unknown:
            self._execute(
                f"create view own.statistics as from parquet_metadata({self._uris('images', unknown)})"
            )
            ranges += self._execute(_URI_RANGES)
        return overlapping(ranges)
