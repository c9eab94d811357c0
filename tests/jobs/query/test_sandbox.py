"""SQL over a lake reads the lake's views, and nothing else, and writes nothing."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from masklake.jobs.query.condition import blaming, require_condition
from masklake.jobs.query.database import Database
from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.storage.store import Storage

from tests.helpers.lakes import LakeBuilder, instance

RUN = "20261101T000000-aaaaaa"
a_python_table = pa.table({"secret": [1]})

READS_FILES = [
    "from '{dir}/secret.csv'",
    "select * from '{dir}/secret.parquet'",
    "from \"{dir}/secret.csv\"",
    "describe '{dir}/secret.csv'",
    "summarize '{dir}/secret.csv'",
    "from read_csv('{dir}/secret.csv')",
    "from read_csv_auto('{dir}/secret.csv')",
    "from read_text('{dir}/secret.csv')",
    "from read_blob('{dir}/secret.csv')",
    "from read_json('{dir}/secret.csv')",
    "from read_ndjson_objects('{dir}/secret.csv')",
    "from read_parquet('{dir}/secret.parquet')",
    "from parquet_scan(['{dir}/secret.parquet'])",
    "from parquet_metadata('{dir}/secret.parquet')",
    "from parquet_schema('{dir}/secret.parquet')",
    "from parquet_kv_metadata('{dir}/secret.parquet')",
    "from parquet_file_metadata('{dir}/secret.parquet')",
    "from sniff_csv('{dir}/secret.csv')",
    "from glob('{dir}/*')",
    "from read_duckdb('{dir}/secret.db')",
    "from query('from read_text(''{dir}/secret.csv'')')",
    "from query_table('{dir}/secret.csv')",
    "from json_execute_serialized_sql(json_serialize_sql('from read_text(''{dir}/secret.csv'')'))",
    "from images, read_text('{dir}/secret.csv')",
    "select (select content from read_text('{dir}/secret.csv'))",
    "select * from images where uri in (select content from read_text('{dir}/secret.csv'))",
    "from images limit (select count(*) from read_text('{dir}/secret.csv'))",
    "from images order by (select content from read_text('{dir}/secret.csv'))",
    "with t as (from '{dir}/secret.csv') from t",
    "with \"{dir}/secret.csv\" as (from '{dir}/secret.csv') from \"{dir}/secret.csv\"",
    "with recursive \"{dir}/secret.csv\"(a) as (from '{dir}/secret.csv' union all select 1) from \"{dir}/secret.csv\"",
    "select 1 union all from read_text('{dir}/secret.csv')",
    "from (pivot read_csv('{dir}/secret.csv') on secret in (1) using count(*))",
    "from images tablesample reservoir(10 rows), '{dir}/secret.csv'",
    "select [x for x in (select list(content) from read_text('{dir}/secret.csv'))]",
    "from images at (version => (select 1 from read_text('{dir}/secret.csv')))",
    "explain analyze from read_text('{dir}/secret.csv')",
    "explain from '{dir}/secret.csv'",
    "from read_text('masklake://lake/instances/../../secret.csv')",
    "from read_text('masklake://lake/runs/{run}/run.json')",
    "from read_text('file://{dir}/secret.csv')",
    "from read_csv('http://127.0.0.1:9/x.csv')",
    "from 's3://bucket/key.parquet'",
    "attach '{dir}/secret.db'",
    "attach '{dir}/secret.db' as other (read_only)",
    "import database '{dir}'",
    "pragma import_database('{dir}')",
    "install httpfs",
    "load httpfs",
    "load '{dir}/secret.db'",
    "install httpfs from community",
]  # fmt: skip

WRITES_FILES = [
    "copy images to '{dir}/out.csv'",
    "copy (from images) to '{dir}/out.parquet'",
    "copy images to '{dir}/out.json' (format json)",
    "copy (select 1) to '/dev/stdout'",
    "copy images to 'masklake://lake/images/run={run}/part-9.parquet'",
    "with x as (copy images to '{dir}/out.csv') from x",
    "with recursive x as (copy images to '{dir}/out.csv') from x",
    "explain analyze copy images to '{dir}/out.csv'",
    "explain analyze with x as (copy images to '{dir}/out.csv') from x",
    "export database '{dir}/out'",
    "attach '{dir}/out.db'",
    "pragma profile_output = '{dir}/out.json'",
    "set log_query_path = '{dir}/out.log'",
]

CHANGES_THE_ENGINE = [
    "set enable_external_access = true",
    "set global enable_external_access = true",
    "reset enable_external_access",
    "set allowed_paths = ['{dir}/secret.csv']",
    "set allowed_directories = ['{dir}']",
    "set lock_configuration = false",
    "set python_enable_replacements = true",
    "set memory_limit = '1TB'",
    "set temp_directory = '{dir}'",
    "set secret_directory = '{dir}'",
    "set variable a = 1",
    "pragma enable_external_access",
    "pragma enable_profiling",
    "pragma database_list",
    "pragma version",
    "call enable_logging()",
    "from enable_logging()",
    "from enable_profiling()",
    "from checkpoint()",
    "from force_checkpoint()",
    "from truncate_duckdb_logs()",
    "from register_external_resource('x', 'y')",
    "create table t as select 1",
    "create or replace view images as select 1",
    "create temp view t as select 1",
    "create macro f() as 1",
    "create schema t",
    "create sequence t",
    "create type t as enum ('a')",
    "create secret s (type s3, key_id 'a', secret 'b')",
    "create persistent secret s (type s3)",
    "drop view images",
    "alter view images rename to x",
    "insert into images select * from images",
    "with x as (insert into runs select * from runs returning *) from x",
    "with x as (delete from runs returning *) from x",
    "with x as (update runs set state = 'x' returning *) from x",
    "delete from runs",
    "update runs set state = 'complete'",
    "truncate runs",
    "merge into runs using runs r on runs.run = r.run when matched then delete",
    "begin",
    "begin; drop view images; commit",
    "commit",
    "checkpoint",
    "vacuum",
    "analyze",
    "use memory",
    "detach memory",
    "prepare p as from images",
    "execute p",
    "deallocate p",
    "call pragma_version()",
    "pivot images on status using count(*)",
    "select nextval('t')",
    "select setval('t', 1)",
    "select write_log('x')",
]

SEES_MORE_THAN_THE_VIEWS = [
    "from a_python_table",
    "from Path",
    "with a_python_table as (from a_python_table) from a_python_table",
    "from arrow_scan(1, 2, 3)",
    "from arrow_scan_dumb(1, 2, 3)",
    "from python_arrow_scan(1)",
    "from pandas_scan(1)",
    "from python_map_function(1)",
    "from seq_scan()",
    "from duckdb_secrets()",
    "from duckdb_settings()",
    "from duckdb_views()",
    "from duckdb_logs()",
    "from duckdb_variables()",
    "from duckdb_databases()",
    "from duckdb_temporary_files()",
    "from duckdb_external_file_cache()",
    "from which_secret('s3://x', 's3')",
    "from duckdb_settings",
    "from duckdb_views",
    "with duckdb_settings as (from duckdb_settings) from duckdb_settings",
    "with recursive duckdb_views(a) as (select view_name from duckdb_views union all select 'x') from duckdb_views",
    "from information_schema.tables",
    "from pg_catalog.pg_settings",
    "from pg_settings",
    "from sqlite_master",
    "from memory.main.images",
    "from own.replaced",
    "from own.footers",
    "from system.information_schema.tables",
    "show memory_limit",
    "show all tables",
    "show databases",
    "show tables from own",
    "describe own.footers",
    "select getenv('HOME')",
    "select main.getenv('HOME')",
    "select current_setting('temp_directory')",
    "select system.main.current_setting('home_directory')",
    "select getvariable('x')",
    "select current_query()",
    "select json_serialize_plan('from images')",
    "select __internal_decompress_string(1::ubigint)",
    "select finalize('abc'::blob)",
    "from test_all_types()",
    "from repeat_row(1, num_rows = 10)",
    "from pragma_database_size()",
    "from pragma_user_agent()",
    "from main.range(3)",
]

NOT_ONE_STATEMENT = ["", "  ", "-- nothing", ";", "select 1; select 2", "from images; from runs;"]

ATTACKS = READS_FILES + WRITES_FILES + CHANGES_THE_ENGINE + SEES_MORE_THAN_THE_VIEWS + NOT_ONE_STATEMENT

ALLOWED = [
    "select 1",
    "SELECT count(*) FROM images;",
    "/* why */ select 1 -- because; of this",
    "from images",
    "from main.images",
    'from "IMAGES"',
    "table images",
    "values (1), (2)",
    "describe images",
    "describe select uri, score from instances",
    "desc instances",
    "show tables",
    "summarize instances",
    "explain from images",
    "EXPLAIN ANALYZE select count(*) from images",
    "explain /* how */ select 1",
    "with t as (from images) from t",
    "with images as (select 1 as x) select x from images",
    "with t as materialized (from images), u as (from t) select * from t join u using (uri)",
    "with recursive t(n) as (select 1 union all select n + 1 from t where n < 5) from t",
    "with recursive t(n) as (select 1), u as (from t) from u",
    "select (with t as (select 1 as x) select x from t)",
    "from images union all by name from errors",
    "from (from images intersect from images)",
    "from range(3) t(i) cross join unnest(['a', 'b'])",
    "select * from generate_series(1, 3)",
    "select uri, k.name from (select uri, unnest(keypoints) as k from instances)",
    "select i.uri, k.unnest.x from instances i, unnest(i.keypoints) k",
    "select [k.x for k in keypoints if k.score > 0] from instances where keypoints is not null",
    "select list_transform(keypoints, lambda k: k.y) from instances",
    "select columns('^[xywh]$') from instances",
    "select * exclude (mask) replace (score * 100 as score) from instances",
    "from (pivot instances on label in ('dog', 'cat') using count(*))",
    "from (unpivot (select x, y from instances) on x, y)",
    "unpivot (select x, y from instances) on x, y",
    "select label, count(*) over (partition by uri order by score) from instances qualify row_number() over () = 1",
    "select label, count(*) filter (where score > .5) from instances group by all order by all",
    "from instances tablesample 50%",
    "from images i join instances n using (run, image_id)",
    "from images semi join instances using (image_id)",
    "from images asof join runs on images.processed_at >= runs.created_at",
    "select case when exists (from errors) then 'bad' else 'good' end",
    "select json_extract(record, '$.options') from runs",
    "select * from runs, json_each(record)",
    "select regexp_extract(uri, '[^/]+$'), strftime(processed_at, '%Y'), now() from images",
    "select md5(uri), hash(uri), random(), uuid() from images",
    "select label, approx_quantile(score, .9), histogram(score), arg_max(uri, score) from instances group by 1",
    "select 'insert into images; copy' as text",
]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    builder = LakeBuilder(str(tmp_path / "lake"))
    builder.part(RUN, {"s3://p/a.jpg": [instance("person", 0.9), instance("dog", 0.5)], "s3://p/b.jpg": []})
    builder.record(RUN)
    return Lake(builder.uri, Storage())


@pytest.fixture
def database(lake: Lake) -> Iterator[Database]:
    with Database(lake) as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with files that no query may read, and into which none may write."""
    folder = tmp_path / "private"
    folder.mkdir()
    word = secrets.token_hex(8)
    (folder / "secret.csv").write_text(f"secret\n{word}\n")
    with duckdb.connect(str(folder / "secret.db")) as connection:
        connection.execute("create table secret as select 1")
        connection.execute(f"copy (select '{word}' as secret) to '{folder}/secret.parquet'")
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_may_not_run_is_refused(database: Database, folder: Path, tmp_path: Path, attack: str) -> None:
    before = contents(tmp_path)
    with pytest.raises(UserError) as refusal:
        database.prepare(attack.replace("{dir}", str(folder)).replace("{run}", RUN))
    assert contents(tmp_path) == before
    assert "\n" not in str(refusal.value)
    assert [len(database.rows("from images")), len(database.rows("from runs"))] == [2, 1]


