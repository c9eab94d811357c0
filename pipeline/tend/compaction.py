"""Compaction: of the many small parts of finished runs, and of labels, fewer and larger ones, with the same rows.

Parts that follow each other are gathered until their new part has the wanted size. Only complete runs are compacted: nobody
writes to them again. Memory: the rows of one new part, twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
from masklake.pipeline.lake.lake import Lake, Part
from masklake.pipeline.lake.replacements import PartGroup, staged_path
from masklake.pipeline.segment.write import part_attempt, part_name
from masklake.pipeline.storage.explain import explaining
from masklake.pipeline.storage.parquet import write_table
from masklake.pipeline.storage.store import join
from masklake.pipeline.tend.crash_points import reach
from masklake.pipeline.tend.replacing import Tending
from masklake.pipeline.tend.rows import OddPartsError, joined, ordered, read_each, require_sound, total

_MOST_PARTS = 10_000
"""Of one new part: so many small ones take a minute to read."""


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """Parts of one run (of labels, where `run` is "") that become one."""

    run: str
    parts: dict[str, list[Part]]
    """By table. Of a run, images and instances, in the same order of names."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(part.name for part in next(iter(self.parts.values())))

    @property
    def files(self) -> int:
        return sum(map(len, self.parts.values()))


@dataclass(kw_only=True)
class CompactionPlan:
    """What is to be done, and what is left alone, and why."""

    gathered: list[Gathered] = field(default_factory=list)
    files: int = 0
    """Part files of the lake as it is."""
    left: dict[str, str] = field(default_factory=dict)
    """Runs (or "labels") that have small parts and are not compacted, with the reason."""


def plan(lake: Lake, target_bytes: int) -> CompactionPlan:
    """Gather the parts of `lake`. Raises UserError when it cannot be read, or a newer Masklake wrote it."""
    result = CompactionPlan()
    images, instances = lake.parts("images"), {(p.run, p.name): p for p in lake.parts("instances")}
    labels = lake.parts("labels")
    result.files = len(images) + len(instances) + len(labels)
    records = {run.id: run for run in lake.runs({part.run: None for part in images})}
    for run, parts in itertools.groupby(images, lambda part: part.run):
        pairs = [{"instances": instances.get((run, part.name)), "images": part} for part in parts]
        record, problem = records[run].record, records[run].problem
        if len(pairs) < 2:
            continue
        if record is None or record.state != "complete":
            result.left[run] = (
                problem or f"is {record.state if record else 'unknown'}: only complete runs are compacted"
            )
        elif any(pair["instances"] is None for pair in pairs):
            result.left[run] = "a part of images has no part of instances"
        elif any(part_attempt(part["images"].name) is None for part in pairs if part["images"]):
            result.left[run] = "a part has a name that Masklake does not give"
        else:
            whole = [{table: part for table, part in pair.items() if part is not None} for pair in pairs]
            result.gathered += _gather(run, whole, target_bytes)
    result.gathered += _gather("", [{"labels": part} for part in labels], target_bytes)
    return result


def _gather(run: str, rows: Sequence[dict[str, Part]], target_bytes: int) -> Iterator[Gathered]:
    """Groups of at least two that follow each other and have at most `target_bytes` together."""
    held: list[dict[str, Part]] = []
    size = 0
    for pair in [*rows, None]:
        next_size = total(part.size for part in pair.values()) if pair else 0
        if held and (pair is None or size + next_size > target_bytes or len(held) == _MOST_PARTS):
            if len(held) > 1:
                yield Gathered(run=run, parts={table: [row[table] for row in held] for table in held[0]})
            held, size = [], 0
        if pair is not None:
            held.append(pair)
            size += next_size


def stage(lake: Lake, work: CompactionPlan, id_: str, tending: Tending) -> list[PartGroup]:
    """Write the new parts where no reader looks. `work` is told what was gathered in the end, and what does not add up is left."""
    reach("begun")
    staged: list[tuple[Gathered, PartGroup]] = []
    for number, planned in enumerate(work.gathered):
        if planned.run in work.left:
            continue
        try:
            gathered, rows = _read(lake, planned)
            if len(gathered.names) < 2:
                continue
            staged.append(
                (gathered, _stage(gathered, rows, f"part-{id_}-{number:06d}.parquet", id_, tending))
            )
        except OddPartsError as error:
            work.left[planned.run] = str(error)
            continue
        reach("part staged")
        tending.say(f"written: {number + 1:,} of {len(work.gathered):,} new parts")
    staged = [(gathered, group) for gathered, group in staged if group.run not in work.left]
    work.gathered = [gathered for gathered, _ in staged]
    return [group for _, group in staged]


def _read(lake: Lake, gathered: Gathered) -> tuple[Gathered, dict[str, pa.Table]]:
    """The rows by table, and the parts that have any. The others stay as they are: they bar the names of parts to writers of an attempt
    that was overtaken (`segment/proof.py`), who may stand still for any time."""
    each = {table: read_each(lake, table, parts) for table, parts in gathered.parts.items()}
    chosen = [number for number, rows in enumerate(each["images" if gathered.run else "labels"]) if len(rows)]
    parts = {table: [gathered.parts[table][number] for number in chosen] for table in each}
    rows = {table: joined([each[table][number] for number in chosen]) for table in each if chosen}
    return replace(gathered, parts=parts), rows


def _stage(
    gathered: Gathered, rows: dict[str, pa.Table], label_name: str, id_: str, tending: Tending
) -> PartGroup:
    name = label_name
    if gathered.run:
        require_sound(rows["images"], rows["instances"])
        name = part_name(
            max(part_attempt(old) or 1 for old in gathered.names), rows["images"]["image_id"].to_numpy()
        )
    return PartGroup(
        run=gathered.run,
        old=gathered.names,
        new=name,
        sizes=write_staged(rows, gathered.run, name, id_, tending),
    )


def write_staged(
    rows: dict[str, pa.Table], run: str, name: str, id_: str, tending: Tending
) -> dict[str, int]:
    """Write the rows of each table as the staged part `name`. Returns the bytes, by table."""
    sizes = {}
    for table in rows:
        uri = join(tending.lake, staged_path(id_, table, run, name))
        with explaining(uri, "write the new part"):
            sizes[table] = write_table(ordered(rows[table], table), uri, tending.storage)
    return sizes
