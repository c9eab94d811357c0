"""Iceberg tables over the parts of a lake, by pyiceberg."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.lake import SCHEMAS, Lake, Part
from masklake.pipeline.storage.ahead import ahead
from masklake.pipeline.storage.explain import of_storage
from masklake.pipeline.storage.store import Storage, join, redact

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

LAKE_PROPERTY = "masklake.lake"
_CATALOGS = {"pyiceberg", "sqlalchemy", "thrift"}
"""Packages whose errors are a catalog's; thrift's are Hive's."""
_PROPERTIES = {
    # Files that are new were looked for in the table as it was: a commit on another must not go through.
    "commit.retry.num-retries": "0",
}


@dataclass(frozen=True)
class TableChange:
    """What a table got: files."""

    table: str
    added: int
    removed: int
    files: int


def open_catalog(name: str, lake: Lake, *, uri: str | None, warehouse: str | None) -> Catalog:
    """The catalog `name` of pyiceberg's configuration, or that at `uri`.

    Raises UserError where there is none, or no pyiceberg, and for ways to reach storage that pyiceberg does not have.
    """
    try:
        from pyiceberg.catalog import load_catalog
    except ImportError as error:
        raise UserError(
            f"`masklake catalog` needs pyiceberg ({error}): pip install 'masklake[iceberg]'"
        ) from error
    given = {
        "uri": uri,
        "warehouse": warehouse or (join(lake.uri, "iceberg") if uri else None),
        **_storage_properties(lake.storage),
    }
    with _explaining(f"the catalog {name}"):
        try:
            return load_catalog(name, **{key: value for key, value in given.items() if value is not None})
        except ValueError as error:
            raise UserError(
                f"the catalog {name}: {_text(error)}; configure it in ~/.pyiceberg.yaml, or give --uri sqlite:///FILE"
            ) from error


def _storage_properties(storage: Storage) -> dict[str, str | None]:
    """How pyiceberg reaches S3; it finds the credentials as Arrow does. A catalog does not keep these."""
    if storage.profile or storage.kms_key or storage.requester_pays:
        raise UserError(
            "pyiceberg has no --profile, --kms-key and --requester-pays: set AWS_PROFILE, and the bucket's default key"
        )
    environment = os.environ.get
    endpoint = storage.endpoint_url or environment("AWS_ENDPOINT_URL_S3") or environment("AWS_ENDPOINT_URL")
    region = environment("AWS_REGION") or environment("AWS_DEFAULT_REGION") or "us-east-1"
    return {
        "s3.endpoint": endpoint,
        "s3.region": region if endpoint else None,  # else pyiceberg asks AWS for that of the bucket
        "s3.anonymous": "true" if storage.anonymous else None,
    }


def register(catalog: Catalog, lake: Lake, namespace: str) -> list[TableChange]:
    """Make the tables of the lake hold its parts, and no other files. Raises UserError where that is not possible."""
    with _explaining(f"the namespace {namespace}"):
        catalog.create_namespace_if_not_exists(namespace)
    changes = []
    for name in SCHEMAS:
        parts = {join(lake.uri, part.path): part for part in lake.parts(name)}
        identifier = f"{namespace}.all_{name}"
        with _explaining(f"the table {identifier}"):
            if parts or catalog.table_exists(identifier):
                table = _table(catalog, identifier, lake, SCHEMAS[name])
                changes.append(_update(table, identifier, lake, parts))
    return changes


def plain(type_: pa.DataType) -> pa.DataType:
    """An Arrow type of the contract as Iceberg has it: no dictionaries, no lists of fixed size, no numbers of 8 bits."""
    if pa.types.is_dictionary(type_):
        return plain(type_.value_type)
    if pa.types.is_struct(type_):
        return pa.struct([field.with_type(plain(field.type)) for field in type_])
    if pa.types.is_list(type_) or pa.types.is_fixed_size_list(type_):
        element = type_.value_field
        return pa.list_(pa.field("element", plain(element.type), nullable=element.nullable))
    return pa.int32() if pa.types.is_int8(type_) else type_


