"""`compact` and `forget` from beginning to end, and what an earlier call has left. The caller holds the lake's lock `tending`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import partial

from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.forgotten import write_forgotten
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.lake.record import new_run_id
from masklake.pipeline.lake.replacements import FOLDER, PartGroup, Replacement
from masklake.pipeline.lake.row_pack import pack_rows
from masklake.pipeline.storage.explain import explaining
from masklake.pipeline.storage.store import join
from masklake.pipeline.tend import compaction, forgetting, traces
from masklake.pipeline.tend.chosen import Chosen
from masklake.pipeline.tend.compaction import CompactionPlan
from masklake.pipeline.tend.forgetting import ForgetPlan
from masklake.pipeline.tend.learnt import Learnt, learnt
from masklake.pipeline.tend.packs import remove_packs, withdraw_packs
from masklake.pipeline.tend.replacing import Ending, Tending, clear, commit, finish, free_state
from masklake.pipeline.tend.traces import Traces

LOCK = "tending"
"""The lock that both commands hold: of all of them, one is at work on a lake."""


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """What an earlier call had committed, and this one went on with."""

    command: str | None = None
    waits_s: float = 0.0
    """Where it cannot be finished yet, and this call was not to wait: the seconds until then."""
    forgotten: Forgotten | None = None
    """What it forgot."""


@dataclass(kw_only=True)
class Compacted:
    """What `compact` did, or would do."""

    files: int = 0
    """Part files of the lake before."""
    replaced: int = 0
    """Of these, files whose rows are in new ones now."""
    new: int = 0
    left: dict[str, str] = field(default_factory=dict)
    """Runs that have several parts and were left as they are, with the reason."""
    earlier: Earlier = field(default_factory=Earlier)
    packed: int = 0
    """Small runs whose rows are in a pack now, beside those that were before."""
    waits_s: float = 0.0
    """Where this call did not wait: seconds until the next one can finish the work."""


@dataclass(kw_only=True)
class Forgotten:
    """What `forget` did, or would do."""

    images: list[str] = field(default_factory=list)
    """The URIs that had rows or labels."""
    image_rows: int = 0
    instance_rows: int = 0
    label_rows: int = 0
    parts: int = 0
    """Parts of the tables that were written anew or removed."""
    traces: Traces = field(default_factory=Traces)
    models: list[Learnt] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Records of trainings that cannot be read: whether they took these images cannot be told."""
    earlier: Earlier = field(default_factory=Earlier)
    waits_s: float = 0.0

    def add(self, work: ForgetPlan) -> None:
        """Count what `work` takes out."""
        self.images = sorted({*self.images, *work.uris})
        self.image_rows += work.image_rows
        self.instance_rows += work.instance_rows
        self.label_rows += work.label_rows
        self.parts += sum(len(affected.parts) for affected in work.affected)


def compact(tending: Tending, target_bytes: int, *, wait: bool = True, dry_run: bool = False) -> Compacted:
    """Compact the lake into parts of about `target_bytes`. Raises UserError, with the lake whole, where that is not possible."""
    earlier = Earlier() if dry_run else finish_earlier(tending, wait)
    if earlier.waits_s:
        return Compacted(earlier=earlier, waits_s=earlier.waits_s)
    planned = tending.state() if dry_run else free_state(tending)
    lake = Lake(tending.lake, tending.storage)
    lake.require()
    work = compaction.plan(lake, target_bytes)
    result = Compacted(files=work.files, left=work.left, earlier=earlier)
    if dry_run:
        _count(result, work)
        return result
    if work.gathered:
        id_ = new_run_id()
        groups = compaction.stage(lake, work, id_, tending)
        _count(result, work)
        if groups:
            replacement = commit(tending, planned, id_, "compact", groups)
            result.waits_s = _finished_after(tending, replacement, wait)
    if not result.waits_s:
        result.waits_s = clear(tending, wait=wait)
    now = Lake(tending.lake, tending.storage)
    with explaining(tending.lake, "pack the rows of small runs"):
        result.packed = sum(iter(lambda: pack_rows(now), 0))
    return result


def _count(result: Compacted, work: CompactionPlan) -> None:
    gathered = [group for group in work.gathered if group.run not in work.left]
    result.replaced = sum(group.files for group in gathered)
    result.new = sum(len(group.parts) for group in gathered)


def _finished_after(
    tending: Tending, replacement: Replacement, wait: bool, into: Forgotten | None = None
) -> float:
    """Finish what is committed; where it is not to `wait`, the seconds that are left until that is possible."""
    waits = replacement.waits(tending.now())
    if waits and not wait:
        return waits
    if replacement.command == "compact":
        ending = _compact_ending(tending, replacement)
    else:
        ending = _forget_ending(tending, replacement.id, into or Forgotten())
    finish(tending, replacement, ending)
    return 0.0


def finish_earlier(tending: Tending, wait: bool) -> Earlier:
    """Finish what an earlier call has committed, and remove what it had not."""
    clear(tending, wait=False)
    current = tending.state().current
    if current is None:
        return Earlier()
    tending.say(f"finishing `masklake {current.command}` of {current.committed_at[:19]} UTC first")
    forgotten = _kept_report(tending, current.id) if current.command == "forget" else None
    waits = _finished_after(tending, current, wait, forgotten)
    return Earlier(command=current.command, waits_s=waits, forgotten=forgotten)


