"""What is exported: images with their instances, chosen by SQL, read some thousand images at a time.

A row of `exported`, of which --where speaks, is an instance with the columns of its image; an image without instances has
one row, in which the columns of an instance are null.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from masklake.jobs.query.condition import blaming, no_image_fits, require_condition
from masklake.jobs.query.literals import literal
from masklake.pipeline.errors import UserError
from masklake.pipeline.export.image import Contents, ExportImage
from masklake.pipeline.labels import sets
from masklake.pipeline.labels.detected import detected_instance
from masklake.pipeline.labels.formats.coco_writer import common_folder
from masklake.pipeline.labels.sets import LabelSet

if TYPE_CHECKING:
    from masklake.jobs.query.database import Database

_IMAGES_AT_ONCE = 20_000
"""Positions of a run's manifest that one query covers: sorted rows of so many images are held at most."""
_ROWS_AT_ONCE = 1_000

_RESULTS = """
with exported as (
    select i.*, n.* exclude (run, image_id, uri, model)
    from (from images where status = 'ok' and {part}) i
    left join (from instances where score >= {score} and {part}) n using (run, image_id)
)
"""
_LABELS = """
with exported as (
    select l.* from all_labels l join labelled using (uri, labelled_at) where l.split in ({splits})
)
"""
_CLASSES = """
select label, max(label_id), list(distinct list_transform(keypoints, lambda keypoint: keypoint.name)), count(*)
from exported where label is not null and ({where}) group by label order by label
"""
_ENDS = "select min(uri), max(uri), approx_count_distinct(uri) from exported where ({where})"
# Without --where there is nothing to join, and memory does not grow with the lake.
_EVERY_IMAGE = "with exported as (from images where status = 'ok') "
_EVERY_INSTANCE = "with exported as (from instances where score >= {score}) "
_PARTS = """
select run, min(image_id), max(image_id) from images where status = 'ok' group by run order by run
"""
_RESULT_COLUMNS = """
select run, image_id, uri, etag, width, height, model, instance, label_id, label, score, x, y, w, h, mask, keypoints
from exported where ({where}) order by run, image_id, instance
"""
_LABEL_COLUMNS = "select * from exported where ({where}) order by uri, instance"
_RESULT_NAMES = "select distinct label from instances order by 1"
_LABEL_NAMES = "select distinct label from labels order by 1"
_FAILURES = "select status, count(*) from images where status <> 'ok' group by 1 order by 1"
_ALL = "true"


@dataclass(frozen=True, kw_only=True)
class ExportSelection:
    """Which images and instances. `where` is SQL of the user; `score` leaves instances out, and their images in."""

    labels: bool = False
    where: str | None = None
    score: float = 0.0
    split: str | None = None