def iceberg_schema(schema: pa.Schema) -> pa.Schema:
    """A schema of the contract, from which pyiceberg makes the table's; descriptions become its documentation."""
    return pa.schema([
        pa.field(f.name, plain(f.type), nullable=f.nullable, metadata={b"doc": f.metadata[b"description"]})
        for f in schema
    ])  # fmt: skip


def _table(catalog: Catalog, identifier: str, lake: Lake, schema: pa.Schema) -> Table:
    """The table, made if needed, with all columns of the contract."""
    if not catalog.table_exists(identifier):
        properties = _PROPERTIES | {LAKE_PROPERTY: lake.uri}
        with catalog.create_table_transaction(
            identifier, schema=iceberg_schema(schema), properties=properties
        ) as transaction:
            if "run" in schema.names:
                with transaction.update_spec() as spec:
                    spec.add_identity("run")
    table = catalog.load_table(identifier)
    owner = table.properties.get(LAKE_PROPERTY)
    if owner != lake.uri:
        whose = f"is of the lake {owner}" if owner else "was not made by `masklake catalog`"
        raise UserError(f"the table {identifier}: {whose}; give this lake another --namespace")
    missing = [name for name in schema.names if name not in table.schema().column_names]
    if missing:
        with table.update_schema() as update:
            update.union_by_name(iceberg_schema(schema))
    return table


def _update(table: Table, identifier: str, lake: Lake, parts: Mapping[str, Part]) -> TableChange:
    """Make the table hold the files of `parts` that have rows, in one commit."""
    held = {task.file.file_path: task.file for task in table.scan().plan_files()}
    # A part that was compacted, or from which an image was forgotten, may have the name of an old one.
    gone = {
        uri
        for uri, file in held.items()
        if uri not in parts or parts[uri].size not in (None, file.file_size_in_bytes)
    }
    unknown = [uri for uri in parts if uri not in held or uri in gone]
    row_counts = _row_counts(lake, [parts[uri] for uri in unknown])
    new = [uri for uri, rows in zip(unknown, row_counts, strict=True) if rows]
    if new or gone:
        with table.transaction() as transaction:
            if gone:
                with transaction.update_snapshot().overwrite() as snapshot:
                    for file in gone:
                        snapshot.delete_data_file(held[file])
            if new:
                # None is there already: pyiceberg would read all manifests again to learn it.
                transaction.add_files(new, check_duplicate_files=False)
    return TableChange(identifier, len(new), len(gone), len(held) + len(new) - len(gone))


def _row_counts(lake: Lake, parts: Iterable[Part]) -> Iterator[int]:
    """The rows of each part. Iceberg has no place for one of instances whose images have none: its `run` would be unknown."""
    fs, root = lake.arrow()

    def rows(part: Part) -> int:
        with fs.open_input_file(join(root, part.path)) as file:
            return int(pq.read_metadata(file).num_rows)

    return ahead(rows, parts)


@contextlib.contextmanager
def _explaining(what: str) -> Iterator[None]:
    """Turn what pyiceberg, its catalogs and storages raise into UserError; pyiceberg's own warnings are not for our users."""
    from pyiceberg.exceptions import CommitFailedException

    logger = logging.getLogger("pyiceberg")
    level = logger.level
    logger.setLevel(logging.ERROR)  # "Iceberg does not have a dictionary type", for each column of each file
    try:
        yield
    except CommitFailedException as error:
        raise UserError(
            f"{what}: another changed it meanwhile; run the command again ({_text(error)})"
        ) from error
    except Exception as error:
        if not _of_catalog(error):
            raise
        raise UserError(f"{what}: {type(error).__name__}: {_text(error)}") from error
    finally:
        logger.setLevel(level)


def _of_catalog(error: Exception) -> bool:
    """Whether a catalog, its database or a storage raised it. pyiceberg's errors have no base class."""
    tops = {type_.__module__.partition(".")[0] for type_ in type(error).__mro__}
    return of_storage(error) or isinstance(error, ValueError) or not tops.isdisjoint(_CATALOGS)


def _text(error: Exception) -> str:
    return redact(str(error))
