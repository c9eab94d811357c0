"""Forgetting: the rows and labels of images, or a whole run, leave the lake.

Parts that hold rows of the images are written anew without them. What else names the images (manifests, review tasks, exports,
previews, lists) is `pipeline/tend/traces.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow.compute as pc
from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.forgotten import RowlessImages
from masklake.pipeline.lake.lake import Lake, Part
from masklake.pipeline.lake.process import process_alive
from masklake.pipeline.lake.record import new_run_id
from masklake.pipeline.lake.replacements import FOLDER, PartGroup
from masklake.pipeline.lake.run_record import AttemptTakenError, RunFolder, RunRecord, silence
from masklake.pipeline.segment.manifest import Manifest
from masklake.pipeline.segment.proof import bar_uncommitted
from masklake.pipeline.segment.write import part_attempt, part_name
from masklake.pipeline.storage.ahead import ahead
from masklake.pipeline.storage.explain import explaining
from masklake.pipeline.storage.store import join
from masklake.pipeline.tend.chosen import Chosen
from masklake.pipeline.tend.compaction import write_staged
from masklake.pipeline.tend.crash_points import reach
from masklake.pipeline.tend.replacing import Tending
from masklake.pipeline.tend.rows import read_parts, without

CHOSEN = "forget.json"
"""Of committed work: which images it is about, beside its staged parts."""


class AtWorkError(UserError):
    """Others are at work on what is to be forgotten: later it may work."""


@dataclass(frozen=True, kw_only=True)
class Affected:
    """A part (of a run: of both tables; of labels, where `run` is "") that holds rows to be forgotten."""

    run: str
    parts: dict[str, Part]


@dataclass(kw_only=True)
class ForgetPlan:
    """What is to be forgotten, as it is in the tables."""

    affected: list[Affected] = field(default_factory=list)
    image_rows: int = 0
    instance_rows: int = 0
    label_rows: int = 0
    uris: set[str] = field(default_factory=set)
    """The chosen images that have a row or a label."""


def plan(lake: Lake, chosen: Chosen) -> ForgetPlan:
    """The parts with rows of `chosen`. Raises UserError when the lake cannot be read."""
    return _plan_run(lake, chosen.run) if chosen.run is not None else _plan_images(lake, chosen)


def _plan_images(lake: Lake, chosen: Chosen) -> ForgetPlan:
    result = ForgetPlan()
    pairs: dict[tuple[str, str], dict[str, Part]] = defaultdict(dict)
    for table in ("images", "instances", "labels"):
        by_path = {_path(lake, part): part for part in lake.parts(table)}
        if not by_path:
            continue
        scanner = lake.dataset(table).scanner(columns=["uri", "__filename"], filter=chosen.filter())
        with explaining(lake.uri, f"read {table}"):
            for batch in scanner.to_batches():
                if not len(batch):
                    continue
                result.uris |= set(batch["uri"].to_pylist())
                for path in batch["__filename"].unique().to_pylist():
                    part = by_path[path]
                    pairs[part.run, part.name][table] = part
                if table == "images":
                    result.image_rows += len(batch)
                elif table == "instances":
                    result.instance_rows += len(batch)
                else:
                    result.label_rows += len(batch)
    instances = {(part.run, part.name): part for part in lake.parts("instances")}
    for (run, name), parts in sorted(pairs.items()):
        if run and "images" not in parts:
            raise UserError(
                f"{lake.uri}: part {name} of run {run} has instances of images that it does not hold; resume the run"
            )
        if run and (run, name) in instances:
            parts["instances"] = instances[run, name]
        result.affected.append(Affected(run=run, parts=parts))
    return result


def _path(lake: Lake, part: Part) -> str:
    """The part as the rows of a scan name it."""
    return join(lake.arrow()[1], part.path)


def _plan_run(lake: Lake, run: str) -> ForgetPlan:
    result = ForgetPlan()
    instances = {part.name: part for part in lake.parts("instances") if part.run == run}
    for part in lake.parts_by_run.get(run, []):
        pair = {"images": part} | ({"instances": instances[part.name]} if part.name in instances else {})
        result.affected.append(Affected(run=run, parts=pair))
    if result.affected:
        with explaining(lake.uri, "count the rows"):
            result.image_rows = lake.dataset("images", [run]).count_rows()
            result.instance_rows = lake.dataset("instances", [run]).count_rows()
    return result


def require_idle(lake: Lake, chosen: Chosen, forgets: int) -> list[str]:
    """The runs that are not complete, not at work, and have not heeded the first `forgets` calls of forget, this one among them: a
    worker that outlived its driver could write rows of the images there.

    Raises AtWorkError while a run is at work that would write rows of the images again, or that is itself to be forgotten.
    """
    idle = []
    for run in lake.runs():
        record = run.record
        if record is None or record.state == "complete" or chosen.run not in (None, run.id):
            continue
        alive = (
            record.state == "running"
            and silence(record.host, record.pid, record.updated_at, process_alive) is not None
        )
        if chosen.run is not None:
            if alive:
                raise AtWorkError(f"run {run.id}: is at work; stop it, or let it end, and call again")
            idle.append(run.id)
            continue
        folder = RunFolder(lake.uri, run.id, lake.storage)
        with explaining(folder.manifest_uri, "read the run's manifest"):
            if max(record.forgets, RowlessImages.load(folder).forgets) >= forgets:
                continue
            manifest = Manifest(folder.manifest_uri, lake.storage)
            listed = any(pc.any(chosen.among(part["uri"])).as_py() for part in manifest.parts())
            complete = manifest.totals().complete
        if alive and listed:
            raise AtWorkError(
                f"run {run.id}: is at work and would write rows of these images again; stop it, or let it end, and call again"
            )
        if alive and not complete:
            raise AtWorkError(
                f"run {run.id}: is at work, and may come upon these images while it lists its source; call again when it has listed "
                "it, or stop it"
            )
        idle.append(run.id)
    return idle


def end_attempts(lake: Lake, runs: Iterable[str]) -> None:
    """Let no worker commit any more that outlived the driver of one of `runs`, which are not at work.

    Raises AtWorkError where a driver has just begun with one of them.
    """

    def end(record: RunRecord) -> None:
        folder = RunFolder(lake.uri, record.run, lake.storage)
        with explaining(folder.record_uri, "end the run's attempts"):
            try:
                folder.end_attempts(record.attempt + 1, process_alive)
                bar_uncommitted(folder, record.attempt + 1, record.model_name)
            except AttemptTakenError as error:
                raise AtWorkError(str(error)) from error

    for _ in ahead(end, [run.record for run in lake.runs(runs) if run.record is not None]):
        pass


def stage(lake: Lake, work: ForgetPlan, chosen: Chosen, id_: str, tending: Tending) -> list[PartGroup]:
    """Write the parts without what is to be forgotten where no reader looks."""
    reach("begun")
    groups = []
    for number, affected in enumerate(work.affected):
        groups.append(_stage(lake, affected, chosen, id_, number, tending))
        reach("part staged")
        tending.say(f"written: {number + 1:,} of {len(work.affected):,} parts without them")
    return groups


def _stage(
    lake: Lake, affected: Affected, chosen: Chosen, id_: str, number: int, tending: Tending
) -> PartGroup:
    [old] = {part.name for part in affected.parts.values()}
    left = {}
    if chosen.run is None:
        rows = {table: read_parts(lake, table, [part]) for table, part in affected.parts.items()}
        left = {
            table: without(part_rows, chosen.among(part_rows["uri"])) for table, part_rows in rows.items()
        }
    if not any(map(len, left.values())):
        return PartGroup(run=affected.run, old=(old,), new=None)
    name = f"part-{new_run_id()}-{number:06d}.parquet"
    if affected.run:
        name = part_name(part_attempt(old) or 1, left["images"]["image_id"].to_numpy())
    return PartGroup(
        run=affected.run, old=(old,), new=name, sizes=write_staged(left, affected.run, name, id_, tending)
    )


def keep_chosen(tending: Tending, id_: str, chosen: Chosen) -> None:
    """Note for the work `id_` what it is to forget."""
    uri = join(tending.lake, FOLDER, id_, CHOSEN)
    with explaining(uri, "write what is to be forgotten"):
        tending.storage.write(uri, chosen.to_json())


def chosen_of(tending: Tending, id_: str) -> Chosen:
    """What committed work is to forget."""
    uri = join(tending.lake, FOLDER, id_, CHOSEN)
    with explaining(uri, "read what is to be forgotten"):
        return Chosen.parse(tending.storage.read(uri))
