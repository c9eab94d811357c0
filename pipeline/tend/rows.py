"""Rows of several parts as one part, in the order and with the schema that a run writes."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.lake import SCHEMAS, Lake, Part, require_version
from masklake.pipeline.schema import MODEL_KEY, VERSION_KEY, with_footer
from masklake.pipeline.storage.explain import explain
from masklake.pipeline.storage.store import join

_ORDER = {
    "images": [("image_id", "ascending")],
    "instances": [("label", "ascending"), ("score", "descending"), ("image_id", "ascending")],
    "labels": [("labelled_at", "ascending"), ("uri", "ascending"), ("instance", "ascending")],
}
"""Of instances as `pipeline/segment/write.py` sorts them: statistics of row groups prune by label and score."""


class OddPartsError(Exception):
    """Parts whose rows do not add up, and which are therefore left as they are."""


def read_parts(lake: Lake, table: str, parts: Sequence[Part]) -> pa.Table:
    """All rows of `parts`, which are of one run, in the schema of today. Raises UserError where one cannot be read."""
    return joined(read_each(lake, table, parts))


def read_each(lake: Lake, table: str, parts: Sequence[Part]) -> list[pa.Table]:
    """The rows of each of `parts`, in the schema of today. Raises UserError where one cannot be read."""
    uris = [join(lake.uri, part.path) for part in parts]
    tables = []
    for uri, fetched in zip(uris, lake.storage.get_many(uris), strict=True):
        if isinstance(fetched, Exception):
            raise explain(fetched, uri, "read the part")
        try:
            rows = pq.read_table(io.BytesIO(fetched.data))
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{uri}: is not a Parquet file ({error}); restore it, or remove it") from error
        require_version((rows.schema.metadata or {}).get(VERSION_KEY), uri)
        tables.append(_conform(rows, table, uri))
    return tables


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """The rows of parts of one run. Raises OddPartsError where they are of different models."""
    models = {(rows.schema.metadata or {}).get(MODEL_KEY) for rows in tables}
    if len(models) > 1:
        raise OddPartsError("its parts are of different models")
    return pa.concat_tables(tables).unify_dictionaries()


def _conform(rows: pa.Table, table: str, uri: str) -> pa.Table:
    """`rows` in the schema of `table`: older parts lack the newest columns, or have them in another type."""
    schema = SCHEMAS[table]
    model = (rows.schema.metadata or {}).get(MODEL_KEY)
    if unknown := set(rows.schema.names) - set(schema.names):
        raise UserError(
            f"{uri}: has columns that this Masklake does not know ({', '.join(sorted(unknown))}); upgrade Masklake"
        )
    columns = []
    for field in schema:
        if field.name in rows.schema.names:
            columns.append(rows[field.name].cast(field.type))
        elif field.nullable:
            columns.append(pa.nulls(len(rows), field.type))
        else:
            raise UserError(f"{uri}: lacks the column {field.name}; it was not written by Masklake")
    return pa.table(columns, schema=with_footer(schema, model.decode() if model else None))


def ordered(rows: pa.Table, table: str) -> pa.Table:
    """`rows` as they are written."""
    keys = {name: rows[name] for name, _ in _ORDER[table]}
    if "label" in keys:
        keys["label"] = keys["label"].cast(pa.string())  # by name, not by the number that stands for it
    return rows.take(pc.sort_indices(pa.table(keys), _ORDER[table]))


def require_sound(images: pa.Table, instances: pa.Table) -> None:
    """Raises OddPartsError unless each image is there once, with as many instances as it says."""
    ids = images["image_id"].to_numpy()
    unique = np.unique(ids)
    if len(unique) < len(ids):
        raise OddPartsError(f"{len(ids) - len(unique):,} of its images are there twice")
    owners, counts = np.unique(instances["image_id"].to_numpy(), return_counts=True)
    expected = images["n_instances"].to_numpy()
    having = ids[expected > 0]
    order = np.argsort(having)
    if not np.array_equal(having[order], owners) or not np.array_equal(expected[expected > 0][order], counts):
        raise OddPartsError("its instances are not those that its images count")


def without(rows: pa.Table, mask: pa.ChunkedArray | pa.Array) -> pa.Table:
    """`rows` without those where `mask` is true."""
    return rows.filter(pc.invert(mask))


def total(sizes: Iterable[int | None]) -> int:
    """The sum of sizes; what the storage does not say counts as nothing."""
    return sum(size or 0 for size in sizes)
