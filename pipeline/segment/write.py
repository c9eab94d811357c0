"""Write: from encoded rows to a pair of Parquet parts in the lake.

The `instances` part is written first, the `images` part second: the second, one atomic PUT, is the commit. A
part's name says which attempt wrote which images, so that a retried task overwrites itself. A later attempt bars the names of
parts that were not committed when it began (`proof.bar_uncommitted`), so that a worker that stood still until then cannot.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from masklake.pipeline.lake.run_record import RunFolder, SupersededError
from masklake.pipeline.schema import IMAGES, INSTANCES, with_footer
from masklake.pipeline.storage.parquet import encode, read_table, write_table

_PART = re.compile(r"part-(\d{3,})-(\d{10,})-[0-9a-f]{12}\.parquet")


@dataclass(frozen=True, kw_only=True)
class Written:
    """The counts of one commit to the lake."""

    images: int
    instances: int
    bytes: int
    statuses: dict[str, int]


def part_name(attempt: int, image_ids: np.ndarray) -> str:
    """The name of the pair of parts that attempt number `attempt` writes for these images."""
    digest = hashlib.blake2b(np.sort(image_ids).astype("<i8").tobytes(), digest_size=6).hexdigest()
    return f"part-{attempt:03d}-{image_ids.min():010d}-{digest}.parquet"


def part_attempt(name: str) -> int | None:
    """The attempt that wrote a part, or None when `name` is not a part's name."""
    match = _PART.fullmatch(name)
    return int(match[1]) if match else None


def write(rows: pa.Table, folder: RunFolder, attempt: int, model: str) -> Written:
    """Commit encoded `rows` (see `encode_rows`) as parts of `folder`'s run.

    Raises SupersededError when a later attempt has begun.
    """
    run = folder.run
    images = _conform(rows.sort_by("image_id"), IMAGES, run, model)
    instances = _instances(rows, run, model)
    name = part_name(attempt, rows["image_id"].to_numpy())
    size = _put(instances, f"{folder.table_uri('instances')}/{name}", folder, attempt)
    # Without this, a worker that outlives its killed driver would commit images that the later attempt processes again.
    try:
        folder.require_newest(attempt)
    except SupersededError:
        take_back(name, folder, model)
        raise
    size += _put(images, f"{folder.table_uri('images')}/{name}", folder, attempt)
    statuses = {
        v["values"]: v["counts"] for v in images["status"].cast(pa.string()).value_counts().to_pylist()
    }
    return Written(images=len(images), instances=len(instances), bytes=size, statuses=statuses)


def take_back(name: str, folder: RunFolder, model: str) -> None:
    """Leave no `instances` part of a superseded attempt that is not committed: the later attempt may have swept already.

    Where that has barred the name, its part without rows belongs there.
    """
    instances, images = (f"{folder.table_uri(table)}/{name}" for table in ("instances", "images"))
    try:
        committed = len(read_table(images, folder.storage, ["image_id"])) > 0
    except FileNotFoundError:
        folder.storage.delete(instances)
        return
    if not committed:
        write_table(with_footer(INSTANCES, model).empty_table(), instances, folder.storage)


def _put(table: pa.Table, uri: str, folder: RunFolder, attempt: int) -> int:
    """Write a part; its bytes. What is there already is a retried task's own, unless a later attempt has barred the name."""
    data = encode(table)
    if not folder.storage.put_new(uri, data):
        folder.require_newest(attempt)
        folder.storage.write(uri, data)
    return len(data)


def _conform(table: pa.Table, schema: pa.Schema, run: str, model: str) -> pa.Table:
    constant = {"run": run, "model": model}
    columns = [
        pa.array([constant[field.name]] * len(table), field.type)
        if field.name in constant
        else table[field.name].cast(field.type)
        for field in schema
    ]
    return pa.table(columns, schema=with_footer(schema, model))


def _instances(rows: pa.Table, run: str, model: str) -> pa.Table:
    """One row per instance, sorted by label and then falling score, so that row-group statistics prune."""
    lists = rows["instances"].combine_chunks()
    parents = pc.list_parent_indices(lists)
    table = pa.Table.from_struct_array(lists.flatten())
    for name in ("image_id", "uri"):
        table = table.append_column(name, rows[name].take(parents))
    table = table.take(
        pc.sort_indices(table, [("label", "ascending"), ("score", "descending"), ("image_id", "ascending")])
    )
    return _conform(table, INSTANCES, run, model)
