"""DDL for Athena and Spark: column by column the contract, in SQL that another parser understands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
import sqlglot
from masklake.jobs.query.database import VIEWS
from masklake.jobs.query.ddl import script
from masklake.jobs.query.options import DIALECTS
from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.lake import SCHEMAS
from sqlglot import exp

from tests.helpers.lakes import LakeBuilder, instance, label_row

Run = Callable[..., tuple[int, str, str]]
KINDS = {
    "VARCHAR": "string", "TEXT": "string", "BIGINT": "int64", "INT": "int32", "TINYINT": "int8", "FLOAT": "float",
    "DOUBLE": "double", "BOOLEAN": "bool", "TIMESTAMP": "timestamp[us, tz=UTC]", "TIMESTAMPTZ": "timestamp[us, tz=UTC]",
}  # fmt: skip
"""sqlglot's types in Arrow's words."""


def tables(dialect: str) -> dict[str, exp.Create]:
    text = script(dialect, "s3://lake/a")
    statements = [
        s for s in sqlglot.parse(text, dialect=dialect) if isinstance(s, exp.Create) and s.kind == "TABLE"
    ]
    return {statement.find(exp.Table).name: statement for statement in statements}


def columns(statement: exp.Create) -> dict[str, exp.DataType]:
    own = {column.name: column.kind for column in statement.this.expressions}
    partition = statement.find(exp.PartitionedByProperty)
    if partition is not None:
        own |= {c.name: c.kind for c in partition.find_all(exp.ColumnDef)}
    return own


def plain(kind: exp.DataType) -> Any:
    """Names of scalars; structs as dicts, arrays as lists."""
    if kind.this == exp.DataType.Type.STRUCT:
        return {field.name: plain(field.args["kind"]) for field in kind.expressions}
    if kind.this == exp.DataType.Type.ARRAY:
        return [plain(kind.expressions[0])]
    return KINDS[kind.this.value]


def of_arrow(type_: pa.DataType) -> Any:
    if pa.types.is_dictionary(type_):
        return of_arrow(type_.value_type)
    if pa.types.is_struct(type_):
        return {field.name: of_arrow(field.type) for field in type_}
    if pa.types.is_list(type_) or pa.types.is_fixed_size_list(type_):
        return [of_arrow(type_.value_type)]
    return str(type_)


@pytest.mark.parametrize("dialect", ["athena", "spark"])
@pytest.mark.parametrize("table", SCHEMAS)
def test_the_columns_are_those_of_the_contract(dialect: str, table: str) -> None:
    statement = tables(dialect)[f"raw_{table}"]
    expected = {field.name: of_arrow(field.type) for field in SCHEMAS[table]}
    assert {name: plain(kind) for name, kind in columns(statement).items()} == expected
    location = statement.find(exp.LocationProperty)
    assert location is not None
    assert location.this.name == f"{'s3a' if dialect == 'spark' else 's3'}://lake/a/{table}/"
    assert bool(statement.find(exp.PartitionedByProperty)) == ("run" in expected)


@pytest.mark.parametrize("dialect", ["athena", "spark"])
def test_views_read_only_what_is_there(dialect: str) -> None:
    text = script(dialect, "s3://lake")
    parsed = [s for s in sqlglot.parse(text, dialect=dialect) if isinstance(s, exp.Create)]
    names = {s.find(exp.Table).name for s in parsed}
    views = {s.find(exp.Table).name: s for s in parsed if s.kind == "VIEW"}
    assert {*VIEWS} - {"runs"} <= views.keys()
    for view in views.values():
        assert {table.name for table in view.expression.find_all(exp.Table)} <= names
    for table, schema in SCHEMAS.items():
        for view_name in (table, f"all_{table}"):
            assert views[view_name].expression.named_selects == schema.names


def test_the_command_prints_what_the_lake_has(masklake: Run, tmp_path: Any) -> None:
    lake = LakeBuilder(str(tmp_path / "lake"))
    lake.labels([label_row("s3://p/a.jpg", "dog")])
    assert "all_images" not in masklake("query", lake.uri, "--ddl", "spark")[1]
    lake.part("20261101T000000-aaaaaa", {"s3://p/a.jpg": [instance("dog", 0.9)]})
    for dialect in DIALECTS:
        code, out, err = masklake("query", lake.uri, "--ddl", dialect)
        assert (code, "all_images" in out) == ((2, False) if dialect == "athena" else (0, True)), err
    assert "Athena reads S3 only" in masklake("query", lake.uri, "--ddl", "athena")[2]


def test_a_location_is_never_sql() -> None:
    for name in ("it's", "it\rdrop", "it\ndrop"):
        with pytest.raises(UserError, match="cannot be written as a location"):
            script("spark", f"s3://lake/{name}")


def test_other_clouds_are_sparks_alone() -> None:
    assert "location 'gs://lake/images/'" in script("spark", "gs://lake")
    with pytest.raises(UserError, match="Athena reads S3 only"):
        script("athena", "gs://lake")
