"""Parts that stand in for others: the one object by which `masklake compact` and `masklake forget` commit.

    LAKE/replacements.json                                        which parts count in place of which, and since when
    LAKE/replacing/<id>/images/run=<run>/part-….parquet           the new parts (instances and labels likewise)

The new parts are written first, where no reader looks for parts. One conditional write of replacements.json is the commit: from
then on Masklake's readers take the new parts in place of the old ones. The old ones stay for a while, for readers that listed them
before, and for readers that know nothing of this object. Then the new parts are put in place, the old ones are removed, and the
object is cleared. A reader reads this object before it lists parts: so it sees all rows, and each of them once, at any time.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from masklake.pipeline.errors import UserError
from masklake.pipeline.schema import SCHEMA_VERSION
from masklake.pipeline.storage.conditions import require_conditions
from masklake.pipeline.storage.explain import explaining
from masklake.pipeline.storage.store import Storage, join

OBJECT = "replacements.json"
FOLDER = "replacing"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, kw_only=True)
class PartGroup:
    """Parts of one run, or, where `run` is "", of labels, and the part with their rows that counts in their place."""

    run: str
    old: tuple[str, ...]
    """Names. Of a run, each stands for a part of images and one of instances."""
    new: str | None
    """The name of the new part, which may be the name of an old one; None where nothing is left of the rows."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """The bytes of the new part, by table."""


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """Committed work that is to be finished: `groups` count as they say, until all is in place."""

    id: str
    command: str
    committed_at: str
    grace_s: float
    groups: tuple[PartGroup, ...]

    def waits(self, now: datetime.datetime) -> float:
        """Seconds from `now` until the old parts may be removed."""
        return _left(self.committed_at, self.grace_s, now)


@dataclass(frozen=True, kw_only=True)
class Retired:
    """Work that is in place; only readers that listed its folder before still read there."""

    id: str
    since: str
    grace_s: float

    def waits(self, now: datetime.datetime) -> float:
        """Seconds from `now` until the folder may be removed."""
        return _left(self.since, self.grace_s, now)


def _left(since: str, grace_s: float, now: datetime.datetime) -> float:
    return max(0.0, grace_s - (now - datetime.datetime.fromisoformat(since)).total_seconds())


@dataclass(frozen=True, kw_only=True)
class Replacements:
    """The content of replacements.json, and the version of it that was read (None: there is no such object)."""

    current: Replacement | None = None
    retired: tuple[Retired, ...] = ()
    forgets: tuple[str, ...] = ()
    """The ids of all calls of `masklake forget` that have committed (pipeline/lake/forgotten.py says what they took out)."""
    etag: str | None = None

    @property
    def forgets_done(self) -> int:
        """How many of them are done: what one that is not done takes out is not to come in again meanwhile."""
        return len(self.forgets) - (self.current is not None and self.current.command == "forget")

    @classmethod
    def load(cls, lake: str, storage: Storage) -> Replacements:
        """What counts in the lake. Raises UserError when that cannot be read, or a newer Masklake wrote it."""
        uri = join(lake, OBJECT)
        with explaining(uri, "read what replaces which parts"):
            [fetched] = storage.get_many([uri])
            if isinstance(fetched, FileNotFoundError | NotADirectoryError):
                return cls()
            if isinstance(fetched, Exception):
                raise fetched
        return _parse(fetched.data, uri, fetched.etag)

    def save(self, lake: str, storage: Storage) -> bool:
        """Write this in place of the version `etag`, in one conditional step; False where another process was faster.

        Raises UserError on storage where two could both succeed.
        """
        uri = join(lake, OBJECT)
        content: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "written_at": datetime.datetime.now(datetime.UTC).isoformat(),  # no two versions have equal bytes
            "current": asdict(self.current) if self.current else None,
            "retired": [asdict(retired) for retired in self.retired],
            "forgets": self.forgets,
        }
        data = json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass")
        with explaining(uri, "write what replaces which parts"):
            require_conditions(lake, storage)
            if self.etag is None:
                return storage.put_new(uri, data)
            return storage.replace(uri, data, self.etag)

    def hidden(self, table: str) -> set[tuple[str, str]]:
        """(run, name) of parts in place that do not count, though they are listed."""
        return {
            (group.run, name)
            for group in self._groups(table)
            for name in (*group.old, *([group.new] if group.new else []))
        }

    def standing_in(self, table: str) -> Iterable[tuple[str, str, str, int]]:
        """(run, name, path below the lake, bytes) of the parts that count in their place."""
        for group in self._groups(table):
            if group.new is not None and self.current is not None:
                path = staged_path(self.current.id, table, group.run, group.new)
                yield group.run, group.new, path, group.sizes[table]

    def _groups(self, table: str) -> list[PartGroup]:
        return (
            [group for group in self.current.groups if bool(group.run) == (table != "labels")]
            if self.current
            else []
        )


def final_path(table: str, run: str, name: str) -> str:
    """Where a part lies below the lake."""
    return join(table, f"run={run}", name) if run else join(table, name)


def staged_path(id_: str, table: str, run: str, name: str) -> str:
    """Where the work `id_` keeps a new part, below the lake."""
    return join(FOLDER, id_, final_path(table, run, name))


def require_untouched(lake: str, run: str, storage: Storage) -> None:
    """Raises UserError while parts of the run are being replaced, so that it cannot be resumed yet."""
    current = Replacements.load(lake, storage).current
    if current and any(group.run == run for group in current.groups):
        raise UserError(
            f"run {run}: `masklake {current.command}` has begun on its rows and is not finished; call that again, and then "
            "resume the run"
        )


def _parse(data: bytes, uri: str, etag: str | None) -> Replacements:
    try:
        content = json.loads(data)
        version = content["schema_version"]
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise UserError(
                f"{uri}: written with lake schema {version}, this Masklake knows {SCHEMA_VERSION}; upgrade Masklake"
            )
        current = content["current"]
        return Replacements(
            current=None if current is None else _replacement(current),
            retired=tuple(Retired(**retired) for retired in content["retired"]),
            forgets=tuple(_names(content["forgets"])),
            etag=etag,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{uri}: is not what `masklake compact` and `masklake forget` write ({error!r}); restore it: it says which parts count"
        ) from error


def _names(names: list[str]) -> list[str]:
    """`names`, which become parts of paths. Raises ValueError for one that must not."""
    if wrong := [name for name in names if not _NAME.fullmatch(name)]:
        raise ValueError(f"{wrong[0]!r} is no name")
    return names


def _replacement(content: dict[str, Any]) -> Replacement:
    groups = tuple(PartGroup(**{**group, "old": tuple(group["old"])}) for group in content["groups"])
    replacement = Replacement(**{**content, "groups": groups})
    names = [name for group in groups for name in (*group.old, group.new, group.run or None)]
    _names([replacement.id, *(name for name in names if name is not None)])
    replacement.waits(datetime.datetime.now(datetime.UTC))  # whether its time is one
    return replacement
