"""A lake, opened for reading: which runs it holds, and which of their part files count.

Nothing is read before it is needed, and a table is listed once, however many runs it holds.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.part_summary import PartSummary
from masklake.pipeline.lake.record_pack import PACK, RecordReader
from masklake.pipeline.lake.replacements import Replacements
from masklake.pipeline.lake.run_record import RunRecord
from masklake.pipeline.schema import IMAGES, INSTANCES, LABELS, SCHEMA_VERSION, VERSION_KEY
from masklake.pipeline.storage.ahead import ahead
from masklake.pipeline.storage.explain import explain, explaining
from masklake.pipeline.storage.objects import ObjectInfo
from masklake.pipeline.storage.store import Storage, join, normalise_folder

if TYPE_CHECKING:
    import pyarrow.dataset

SCHEMAS = {"images": IMAGES, "instances": INSTANCES, "labels": LABELS}

# Names are matched in full, so that a stray file, or one with a hostile name, is never opened.
_RUN_PART = re.compile(r"/run=([A-Za-z0-9][\w.-]*)/(part-[\w.-]+\.parquet)")
_LABEL_PART = re.compile(r"()/(part-[\w.-]+\.parquet)")
_RECORD = re.compile(r"/([A-Za-z0-9][\w.-]*)/run\.json")
_TRAINING = re.compile(r"/([A-Za-z0-9][\w.-]*)/train\.json")

_RECORD_NAMES = ("run.json", "train.json")
_FIRST_LOOK = 1000


@dataclass(frozen=True, order=True)
class Part:
    """One Parquet file of a table. `run` is empty for labels."""

    run: str
    name: str
    path: str
    """Below the lake: `images/run=<run>/<name>`, or where a new part waits to take its place there."""
    size: int | None
    """Bytes, as listed; None where the storage does not say."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of the lake. `record` is None where its run.json is missing or broken, and `problem` says why."""

    id: str
    record: RunRecord | None
    problem: str | None = None