@pytest.mark.parametrize(
    "form", ["{sql}", "exists ({sql})", "true) or exists ({sql}) or (true", "true); {sql}; select (true"]
)
def test_what_may_not_run_is_no_condition_either(
    database: Database, folder: Path, tmp_path: Path, form: str
) -> None:
    """`--where` of `view`, `export` and the gallery's server."""
    before = contents(tmp_path)
    for attack in ATTACKS:
        sql = form.replace("{sql}", attack).replace("{dir}", str(folder)).replace("{run}", RUN)
        with pytest.raises(UserError, match="--where"), blaming(database, sql):
            require_condition(database, sql)
            database.rows(f"from images natural join instances where (\n{sql}\n)")
            pytest.fail(f"not refused: {sql}")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("attack", READS_FILES + WRITES_FILES)
def test_files_are_out_of_reach_even_for_a_statement_that_is_not_checked(
    database: Database, folder: Path, tmp_path: Path, attack: str
) -> None:
    database.prepare("from images join runs using (run)")
    before = contents(tmp_path)
    word = (folder / "secret.csv").read_text().split()[1]
    try:
        rows = database.connection.execute(
            attack.replace("{dir}", str(folder)).replace("{run}", RUN)
        ).fetchall()
    except duckdb.Error:
        rows = []
    assert word not in str(rows)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("query", ALLOWED)
