"""The rows of many small finished runs together, so that a lake of ten thousand runs is queried by opening a few files.

    LAKE/packs/<id>/images.parquet, instances.parquet      copies of the rows
    LAKE/packs/<id>/runs.parquet                           of which runs, and of which of their parts; written last

What is packed of a run counts only while its parts are those that were packed, by their names and sizes (`signature`): else the parts
are read. So a pack may be old, be written by two at once or by one that is killed, or be gone, and nobody reads anything wrong.
"""

from __future__ import annotations

import datetime
import itertools
import secrets
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
from masklake.pipeline.lake.lake import SCHEMAS, Lake, Part
from masklake.pipeline.lake.part_summary import signature
from masklake.pipeline.lake.replacements import OBJECT, final_path
from masklake.pipeline.schema import SCHEMA_VERSION, VERSION_KEY
from masklake.pipeline.storage.ahead import ahead
from masklake.pipeline.storage.explain import of_storage
from masklake.pipeline.storage.objects import Fetched, ObjectInfo
from masklake.pipeline.storage.parquet import decode, read_table, write_table
from masklake.pipeline.storage.store import join

FOLDER = "packs"
TABLES = ("images", "instances")
LIST = "runs"
"""The file without which a pack is not read: it is written last, and removed first."""
WORTH_IT = 64
"""With fewer runs to read, no pack is looked for or written."""
FULL = 512
"""Runs in a pack, beyond which no more are added to it."""
_MOST_BYTES = 64 * 2**20
"""Of the parts that are packed at once."""
_LARGEST_RUN = 2**20
"""Bytes of a run's images. The parts of larger ones are read as they are: packs are to replace many small files."""
_READERS_AWAITED = datetime.timedelta(hours=1)
_WRITERS_AWAITED = datetime.timedelta(days=1)
_RUNS = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in ("run", *TABLES)],
    metadata={VERSION_KEY: str(SCHEMA_VERSION)},
)


@dataclass(frozen=True, kw_only=True)
class Pack:
    """A pack, as it is listed and as its runs.parquet says."""

    id: str
    files: dict[str, ObjectInfo]
    """By name, without `.parquet`."""
    runs: dict[str, dict[str, str]] = field(default_factory=dict)
    """By run and table: the signature of the parts that were packed. Empty where it was never finished, or cannot be read."""


@dataclass(frozen=True, kw_only=True)
class PackedRows:
    """The rows of `runs` in one file of a pack; those of `others` in it do not count."""

    part: Part
    """The file; its run is ""."""
    runs: frozenset[str]
    others: frozenset[str]


def packs(lake: Lake) -> list[Pack]:
    """The packs of the lake, the newest first."""
    listed: dict[str, dict[str, ObjectInfo]] = defaultdict(dict)
    names = [f"{name}.parquet" for name in (LIST, *TABLES)]
    for info in lake.storage.walk_for(join(lake.uri, FOLDER), names):
        folder, _, name = info.uri.rpartition("/")
        listed[folder.rpartition("/")[2]][name.removesuffix(".parquet")] = info
    ids = sorted(listed, reverse=True)
    whole = [id_ for id_ in ids if listed[id_].keys() == {LIST, *TABLES}]
    answers = lake.storage.get_many([listed[id_][LIST].uri for id_ in whole])
    runs = {id_: _runs(answer) for id_, answer in zip(whole, answers, strict=True)}
    return [Pack(id=id_, files=listed[id_], runs=runs.get(id_, {})) for id_ in ids]


def _runs(answer: Fetched | Exception) -> dict[str, dict[str, str]]:
    """What a runs.parquet says; nothing where it cannot be read, or is of another schema: then the parts are read."""
    if isinstance(answer, Exception):
        return {}
    try:
        table = decode(answer.data)
    except pa.ArrowInvalid:
        return {}
    version = (table.schema.metadata or {}).get(VERSION_KEY)
    if table.schema.names != _RUNS.names or version != _RUNS.metadata[VERSION_KEY]:
        return {}
    return {row.pop("run"): row for row in table.to_pylist()}


def packed(lake: Lake, table: str, parts: Iterable[Part]) -> tuple[list[PackedRows], list[Part]]:
    """What to read in place of `parts` of `table`, which are all counting parts of some runs: rows of packs, and the other parts."""
    by_run: dict[str, list[Part]] = {
        run: list(of_run) for run, of_run in itertools.groupby(parts, lambda part: part.run)
    }
    rows = []
    if len(by_run) >= WORTH_IT:
        for pack in packs(lake):
            counting = _counting(pack, table, by_run)
            if counting:
                others = frozenset(pack.runs) - counting
                rows.append(PackedRows(part=_part(pack, table), runs=counting, others=others))
                for run in counting:
                    del by_run[run]
    return rows, [part for of_run in by_run.values() for part in of_run]


def _counting(pack: Pack, table: str, by_run: dict[str, list[Part]]) -> frozenset[str]:
    """The runs whose parts are those that were packed."""
    return frozenset(
        run
        for run, packed_of in pack.runs.items()
        if run in by_run and packed_of[table] == _signature(by_run[run])
    )


def _signature(parts: Iterable[Part]) -> str:
    return signature((part.name, part.size) for part in parts)


def _part(pack: Pack, table: str) -> Part:
    name = f"{table}.parquet"
    return Part("", name, f"{FOLDER}/{pack.id}/{name}", pack.files[table].size)