class Source:
    """The images of a lake that a selection means. Raises UserError where `where` may not run, or nothing fits."""

    def __init__(self, database: Database, selection: ExportSelection) -> None:
        self._database = database
        self._selection = selection
        if selection.where is not None:
            require_condition(database, selection.where)
        self._where = _ALL if selection.where is None else f"\n{selection.where}\n"
        with blaming(database, selection.where):
            images, instances = self._heads()
            low, high, self.images = self._rows(images + _ENDS.format(where=self._where))[0]
            """About how many images fit, before --split of results and what cannot be copied."""
        classes = self._rows(instances + _CLASSES.format(where=self._where))
        if not self.images:
            raise _nothing(database, selection)
        self.contents = Contents(
            ids=sets.number_classes({label: id_ for label, id_, _, _ in classes}, {}),
            keypoints={
                label: tuple(dict.fromkeys(name for names in lists or () for name in names or ()))
                for label, _, lists, _ in classes
                if any(lists or ())
            },
            folder=common_folder([low, high]),
            detected=not selection.labels,
        )

    def failures(self) -> dict[str, int]:
        """Images that have no results, by status."""
        if self._selection.labels:
            return {}
        return dict(self._rows(_FAILURES))

    def __iter__(self) -> Iterator[ExportImage]:
        if self._selection.labels:
            rows = self._stream(self._head() + _LABEL_COLUMNS.format(where=self._where))
            for _, group in groupby(rows, lambda row: row["uri"]):
                yield ExportImage(labels=sets.from_rows(group)[0])
            return
        for part in parts(self._rows(_PARTS)):
            rows = self._stream(self._head(part) + _RESULT_COLUMNS.format(where=self._where))
            for _, group in groupby(rows, lambda row: (row["run"], row["image_id"])):
                image = _detected(list(group))
                if self._selection.split in (None, image.split):
                    yield image

    def _heads(self) -> tuple[str, str]:
        """What is asked for the images, and for the classes."""
        if self._selection.labels or self._selection.where is not None:
            return self._head(), self._head()
        return _EVERY_IMAGE, _EVERY_INSTANCE.format(score=float(self._selection.score))

    def _head(self, part: str = _ALL) -> str:
        if not self._selection.labels:
            return _RESULTS.format(part=part, score=float(self._selection.score))
        splits = (self._selection.split,) if self._selection.split else sets.SPLITS
        return _LABELS.format(splits=", ".join(f"'{split}'" for split in splits))

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        return self._database.rows(sql)

    def _stream(self, sql: str) -> Iterator[dict[str, Any]]:
        relation = self._database.relation(self._database.prepare(sql).text)
        with self._database.explaining(limited=False):  # the images are written meanwhile
            for batch in relation.to_arrow_reader(_ROWS_AT_ONCE):
                yield from batch.to_pylist()


def parts(runs: Iterable[tuple[str, int, int]], most: int = _IMAGES_AT_ONCE) -> Iterator[str]:
    """Conditions that cut (run, lowest, highest image_id) into pieces of at most `most` positions; small runs are together."""
    together: list[str] = []
    held = 0
    for run, low, high in runs:
        count = high - low + 1
        if together and held + count > most:
            yield _between(together)
            together, held = [], 0
        if count <= most:
            together.append(run)
            held += count
            continue
        for start in range(low, high + 1, most):
            yield f"run = {literal(run)} and image_id between {start} and {start + most - 1}"
    if together:
        yield _between(together)


def _between(runs: list[str]) -> str:
    return f"run in ({', '.join(map(literal, runs))})"


def _detected(rows: list[dict[str, Any]]) -> ExportImage:
    """The image of its rows. What a killed attempt left twice is there once."""
    first = rows[0]
    by_rank = {row["instance"]: row for row in rows if row["instance"] is not None}
    ranked = list(by_rank.values())
    return ExportImage(
        labels=LabelSet(
            uri=first["uri"],
            width=first["width"],
            height=first["height"],
            instances=tuple(map(detected_instance, ranked)),
            source="model",
            split=sets.split_of(first["uri"]),
        ),
        scores=tuple(row["score"] for row in ranked),
        detected_keypoints=tuple(row["keypoints"] or () for row in ranked),
        etag=first["etag"],
        model=first["model"],
    )


def _nothing(database: Database, selection: ExportSelection) -> UserError:
    lake = database.lake.uri
    if selection.where is not None:
        names = database.rows(_LABEL_NAMES if selection.labels else _RESULT_NAMES)
        return no_image_fits(lake, selection.where, [label for (label,) in names])
    if selection.labels:
        split = f" of split {selection.split}" if selection.split else ""
        return UserError(f"{lake}: has no labels{split}; `masklake labels import FILE {lake}` takes some in")
    failed = database.rows(_FAILURES)
    counts = ", ".join(f"{count:,} {status}" for status, count in failed)
    why = (
        f'none of its images ended ok ({counts}): `masklake query {lake} "from errors"` says why'
        if failed
        else (f"has no results; `masklake segment SOURCE {lake}` makes some, --labels exports its labels")
    )
    return UserError(f"{lake}: {why}")