def test_what_only_reads_may_run(database: Database, query: str) -> None:
    prepared = database.prepare(query)
    text = prepared.text if prepared.explain else f"select count(*) from (\n{prepared.text}\n)"
    with database.explaining():
        assert database.relation(text).fetchall()


def test_a_name_of_a_with_clause_hides_a_table_only_where_sql_says_so(database: Database) -> None:
    assert database.rows("with images as (select 7 as x) from images") == [(7,)]
    # Inside its own definition the name still means the table.
    assert len(database.rows("with images as (select uri from images) from images")) == 2
    assert database.prepare("with images as (select 7 as x) from images").tables == frozenset()
    assert database.prepare("with images as (from images) from images").tables == {"images"}


def test_the_sandbox_cannot_be_opened_from_inside(database: Database) -> None:
    settings = dict(
        database.connection.execute(
            "select name, value from duckdb_settings() where name in ('enable_external_access', 'lock_configuration', "
            "'autoload_known_extensions', 'autoinstall_known_extensions', 'python_enable_replacements')"
        ).fetchall()
    )
    assert settings == {
        "enable_external_access": "false",
        "lock_configuration": "true",
        "autoload_known_extensions": "false",
        "autoinstall_known_extensions": "false",
        "python_enable_replacements": "false",
    }
    with pytest.raises(duckdb.Error):
        database.connection.execute("set enable_external_access = true")