class Lake:
    """A lake at `uri`. Raises UserError when it does not exist, is no lake, or cannot be reached."""

    def __init__(self, uri: str, storage: Storage) -> None:
        self.uri = normalise_folder(uri)
        self.storage = storage
        self._parts: dict[str, list[Part]] = {}
        self._replacements: Replacements | None = None
        """As they were when images were listed; instances belong to these."""
        self._finished: dict[str, Run] = {}
        self._unfinished: dict[str, Run] = {}
        self._reader = RecordReader(join(self.uri, "runs", PACK), storage)

    def parts(self, table: str) -> list[Part]:
        """The part files of `table` (images, instances, labels), sorted. Uncommitted ones are left out.

        An instances part is committed by the images part of the same name.
        """
        if table not in self._parts:
            if table != "instances":
                # Before the listing: what is replaced is removed only a while after this object says so.
                replacements = Replacements.load(self.uri, self.storage)
                self._parts[table] = self._list(table, replacements)
                if table == "images":
                    self._replacements = replacements
            else:
                # Images are listed before instances: a part that a running job commits in between is then in neither.
                committed = {(part.run, part.name) for part in self.parts("images")}
                parts = self._list(table, self._replacements or Replacements())
                self._parts[table] = [part for part in parts if (part.run, part.name) in committed]
                if len(self._parts[table]) < len(committed):
                    self._require_unchanged()
        return self._parts[table]

    def _list(self, table: str, replacements: Replacements) -> list[Part]:
        pattern = _LABEL_PART if table == "labels" else _RUN_PART
        root = join(self.uri, table)
        with explaining(self.uri, f"list {table}"):
            listed = list(self.storage.walk(root))
        matched = ((pattern.fullmatch(info.uri.removeprefix(root)), info.size) for info in listed)
        parts = [Part(m[1], m[2], table + m[0], size) for m, size in matched if m]
        hidden = replacements.hidden(table)
        parts = [part for part in parts if (part.run, part.name) not in hidden]
        return sorted([*parts, *(Part(*part) for part in replacements.standing_in(table))])

    def _require_unchanged(self) -> None:
        """Raises UserError where parts were replaced since images were listed: then none may be missed in silence."""
        before = self._replacements.etag if self._replacements else None
        if Replacements.load(self.uri, self.storage).etag != before:
            raise UserError(
                f"{self.uri}: parts of it were replaced since it was opened (masklake compact, or forget); open it again"
            )

    def run_ids(self) -> list[str]:
        """Runs, newest first: those with a record, and those that left images."""
        if "images" not in self._parts:
            # A listing of folders costs little beside one of parts. It comes first: a run has a record before it has parts.
            with explaining(self.uri, "list images"):
                folders = self.storage.folders(join(self.uri, "images"))
            if {folder.removeprefix("run=") for folder in folders} <= self._records.keys():
                return sorted(self._records, reverse=True)
        return sorted({*self._records, *self.parts_by_run}, reverse=True)

    def training_ids(self) -> list[str]:
        """Trainings with a record, newest first."""
        return sorted(self._matching(_TRAINING), reverse=True)

    @functools.cached_property
    def parts_by_run(self) -> dict[str, list[Part]]:
        """The parts of images by run."""
        parts = self.parts("images")
        return {run: list(of_run) for run, of_run in itertools.groupby(parts, lambda part: part.run)}

    @functools.cached_property
    def _records(self) -> dict[str, ObjectInfo]:
        return self._matching(_RECORD)

    def _matching(self, record: re.Pattern[str]) -> dict[str, ObjectInfo]:
        """The records by run, as they are listed."""
        root, infos = self._run_files
        return {m[1]: info for info in infos if (m := record.fullmatch(info.uri.removeprefix(root)))}

    @functools.cached_property
    def _run_files(self) -> tuple[str, list[ObjectInfo]]:
        root = join(self.uri, "runs")
        with explaining(self.uri, "list runs"):
            return root, list(self.storage.walk_for(root, _RECORD_NAMES))

    def looks_like_one(self) -> bool:
        """Whether the first objects here are a lake's: for callers that must not take a lake for a folder of photos."""
        parts = (("images", _RUN_PART), ("labels", _LABEL_PART), ("runs", _RECORD), ("runs", _TRAINING))
        for folder, name in parts:
            root = join(self.uri, folder)
            with explaining(self.uri, "list it"):
                try:
                    first = list(itertools.islice(self.storage.walk(root), _FIRST_LOOK))
                except PermissionError:  # this user has rights on some objects only: reading them decides
                    continue
            if any(name.fullmatch(info.uri.removeprefix(root)) for info in first):
                return True
        return False

    def require(self) -> None:
        """Raises UserError when there is no lake at this URI."""
        if self._records or self.run_ids() or self.parts("labels"):
            return
        if "://" not in self.uri and not Path(self.uri).is_dir():
            raise UserError(f"{self.uri}: there is no such directory; check the lake's name")
        raise UserError(
            f"{self.uri}: is not a lake (it has no runs, images or labels); check the name, "
            "or let `masklake segment SOURCE LAKE` make one"
        )

    def require_writable(self) -> None:
        """Raises UserError when this user may not write here: asked before work whose result would be lost."""
        with explaining(self.uri, "write to the lake"):
            self.storage.require_writable(join(self.uri, "runs"))

    def resolve(self, name: str) -> str:
        """The id of the run that `name` means: an id, or `last`. Raises UserError when there is none."""
        self.require()
        ids = self.run_ids()
        if name == "last" and ids:
            return ids[0]
        if name not in ids:
            newest = f"; its newest run is {ids[0]}" if ids else ""
            raise UserError(f"{self.uri}: has no run {name!r}{newest}; `masklake runs {self.uri}` lists them")
        return name

    def runs(self, ids: Iterable[str] | None = None) -> list[Run]:
        """The runs with their records, newest first, or those of `ids` in their order.

        `Run.problem` says what is wrong with a record that is missing or broken; UserError is raised only for one that a
        newer Masklake wrote.
        """
        wanted = self.run_ids() if ids is None else list(ids)
        self._read([id_ for id_ in wanted if id_ not in self._finished])
        return [self._finished.get(id_) or self._unfinished[id_] for id_ in wanted]

    def _read(self, ids: list[str]) -> None:
        """Read the runs `ids` into `_finished`, whose records change no more, and `_unfinished`."""
        with explaining(self.uri, "read the runs"):
            contents = self._reader.read({id_: self._records[id_] for id_ in ids if id_ in self._records})
        for id_ in ids:
            uri, content = join(self.uri, "runs", id_, "run.json"), contents.get(id_)
            if content is None:
                run = Run(id=id_, record=None, problem="it has no run.json")
            elif isinstance(content, Exception):
                run = Run(id=id_, record=None, problem=str(explain(content, uri, "read the run")))
            else:
                run = _read_record(id_, content, uri)
            finished = run.record is not None and run.record.state == "complete"
            (self._finished if finished else self._unfinished)[id_] = run

    def pack_records(self) -> None:
        """Keep the records of runs together in the lake, if many were read one by one. Raises OSError."""
        self._reader.write(self._records)

    def summaries(self, ids: Iterable[str] | None = None) -> dict[str, PartSummary]:
        """What the records of finished runs say of their images parts, by run, where it holds for the parts that are listed."""
        summaries = {}
        for run in self.runs(self.parts_by_run if ids is None else ids):
            parts = self.parts_by_run.get(run.id, ())
            if run.record is not None and run.record.state == "complete":
                summary = PartSummary.of_record(run.record.parts, ((part.name, part.size) for part in parts))
                if summary is not None:
                    summaries[run.id] = summary
        return summaries

    def require_readable(self, ids: Iterable[str]) -> None:
        """Raises UserError when one of these runs was written by a newer Masklake."""
        self.runs(ids)

    def dataset(self, table: str, runs: Iterable[str] | None = None) -> pyarrow.dataset.Dataset:
        """The committed rows of `table` as a pyarrow dataset, of all runs or of `runs`.

        Raises UserError when a run was written by a newer Masklake.
        """
        import pyarrow.dataset
        import pyarrow.parquet

        parts = self.parts(table)
        if runs is not None:
            chosen = set(runs)
            parts = [part for part in parts if part.run in chosen]
        self.require_readable(dict.fromkeys(part.run for part in parts if part.run))
        fs, root = self.arrow()
        newest = {part.run: part for part in parts}.values()
        with explaining(self.uri, f"read {table}"):
            footers = ahead(lambda p: pyarrow.parquet.read_schema(join(root, p.path), filesystem=fs), newest)
            for part, schema in zip(newest, footers, strict=True):
                require_version((schema.metadata or {}).get(VERSION_KEY), join(self.uri, part.path))
        return pyarrow.dataset.dataset(
            [join(root, part.path) for part in parts], schema=SCHEMAS[table], filesystem=fs, format="parquet"
        )

    def arrow(self) -> tuple[Any, str]:
        """(pyarrow filesystem, the lake's path in it)."""
        return self.storage.arrow(self.uri)


