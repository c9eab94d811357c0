"""From staged parts to parts in place: the steps that `compact` and `forget` share.

    stage      new parts below LAKE/replacing/<id>, where nobody looks
    commit     one conditional write of LAKE/replacements.json
    wait       while readers that listed the old parts may still be at work
    exchange   put the new parts in place, remove the old ones
    rest       once more, if rows of forgotten images have come in since
    retire     clear the object; readers that listed the staged parts have as long again
    clear      remove what is staged

A process that is killed leaves a lake that is whole at each of these steps, and the next call finishes what is committed and removes
what is not. Readers that know nothing of the object see the old parts until the exchange. During it a part and those that it
replaces lie side by side for some seconds: a reader that takes every file that is there counts their rows twice then.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from masklake.pipeline.errors import UserError
from masklake.pipeline.lake import forgotten
from masklake.pipeline.lake.replacements import (
    FOLDER,
    OBJECT,
    PartGroup,
    Replacement,
    Replacements,
    Retired,
    final_path,
    staged_path,
)
from masklake.pipeline.storage.ahead import ahead
from masklake.pipeline.storage.explain import explaining
from masklake.pipeline.storage.store import UNFINISHED_S, Storage, join
from masklake.pipeline.tend.crash_points import reach

_GROUPS_AT_ONCE = 32
_MOST_PASSES = 5
_SETTLE_S = 2.0
"""Longer than one query takes from its first listing to its last."""

Say = Callable[[str], None]
"""Takes a line for people."""


@dataclass(frozen=True, kw_only=True)
class Tending:
    """What `compact` and `forget` work with."""

    lake: str
    storage: Storage
    grace_s: float
    say: Say = lambda _: None

    def now(self) -> datetime.datetime:
        """The time in UTC."""
        return datetime.datetime.now(datetime.UTC)

    def state(self) -> Replacements:
        """What replacements.json says now."""
        return Replacements.load(self.lake, self.storage)

    def pause(self, seconds: float) -> None:
        """Wait."""
        if seconds > 0:
            time.sleep(seconds)


def tables_of(run: str) -> tuple[str, ...]:
    """The tables of which a group of this run has parts, the commit last."""
    return ("instances", "images") if run else ("labels",)


def free_state(tending: Tending) -> Replacements:
    """What counts now, for work that is to be committed upon it. Raises UserError where other work is committed and not finished."""
    state = tending.state()
    if state.current is not None:
        raise UserError(
            f"{tending.lake}: `masklake {state.current.command}` is at work there; let it finish, then call again"
        )
    return state


def commit(
    tending: Tending, planned: Replacements, id_: str, command: str, groups: Sequence[PartGroup]
) -> Replacement:
    """From now on `groups` count as they say.

    `planned` is the state that was read before the parts were listed. Raises UserError where another process has committed since:
    what was staged may hold rows that it has taken out.
    """
    reach("all staged")
    replacement = Replacement(
        id=id_,
        command=command,
        committed_at=tending.now().isoformat(),
        grace_s=tending.grace_s,
        groups=tuple(groups),
    )
    forgets = (*planned.forgets, *([id_] if command == "forget" else []))
    if not replace(planned, current=replacement, forgets=forgets).save(tending.lake, tending.storage):
        raise _changed(tending)
    reach("committed")
    return replacement


@dataclass(frozen=True, kw_only=True)
class Ending:
    """What belongs to committed work beside its parts. Each may be called again after an interruption."""

    prepare: Callable[[], None]
    """Before the old parts go. Raises UserError where that is not possible yet."""
    remove_traces: Callable[[], None]
    """Once the old parts are gone."""
    rest: Callable[[], Sequence[PartGroup]] = tuple
    """Stage what the work is about and has come in since it was committed: nothing, at the end."""


def finish(tending: Tending, replacement: Replacement, ending: Ending) -> None:
    """Bring committed work to its end. It may be called again after any interruption.

    Raises UserError, with the lake whole and the work still committed, where that is not possible yet.
    """
    for _ in range(_MOST_PASSES):
        waits = replacement.waits(tending.now())
        if waits:
            tending.say(
                f"committed; the old parts stay {waits:.0f} s for readers that opened the lake before (the next call goes on, should this one be ended)"
            )
            tending.pause(waits)
        reach("waited")
        ending.prepare()
        groups = list(replacement.groups)
        for start in range(0, len(groups), _GROUPS_AT_ONCE):
            _require_ours(tending, replacement.id)
            _exchange(tending, replacement.id, groups[start : start + _GROUPS_AT_ONCE])
            tending.say(f"in place: {min(start + _GROUPS_AT_ONCE, len(groups)):,} of {len(groups):,} parts")
        reach("all in place")
        ending.remove_traces()
        reach("traces removed")
        rest = tuple(ending.rest())
        if not rest:
            break
        reach("all staged")
        replacement = replace(replacement, groups=rest, committed_at=tending.now().isoformat())
        if not replace(_require_ours(tending, replacement.id), current=replacement).save(
            tending.lake, tending.storage
        ):
            raise _changed(tending)
        reach("committed")
    else:
        raise UserError(
            f"{tending.lake}: rows of these images come in again and again; stop what writes them, and call again"
        )
    state = _require_ours(tending, replacement.id)
    retired = Retired(id=replacement.id, since=tending.now().isoformat(), grace_s=replacement.grace_s)
    if not replace(state, current=None, retired=(*state.retired, retired)).save(
        tending.lake, tending.storage
    ):
        raise _changed(tending)
    reach("retired")


def _require_ours(tending: Tending, id_: str) -> Replacements:
    """What counts in the lake now. Raises UserError where another process, which took this one for dead, has finished the work `id_`."""
    state = tending.state()
    if state.current is None or state.current.id != id_:
        raise _changed(tending)
    return state


def _exchange(tending: Tending, id_: str, groups: Sequence[PartGroup]) -> None:
    """Put the new parts of `groups` in place, and remove the old ones.

    In an order, and with pauses, such that a query that lists images and instances one after the other counts an image by one
    of its two parts, whose instances it has listed as well, or fails.
    """
    settle = min(_SETTLE_S, tending.grace_s)

    def put(group: PartGroup, table: str) -> None:
        assert group.new is not None  # noqa: S101  # narrows the type: the caller asks
        staged = join(tending.lake, staged_path(id_, table, group.run, group.new))
        with explaining(staged, "read the new part"):
            data = tending.storage.read(staged)
        uri = join(tending.lake, final_path(table, group.run, group.new))
        with explaining(uri, "write the part"):
            tending.storage.write(uri, data)
        reach("part put in place")

    def remove(uri: str) -> None:
        with explaining(uri, "delete it"):
            tending.storage.delete(uri)
        reach("old part removed")

    for table in ("labels", "instances", "images"):
        todo = [group for group in groups if group.new is not None and table in tables_of(group.run)]
        _each(lambda group, table=table: put(group, table), todo)
        tending.pause(settle if todo else 0)
    for table in ("images", "instances", "labels"):
        old = [
            join(tending.lake, final_path(table, group.run, name))
            for group in groups
            if table in tables_of(group.run)
            for name in group.old
            if name != group.new
        ]
        _each(remove, old)
        tending.pause(settle if old and table == "images" else 0)


def _each(work: Callable, items: Iterable) -> None:
    for _ in ahead(work, items):
        pass


def clear(tending: Tending, *, wait: bool) -> float:
    """Remove what was never committed, and what readers no longer need of retired work.

    `wait`: until that time has come for all of it; else what still has to stay stays, for the next call, and the seconds until then are
    returned. Only the holder of the lock may call it: what is not committed is a killed process's. So are files that nobody has
    finished for long, wherever in the lake.
    """
    tending.storage.clear_unfinished(tending.lake, UNFINISHED_S)
    state = tending.state()
    if wait:
        waits = max((retired.waits(tending.now()) for retired in state.retired), default=0.0)
        if waits:
            tending.say(
                f"all is in place; what was staged stays {waits:.0f} s for readers that opened the lake before"
            )
        tending.pause(waits)
    left = {retired: 0.0 if wait else retired.waits(tending.now()) for retired in state.retired}
    stay = tuple(retired for retired in state.retired if left[retired])
    needed = {retired.id for retired in stay} | ({state.current.id} if state.current else set())
    folder = join(tending.lake, FOLDER)
    with explaining(folder, "list what is staged"):
        staged = tending.storage.list(folder)
    unneeded = [uri for uri in staged if uri.removeprefix(f"{folder}/").partition("/")[0] not in needed]
    digests = forgotten.uris(tending.lake, tending.storage)
    unneeded += [uri for id_, uri in digests.items() if id_ not in state.forgets]
    for uri in unneeded:
        with explaining(uri, "delete it"):
            tending.storage.delete(uri)
        reach("staging removed")
    if stay != state.retired and not replace(state, retired=stay).save(tending.lake, tending.storage):
        raise _changed(tending)
    reach("finished")
    return max(left.values(), default=0.0)


def _changed(tending: Tending) -> UserError:
    return UserError(f"{join(tending.lake, OBJECT)}: another process changed it at the same time; call again")