def test_large_sorts_spill_into_a_private_folder_that_goes_away(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("masklake.jobs.query.database.MEMORY", "40MB")
    with Database(lake) as database:
        [(spill,)] = database.connection.execute("select current_setting('temp_directory')").fetchall()
        assert Path(spill).stat().st_mode & 0o077 == 0
        relation = database.relation(
            "select hash(i) as h, i::varchar as s from range(2_000_000) t(i) order by h"
        )
        with database.explaining():
            reader = relation.to_arrow_reader(1000)
            reader.read_next_batch()
            assert list(Path(spill).iterdir())
            del reader
    assert not Path(spill).exists()


@pytest.mark.parametrize(
    ("sql", "answer"),
    [
        (
            "select st_area('a')",
            'Catalog Error: .*"st_area" is of DuckDB\'s extension spatial, and a query .* without extensions$',
        ),
        (
            "select 'x'::inet",
            "Catalog Error: .* is of DuckDB's extension inet, and a query .* without extensions$",
        ),
        ("select " + "+".join(["1"] * 2000), "depth limit of 1000 exceeded; write it with less nesting"),
        ("select 'a' || 1 + sum('x'::varchar)", "No function matches the given name and argument types"),
        (
            "select list(r) from range(20000000) t(r)",
            "Out of Memory Error: .* used\\); ask for less at a time: a WHERE, ",
        ),
        ("select lable from (select 1 as label)", 'Candidate bindings: "label"'),
    ],
)
def test_duckdbs_advice_is_left_out_where_it_may_not_be_followed(sql: str, answer: str) -> None:
    from masklake.jobs.query.sandbox import SETTINGS, message

    with duckdb.connect(config={**SETTINGS, "memory_limit": "60MB", "threads": 1}) as connection:
        connection.execute("set enable_external_access = false")
        with pytest.raises(duckdb.Error) as refused:
            connection.execute(sql).fetchall()
    told = message(refused.value)
    assert re.search(answer, told)
    assert not re.search(r"INSTALL|LOAD|PRAGMA|\bSET\b", told)
    assert len(told) < 400


ENDLESS = [
    "select count(*) from range(1_000_000_000) a, range(1_000_000_000) b",
    "select sum(a.range * b.range) from range(1_000_000_000_000) a, range(1_000_000_000) b where a.range % 7 = b.range % 5",
    "with recursive t(n) as (select 1 union all select n + 1 from t) select max(n) from t",
    "with recursive t(n) as (select 1 union select (n * 7::bigint) % 1_000_000_007 from t) select count(*) from t",
    "select count(*) from images a, images b, images c, range(1_000_000_000_000) d",
    "select sum(length(repeat(uri, 100_000))) from images, range(1_000_000_000)",
    "select count(distinct i) from range(1_000_000_000_000) t(i)",
    "select max(row_number) from (select row_number() over (partition by i % 3 order by hash(i)) as row_number "
    "from range(100_000_000_000) t(i))",
    "select sleep_ms(1_000_000_000)",
    "select max(regexp_replace(repeat('a', 1_000_000) || i, '(a*)*$', 'b', 'g')) from range(1_000_000_000) t(i)",
    "from range(1_000_000_000_000)",
    "select list(i) from range(1_000_000_000_000) t(i)",
    "select repeat('x', 1_000_000_000_000)",
]


@pytest.mark.parametrize("bomb", ENDLESS)
def test_what_would_never_end_ends(lake: Lake, bomb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By time, or by memory and what it may spill; the next query is as ever."""
    monkeypatch.setattr("masklake.jobs.query.database.MEMORY", "200MB")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100_000_000}))
    with Database(lake, seconds=1) as database:
        relation = database.relation(database.prepare(bomb).text)
        ends = r"longer than 1 seconds|ask for less|maximum supported string size"
        with pytest.raises(UserError, match=ends), database.explaining():
            for _ in relation.to_arrow_reader(10_000):
                pass
        assert len(database.rows("from images")) == 2


@pytest.mark.parametrize(
    "name",
    ["read_text", "arrow_scan"],
)
def test_a_condition_is_no_other_door(lake: Lake, folder: Path, name: str) -> None:
    """--where of an export cannot leave its parentheses, nor reach more from inside."""
    from masklake.jobs.export.source import ExportSelection, Source

    word = (folder / "secret.csv").read_text().split()[1]
    for where in (
        f"exists (from {name}('{folder}/secret.csv'))",
        f"true) union all (select * from {name}('{folder}/secret.csv')",
        f"true) from {name}('{folder}/secret.csv') --",
        f"uri in (select content from {name}('{folder}/secret.csv'))",
        f"true); copy (select 1) to '{folder}/out.csv'; select (true",
        f"getenv('HOME') = '' or {name}('x') is null",
        "current_setting('home_directory') = 'x'",
        "exists (from a_python_table)",
        "true /* ",
    ):
        with Database(lake) as database, pytest.raises(UserError) as refusal:
            Source(database, ExportSelection(where=where))
        assert word not in str(refusal.value)
    assert not (folder / "out.csv").exists()


def test_an_error_in_the_midst_of_a_result_is_told_as_any_other(database: Database) -> None:
    sql = "select if(i = 1_000_000, error('no such thing'), 'x') from range(2_000_000) t(i)"
    relation = database.relation(database.prepare(sql).text)
    with pytest.raises(UserError, match="no such thing"), database.explaining():
        for _ in relation.to_arrow_reader(10_000):
            pass
