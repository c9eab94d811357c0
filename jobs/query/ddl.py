"""The tables of a lake as DDL: for Athena and Spark, whose SQL says which rows count as `published` says it for DuckDB.

The columns are those of the contract (`masklake.pipeline.schema`); `run`, which is in the path, is the partition.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.lake import SCHEMAS

_LONGEST_COMMENT = 255
"""Of AWS Glue's catalog, which keeps Athena's tables."""
_SCALARS = {
    "string": "string", "int64": "bigint", "int32": "int", "int8": "tinyint", "float": "float", "double": "double", "bool": "boolean",
}  # fmt: skip
"""Hive's names, which Athena and Spark share."""


@dataclass(frozen=True)
class _Dialect:
    name: str
    create: str
    """Of one table: {table}, {columns}, {partition}, {location}."""
    separator: str
    """Between the name and the type of a struct's field."""
    file: str
    """The run and the name of a row's file, from the hidden column of its path."""
    s3: str
    """The scheme of locations in S3."""


_ATHENA = _Dialect(
    name="Athena",
    create="create external table if not exists raw_{table} (\n{columns}\n)\n{partition}stored as parquet\nlocation '{location}';\n",
    separator=":",
    file="regexp_extract(\"$path\", 'run=[^/]+/[^/]+$')",
    s3="s3",
)
_SPARK = _Dialect(
    name="Spark",
    create="create table if not exists raw_{table} (\n{columns}\n)\nusing parquet\n{partition}location '{location}';\n",
    separator=": ",
    file="regexp_extract(_metadata.file_path, 'run=[^/]+/[^/]+$', 0)",
    s3="s3a",
)

_NEW_RUNS = """\
-- Again after each new run:
msck repair table raw_images;
msck repair table raw_instances;

"""
_VIEWS = """\
-- An images part is the commit: one atomic write. While `masklake compact` exchanges parts, an image may be in two for some seconds.
create or replace view part_of_image as
select {images}, part from (
    select *, {file} as part, row_number() over (partition by run, image_id order by {file} desc) as place
    from raw_images
) every_part where place = 1;
create or replace view all_images as select {images} from part_of_image;

-- An instance counts when its image is in the part of images of the same run and name.
create or replace view all_instances as
select {instances_i} from (select *, {file} as part from raw_instances) i
join part_of_image p on i.run = p.run and i.image_id = p.image_id and i.part = p.part;

-- Of each image the newest run counts; ids of runs sort by time.
create or replace view images as
select {images} from (select *, max(run) over (partition by uri) as newest from all_images) every_run where run = newest;
create or replace view instances as
select {instances_i} from all_instances i join images m on i.run = m.run and i.image_id = m.image_id;
create or replace view errors as select * from images where status <> 'ok';
"""
_LABEL_VIEWS = """\
-- Of each image the newest label set counts. Instance -1 is an image that was looked at and holds nothing.
create or replace view all_labels as select {labels} from raw_labels;
create or replace view newest_labels as
select * from (select *, max(labelled_at) over (partition by uri) as newest from all_labels) every_set
where labelled_at = newest;
create or replace view labels as select {labels} from newest_labels where instance >= 0;
create or replace view labelled as
select uri, max(width) as width, max(height) as height, count_if(instance >= 0) as n_instances, max(source) as source,
    max(split) as split, labelled_at
from newest_labels group by uri, labelled_at;
"""


def script(dialect: str, lake: str, *, runs: bool = True, labels: bool = True) -> str:
    """The statements that make the tables and views of `lake`, a normalised URI, in `athena` or `spark`.

    Raises UserError for a lake that lies where the engine cannot read.
    """
    words = {"athena": _ATHENA, "spark": _SPARK}[dialect]
    protocol, separator, rest = lake.partition("://")
    if protocol != "s3" and words is _ATHENA:
        raise UserError(f"{lake}: Athena reads S3 only; copy the lake there, or use --ddl spark or duckdb")
    root = f"{words.s3 if protocol == 's3' else protocol}://{rest}" if separator else lake
    if not {"'", "\\", "\n", "\r"}.isdisjoint(root):
        raise UserError(
            f"{lake}: a quote, a backslash or a line break in its name cannot be written as a location"
        )
    text = f"-- The lake {root} for {words.name}.\n\n"
    if runs:
        text += "".join(_table(words, table, root) for table in ("images", "instances"))
        text += _NEW_RUNS
        text += _VIEWS.format(images=_names("images"), instances_i=_names("instances", "i."), file=words.file)
    if labels:
        text += (
            ("\n" if runs else "")
            + _table(words, "labels", root)
            + _LABEL_VIEWS.format(labels=_names("labels"))
        )
    return text


def sql_type(type_: pa.DataType, *, separator: str = ":") -> str:
    """An Arrow type of the contract in the words of Hive."""
    if pa.types.is_dictionary(type_):
        return sql_type(type_.value_type, separator=separator)
    if pa.types.is_struct(type_):
        fields = (f"{field.name}{separator}{sql_type(field.type, separator=separator)}" for field in type_)
        return f"struct<{', '.join(fields) if ' ' in separator else ','.join(fields)}>"
    if pa.types.is_list(type_) or pa.types.is_fixed_size_list(type_):
        return f"array<{sql_type(type_.value_type, separator=separator)}>"
    if pa.types.is_timestamp(type_):
        return "timestamp"
    return _SCALARS[str(type_)]


def _table(words: _Dialect, table: str, root: str) -> str:
    schema = SCHEMAS[table]
    partitioned = "run" in schema.names
    comments = {field.name: _comment(field) for field in schema}
    inside = [f for f in schema if not (partitioned and f.name == "run" and words is _ATHENA)]
    columns = ",\n".join(
        f"  `{f.name}` {sql_type(f.type, separator=words.separator)} comment '{comments[f.name]}'"
        for f in inside
    )
    partition = ""
    if partitioned:
        partition = "partitioned by (`run` string)\n" if words is _ATHENA else "partitioned by (`run`)\n"
    return (
        words.create.format(table=table, columns=columns, partition=partition, location=f"{root}/{table}/")
        + "\n"
    )


def _comment(field: pa.Field) -> str:
    text = field.metadata[b"description"].decode().replace("'", "’").replace("\\", "/")
    return text if len(text) <= _LONGEST_COMMENT else text[: _LONGEST_COMMENT - 1] + "…"


def _names(table: str, prefix: str = "") -> str:
    return ", ".join(prefix + name for name in SCHEMAS[table].names)
