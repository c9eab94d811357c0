"""The labels of a lake: `labels/part-<time>.parquet`, only ever added to.

One import is one part, written in one atomic step. Its name is the time that all its label sets carry, and it is written
only if no part has that name: of two importers at once none can overwrite the other, and one set of an image is always
the newest. Should a clock be behind, the time is moved past the newest set that the part replaces.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import pyarrow as pa
from masklake.pipeline.errors import UserError
from masklake.pipeline.labels import sets as labels
from masklake.pipeline.labels.sets import LabelSet
from masklake.pipeline.lake.forgotten import ForgottenSince, forgets_done
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.storage import parquet
from masklake.pipeline.storage.explain import explaining
from masklake.pipeline.storage.store import UNFINISHED_S, join

_TICK = datetime.timedelta(microseconds=1)


@dataclass(frozen=True, kw_only=True)
class Added:
    """What an import did. `part` is None where nothing had to be written."""

    part: str | None
    new: int
    replaced: int
    unchanged: int
    """Images whose newest label set is equal to the given one already."""
    instances: int
    """Written rows of instances."""
    forgotten: int = 0
    """Images that were forgotten since the import began (masklake forget): they are left out."""


def newest(lake: Lake, uris: Collection[str] | None = None) -> list[LabelSet]:
    """The newest label set of every labelled image, or of those of `uris`, by uri."""
    return labels.from_table(newest_rows(lake, uris))


def newest_rows(
    lake: Lake, uris: Collection[str] | None = None, as_of: datetime.datetime | None = None
) -> pa.Table:
    """The rows of `labels` that belong to the newest label set of their image, or the newest at the time `as_of`."""
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    if not lake.parts("labels"):
        return labels.to_table([], datetime.datetime.now(datetime.UTC))
    dataset = lake.dataset("labels")
    chosen = None if uris is None else ds.field("uri").isin(pa.array(uris, pa.string()))
    if as_of is not None:
        known = ds.field("labelled_at") <= as_of
        chosen = known if chosen is None else chosen & known
    with explaining(lake.uri, "read labels"):
        table = dataset.to_table(filter=chosen)
    times = table.group_by("uri").aggregate([("labelled_at", "max")])
    positions = pc.index_in(table["uri"], times["uri"].combine_chunks())
    return table.filter(pc.equal(table["labelled_at"], times["labelled_at_max"].take(positions)))


def classes(lake: Lake) -> dict[str, int]:
    """The id of every class that any label set of the lake names, of the newest one that does."""
    if not lake.parts("labels"):
        return {}
    dataset = lake.dataset("labels")
    with explaining(lake.uri, "read labels"):
        table = dataset.to_table(columns=["label", "label_id", "labelled_at"])
    table = table.set_column(0, "label", table["label"].cast(pa.string()))
    newest_ids = table.group_by(["label", "label_id"]).aggregate([("labelled_at", "max")])
    rows = sorted(newest_ids.to_pylist(), key=lambda row: row["labelled_at_max"])
    return {row["label"]: row["label_id"] for row in rows if row["label"] is not None}


def add(
    lake: Lake,
    sets: Iterable[LabelSet],
    current: Iterable[LabelSet] | None = None,
    *,
    forgets: int | None = None,
    dry_run: bool = False,
) -> Added:
    """Write the label sets that differ from the newest ones of their images (`current`, read if not given).

    `forgets` is what `forgets_done` said when the import began (None: now). `dry_run` only tells what that would be. Raises UserError
    when they cannot be written; then nothing is.
    """
    if forgets is None:
        forgets = forgets_done(lake.uri, lake.storage)
    wanted = list(sets)
    if current is None:
        current = newest(lake, [label_set.uri for label_set in wanted])
    known = {label_set.uri: label_set for label_set in current}
    changed = [label_set for label_set in wanted if known.get(label_set.uri) != label_set]
    forgotten, heeded = ForgottenSince.load(lake.uri, lake.storage, forgets)
    kept = [label_set for label_set in changed if not forgotten.has(label_set.uri)]
    n_forgotten, changed = len(changed) - len(kept), kept
    replaced = sum(label_set.uri in known for label_set in changed)
    part = _write(lake, changed) if changed and not dry_run else None
    if part is not None:
        _require_remembered(lake, part, changed, heeded)
    return Added(
        part=part,
        new=len(changed) - replaced,
        replaced=replaced,
        unchanged=len(wanted) - len(changed),
        instances=sum(len(label_set.instances) for label_set in changed),
        forgotten=n_forgotten,
    )


def _require_remembered(lake: Lake, part: str, written: list[LabelSet], heeded: int) -> None:
    """Raises UserError where images were forgotten while their labels were being written, so that forget did not see them."""
    forgotten, _ = ForgottenSince.load(lake.uri, lake.storage, heeded)
    if any(forgotten.has(label_set.uri) for label_set in written):
        raise UserError(
            f"{part}: was written while `masklake forget` took out images that it holds labels of; call that forget again"
        )


def _write(lake: Lake, changed: list[LabelSet]) -> str:
    lake.storage.clear_unfinished(join(lake.uri, "labels"), UNFINISHED_S)
    moment = max(datetime.datetime.now(datetime.UTC), _newest_time(lake) + _TICK)
    while True:
        uri = join(lake.uri, "labels", f"part-{moment:%Y%m%dT%H%M%S%fZ}.parquet")
        with explaining(uri, "write the labels"):
            if lake.storage.put_new(uri, parquet.encode(labels.to_table(changed, moment))):
                return uri
        moment += _TICK


def _newest_time(lake: Lake) -> datetime.datetime:
    """The time of the newest label set of the lake."""
    import pyarrow.compute as pc

    oldest = datetime.datetime.min.replace(tzinfo=datetime.UTC)
    if not lake.parts("labels"):
        return oldest
    dataset = lake.dataset("labels")
    with explaining(lake.uri, "read labels"):
        newest_time: datetime.datetime | None = pc.max(
            dataset.to_table(columns=["labelled_at"])["labelled_at"]
        ).as_py()
    return newest_time or oldest