def pack_rows(lake: Lake) -> int:
    """Pack the rows of small finished runs, the oldest first, if there are many that no pack holds. Returns how many were packed.

    It takes the runs and images of `lake` as they were listed. Two processes that do so at the same time pack them twice,
    which does no harm. Raises OSError: then nothing is packed.
    """
    finished = lake.summaries()
    small = {run: lake.parts_by_run.get(run, []) for run in sorted(finished)}
    small = {
        run: parts
        for run, parts in small.items()
        if parts and _bytes(parts) <= _LARGEST_RUN and _in_place(parts)
    }
    if len(small) < WORTH_IT:
        return 0
    before, there = _version(lake), packs(lake)
    counting = [(pack, _counting(pack, "images", small)) for pack in there]
    loose = set(small).difference(*(runs for _, runs in counting))
    if len(loose) < WORTH_IT:
        _remove_old(lake, counting)
        return 0
    begun = next(((pack, runs) for pack, runs in counting if runs), None)
    if begun is not None and (len(begun[1]) >= FULL or _bytes(begun[0].files.values()) > _MOST_BYTES / 2):
        begun = None
    chosen = list(_first({run: small[run] for run in sorted(loose)}))
    if len(chosen) < WORTH_IT:
        return 0
    tables = _tables(lake, {run: small[run] for run in chosen}, begun)
    id_ = _new_id()
    for name in (*TABLES, LIST):
        write_table(tables[name], _uri(lake, id_, name), lake.storage)
    if _version(lake) != before:  # a row that `masklake forget` has removed meanwhile must not stay
        _remove(lake, id_)
        return 0
    return len(chosen)


def try_to_pack_rows(lake: Lake) -> None:
    """`pack_rows`, or nothing where the storage or a broken part prevents it: readers then read as much, in more files."""
    try:
        pack_rows(lake)
    except Exception as error:
        if not of_storage(error) and not isinstance(error, pa.ArrowInvalid):
            raise


def _bytes(files: Iterable[Part | ObjectInfo]) -> int:
    return sum(file.size or 0 for file in files)


def _in_place(parts: Iterable[Part]) -> bool:
    """Whether none of these parts of images is about to take the place of others (pipeline/lake/replacements.py)."""
    return all(part.path == final_path("images", part.run, part.name) for part in parts)


def _new_id() -> str:
    """An id that sorts by time, to the microsecond, and that no two writers share."""
    return f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S%f}-{secrets.token_hex(3)}"


def _version(lake: Lake) -> str | None:
    """Of the object by which parts are replaced; None where there is none."""
    info = lake.storage.stat(join(lake.uri, OBJECT))
    return info and info.etag


def _first(runs: dict[str, list[Part]]) -> Iterator[str]:
    """The first of `runs` that go into a pack."""
    bytes_ = 0
    for run, parts in itertools.islice(runs.items(), FULL):
        bytes_ += _bytes(parts)
        if bytes_ > _MOST_BYTES / 2:
            return
        yield run


def _tables(
    lake: Lake, runs: dict[str, list[Part]], begun: tuple[Pack, frozenset[str]] | None
) -> dict[str, pa.Table]:
    """The tables of a pack of `runs` and of those runs of a pack that was `begun`."""
    instances = dict(zip(runs, ahead(lambda run: _instances(lake, run, runs[run]), runs), strict=True))
    parts = {"images": runs, "instances": instances}
    signatures = [{"run": run} | {table: _signature(parts[table][run]) for table in TABLES} for run in runs]
    if begun is not None:
        pack, counting = begun
        signatures = [{"run": run} | pack.runs[run] for run in sorted(counting)] + signatures
    tables = {LIST: pa.Table.from_pylist(signatures, _RUNS)}
    for table in TABLES:
        uris = [join(lake.uri, part.path) for run in runs for part in parts[table][run]]
        rows = list(ahead(lambda uri: read_table(uri, lake.storage), uris))
        if begun is not None:
            old = read_table(join(lake.uri, _part(pack, table).path), lake.storage)
            rows = [old.filter(pc.is_in(old["run"].cast(pa.string()), pa.array(sorted(counting)))), *rows]
        tables[table] = pa.concat_tables([_as_now(some, SCHEMAS[table]) for some in rows])
    return tables


def _as_now(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """`rows` with the columns of `schema`: an older Masklake may have written fewer."""
    columns = [
        rows[field.name].cast(field.type)
        if field.name in rows.column_names
        else pa.nulls(len(rows), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _instances(lake: Lake, run: str, images: list[Part]) -> list[Part]:
    """The counting instances parts of a run."""
    committed = {part.name for part in images}
    folder = f"instances/run={run}"
    names = ((info.uri.rpartition("/")[2], info.size) for info in lake.storage.walk(join(lake.uri, folder)))
    return sorted(Part(run, name, f"{folder}/{name}", size) for name, size in names if name in committed)


def _uri(lake: Lake, id_: str, name: str) -> str:
    return join(lake.uri, FOLDER, id_, f"{name}.parquet")


def _remove(lake: Lake, id_: str) -> None:
    for name in (LIST, *TABLES):
        lake.storage.delete(_uri(lake, id_, name))


def _remove_old(lake: Lake, counting: list[tuple[Pack, frozenset[str]]]) -> None:
    """Remove packs that newer ones have replaced, once their readers have ended, and those whose writer was killed."""
    now = datetime.datetime.now(datetime.UTC)
    newer: set[str] = set()
    since = now
    for pack, runs in counting:
        written = [info.modified for info in pack.files.values() if info.modified]
        if not written:
            continue
        abandoned = LIST not in pack.files and now - max(written) > _WRITERS_AWAITED
        replaced = bool(pack.runs) and runs <= newer and now - since > _READERS_AWAITED
        if abandoned or replaced:
            _remove(lake, pack.id)
        elif runs:
            newer |= runs
            since = max(written)