def _report_uri(tending: Tending, id_: str) -> str:
    return join(tending.lake, FOLDER, id_, "report.json")


def _keep_report(tending: Tending, id_: str, result: Forgotten) -> None:
    """For the call that finishes the work, if this one is killed: by then nothing else tells which models learnt from what."""
    uri = _report_uri(tending, id_)
    with explaining(uri, "write what is to be forgotten"):
        tending.storage.write(uri, json.dumps(asdict(result)).encode())


def _kept_report(tending: Tending, id_: str) -> Forgotten:
    uri = _report_uri(tending, id_)
    with explaining(uri, "read what was forgotten"):
        content = json.loads(tending.storage.read(uri))
    models = [Learnt(**model) for model in content["models"]]
    return Forgotten(**{**content, "models": models, "traces": Traces(), "earlier": Earlier()})


def _compact_ending(tending: Tending, replacement: Replacement) -> Ending:
    runs = {group.run for group in replacement.groups if group.run}
    return Ending(
        prepare=lambda: forgetting.end_attempts(Lake(tending.lake, tending.storage), sorted(runs)),
        remove_traces=partial(traces.renew_summaries, tending, runs, recount=False),
    )


def _forget_ending(tending: Tending, id_: str, into: Forgotten) -> Ending:
    """`into` is told what else was found."""
    chosen = forgetting.chosen_of(tending, id_)

    def prepare() -> None:
        state, lake = tending.state(), Lake(tending.lake, tending.storage)
        runs = forgetting.require_idle(lake, chosen, len(state.forgets))
        if chosen.run is None and state.current is not None:
            runs += [group.run for group in state.current.groups if group.run and group.run not in runs]
        forgetting.end_attempts(lake, runs)

    def remove_traces() -> None:
        into.traces.removed += remove_packs(Lake(tending.lake, tending.storage), chosen)
        if chosen.run is not None:
            into.traces.removed += traces.remove_run(tending, chosen.run)
        else:
            into.traces.add(traces.remove(tending, chosen))
            current = tending.state().current
            runs = {group.run for group in current.groups if group.run} if current else set()
            traces.renew_summaries(tending, runs, recount=True)
        traces.remove_pack(tending)

    def rest() -> list[PartGroup]:
        lake = Lake(tending.lake, tending.storage)
        work = forgetting.plan(lake, chosen)
        into.add(work)
        return forgetting.stage(lake, work, chosen, id_, tending) if work.affected else []

    return Ending(prepare=prepare, remove_traces=remove_traces, rest=rest)


def forget(
    tending: Tending,
    chosen: Chosen,
    *,
    earlier: Earlier | None = None,
    wait: bool = True,
    dry_run: bool = False,
) -> Forgotten:
    """Forget `chosen`. `earlier` is what `finish_earlier` did, where the caller has called it.

    Raises UserError, with the lake whole, where that is not possible, and where there is nothing of it.
    """
    if earlier is None:
        earlier = Earlier() if dry_run else finish_earlier(tending, wait)
    if earlier.waits_s:
        return Forgotten(earlier=earlier, waits_s=earlier.waits_s)
    planned = tending.state() if dry_run else free_state(tending)
    lake = Lake(tending.lake, tending.storage)
    lake.require()
    if chosen.run is not None:
        lake.resolve(chosen.run)
    work = forgetting.plan(lake, chosen)
    chosen = chosen.with_uris(work.uris)
    result = _planned(lake, chosen, work, earlier)
    if chosen.run is None and (dry_run or not work.affected):
        result.traces = traces.remove(tending, chosen, dry_run=True)
    nothing = not work.affected and not result.traces.pruned and not result.traces.removed
    if nothing and chosen.run is None:
        if not dry_run:
            result.waits_s = clear(tending, wait=wait)
        if earlier.command is None:
            raise UserError(f"{tending.lake}: holds nothing of these images; nothing was changed")
        return result
    if dry_run:
        return result
    if busy := [entry.training for entry in result.models if entry.at_work]:
        raise forgetting.AtWorkError(
            f"training {busy[0]}: is at work and learns from these images; stop it, or let it end, and call again"
        )
    forgetting.require_idle(lake, chosen, len(planned.forgets) + 1)
    id_ = new_run_id()
    forgetting.keep_chosen(tending, id_, chosen)
    _keep_report(tending, id_, result)
    write_forgotten(lake.uri, lake.storage, id_, chosen.uris, chosen.folders, chosen.run)
    groups = forgetting.stage(lake, work, chosen, id_, tending)
    replacement = commit(tending, planned, id_, "forget", groups)
    traces.note_rowless(Lake(tending.lake, tending.storage), chosen)
    withdraw_packs(lake, chosen)
    if chosen.run is None:  # again: a training may have read the labels since, and before the commit
        result.models, result.problems = learnt(lake, chosen)
        _keep_report(tending, id_, result)
    result.waits_s = _finished_after(tending, replacement, wait, result)
    if not result.waits_s:
        result.waits_s = clear(tending, wait=wait)
    return result


def _planned(lake: Lake, chosen: Chosen, work: ForgetPlan, earlier: Earlier) -> Forgotten:
    models, problems = learnt(lake, chosen) if chosen.run is None else ([], [])
    result = Forgotten(models=models, problems=problems, earlier=earlier)
    result.add(work)
    return result