def require_version(stated: object, where: str) -> None:
    """Raises UserError when `stated`, the schema version read from `where`, is newer than this Masklake's.

    `stated` is None where the file states no version: it is then taken for the oldest.
    """
    try:
        version = int(stated) if isinstance(stated, str | bytes | int) else 1
    except ValueError:
        raise UserError(
            f"{where}: states the schema version {stated!r}, which is no number; it was not written by Masklake"
        ) from None
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{where}: was written with lake schema {version}, and this Masklake reads up to schema "
            f"{SCHEMA_VERSION}; upgrade Masklake to read it"
        )


def _read_record(id_: str, data: bytes, uri: str) -> Run:
    try:
        content = json.loads(data)
    except ValueError as error:
        return Run(id=id_, record=None, problem=f"{uri}: is not JSON ({error})")
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(version, int):
        return Run(id=id_, record=None, problem=f"{uri}: is not a run record (it states no schema version)")
    require_version(version, uri)
    try:
        record = RunRecord.parse(data, uri)
    except UserError as error:
        return Run(id=id_, record=None, problem=str(error))
    wrong = [
        f"{name} is {type(getattr(record, name)).__name__}"
        for name, type_ in _field_types().items()
        if not isinstance(getattr(record, name), _runtime(type_))
    ]
    if wrong:
        return Run(id=id_, record=None, problem=f"{uri}: is not a run record ({', '.join(wrong)})")
    return Run(id=id_, record=record)


@functools.cache
def _field_types() -> dict[str, Any]:
    return typing.get_type_hints(RunRecord)


@functools.cache
def _runtime(type_: Any) -> Any:
    """What isinstance can check of a field's type: the container, and int where float is asked."""
    if args := [arg for arg in typing.get_args(type_) if typing.get_origin(type_) not in (dict, list)]:
        return tuple(typing.get_origin(arg) or arg for arg in args)
    plain = typing.get_origin(type_) or type_
    return (int, float) if plain is float else plain
