"""The rows that a gallery shows: lists of images, and the instances of a few of them, as plain values for JSON.

A list is read in windows of some thousand images, so that memory does not grow with the lake, and pages of one window cost
no query. The instances of a page are asked for by run and image_id, by which Parquet's row groups are pruned.
"""

# ruff: noqa: S608  # texts come in as SQL literals, other words are checked, and the sandbox looks through every statement

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from masklake.jobs.query.condition import blaming, listed, no_image_fits, require_condition
from masklake.jobs.query.literals import literal
from masklake.jobs.terminal.suggestions import did_you_mean
from masklake.jobs.view.selection import ANY_CLASS, DOUBTED, LABELS, NEWEST, SIZES, GalleryFilter
from masklake.pipeline.errors import UserError

if TYPE_CHECKING:
    from masklake.jobs.query.database import Database

WINDOW = 10_000
"""Images that one query lists."""
_WINDOWS_KEPT = 16
_LISTED_RUNS = 500
_HELD = 200_000
"""Up to so many images their rows are kept: 10,000 parts are opened once then, and not for each page."""
_HELD_PARTS = 20_000
_PART_BYTES = 6_000
"""Of an images part of very few rows."""
_ROW_BYTES = 20
"""Of a row in it, at least; larger parts compress URIs and etags to some 30 to 60."""
_LOOKED_THROUGH = 20_000
"""Images whose names are compared with a misspelt one."""

_ALL = GalleryFilter(source=NEWEST)
_COLUMNS = (
    "id", "run", "image_id", "uri", "width", "height", "status", "error", "etag", "n", "model", "time", "split", "doubt",
)  # fmt: skip
_RESULT_IMAGES = """
    select run || '~' || image_id as id, run, image_id, uri, width, height, status, error, etag, n_instances as n, model,
        processed_at as time from {table}
"""
_LABELLED_IMAGES = """
    select 'labels~' || md5(uri) as id, '' as run, null::bigint as image_id, uri, width, height, 'ok' as status,
        null::varchar as error, null::varchar as etag, n_instances as n, source as model, labelled_at as time from labelled
"""
# --where speaks of an instance with the columns of its image, as in `masklake export`.
_WHERE = """
    select distinct uri from (
        select i.*, n.* exclude (run, image_id, uri, model) from {images} i left join {instances} n using (run, image_id)
    ) where (
{where}
    )
"""
_WHERE_LABELS = (
    "select distinct l.uri from all_labels l join labelled using (uri, labelled_at) where (\n{where}\n)"
)
_INSTANCE_COLUMNS = """
    instance, label, score, x, y, w, h, area, mask.size as size, mask.counts as counts, keypoints
"""


class LakeGallery:
    """A lake as a gallery sees it. Raises UserError where the lake cannot be read, or `where` may not run.

    where: SQL of the user, a condition on instances with the columns of their image; only images with one are listed.
    """

    def __init__(self, database: Database, where: str | None = None) -> None:
        self._database = database
        self._where = where
        self._newest = _RESULT_IMAGES.format(table="images")
        if self._may_be_held(database) and database.hold(
            "newest_listed", f"{self._newest} order by time desc", _HELD
        ):
            self._newest = "from newest_listed"
        if where is not None:
            require_condition(database, where)
            with blaming(database, where):
                self.count(GalleryFilter(source=NEWEST if database.lake.parts("images") else LABELS))
        # One for each gallery, so that a lake that is opened again is read again.
        self.window = lru_cache(_WINDOWS_KEPT)(self._window)
        self.count = lru_cache(1000)(self.count)  # type: ignore[method-assign]  # as above

    @staticmethod
    def _may_be_held(database: Database) -> bool:
        """Whether the images can be so few, by the size of their parts; else all would be read to find that they are not."""
        parts = database.lake.parts("images")
        rows = sum(max(0, (part.size or 0) - _PART_BYTES) for part in parts) / _ROW_BYTES
        return 0 < len(parts) <= _HELD_PARTS and rows <= _HELD

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What there is to choose from: counts of images by status, classes, runs (the newest), splits of labels."""
        statuses = self._rows(f"select status, count(*) from ({self._newest}) group by 1 order by 2 desc, 1")
        classes = self._rows("""
            select label, sum(n)::bigint, arg_min(id, kind) from (
                select label, count(*) as n, min(label_id) as id, 1 as kind from instances group by 1
                union all select label, count(*), min(label_id), 2 from labels group by 1
            ) where label is not null group by 1 order by 2 desc, 1""")
        # From the first of them on, so that the parts of the others are not opened once more.
        newest = sorted({part.run for part in self._database.lake.parts("images")})[-_LISTED_RUNS:]
        runs = newest and self._rows(
            f"select run, count(*), min(model) from all_images where run >= {literal(newest[0])} group by 1 order by 1 desc"
        )
        return {
            "lake": self._database.lake.uri,
            "images": sum(n for _, n in statuses),
            "statuses": [list(row) for row in statuses],
            "classes": [list(row) for row in classes],
            "runs": [list(row) for row in runs],
            "splits": [
                list(row) for row in self._rows("select split, count(*) from labelled group by 1 order by 1")
            ],
            "where": self._where,
        }

    def check(self, choice: GalleryFilter, *others: str) -> None:
        """Raises UserError, with did-you-mean, for a class or a run that the lake does not have."""
        classes = [label for label, *_ in self.summary["classes"]]
        if choice.label not in ("", ANY_CLASS, *classes):
            raise UserError(
                f"{self._database.lake.uri}: has no class {choice.label!r}{did_you_mean(choice.label, classes)} "
                f"({listed(classes)})"
            )
        for source in (choice.source, *others):
            if source not in (NEWEST, LABELS):
                self._database.lake.resolve(source)

    def count(self, choice: GalleryFilter) -> int:
        """How many images fit."""
        if choice == replace(_ALL, sort=choice.sort) and self._where is None:
            return int(self.summary["images"])
        ((count,),) = self._rows(f"select count(*) from ({self._list(choice)})")
        return int(count)

    def _window(self, choice: GalleryFilter, number: int) -> list[dict[str, Any]]:
        """The images from WINDOW * number on, WINDOW of them at most, in the order that was chosen."""
        order = {"newest": "time desc", "count": "n desc", "doubt": "doubt desc, n desc"}[choice.sort]
        rows = self._rows(
            f"{self._list(choice)} order by {order}, run desc, image_id, uri limit {WINDOW} offset {WINDOW * number}"
        )
        return [dict(zip(_COLUMNS, row, strict=True)) for row in rows]

    def page(self, choice: GalleryFilter, first: int, size: int) -> list[dict[str, Any]]:
        """The images from position `first` on."""
        rows = []
        for number in range(first // WINDOW, (first + size - 1) // WINDOW + 1):
            start = number * WINDOW
            rows += self.window(choice, number)[max(0, first - start) : first + size - start]
        return rows

    def image(self, id_: str) -> dict[str, Any] | None:
        """The image of an id; None where there is none (any more)."""
        run, _, rest = id_.rpartition("~")
        if run == LABELS:
            inner, condition = _LABELLED_IMAGES, f"id = {literal(id_)}"
        elif rest.isascii() and rest.isdigit() and len(rest) < 19:
            inner = _RESULT_IMAGES.format(table="all_images")
            condition = f"run = {literal(run)} and image_id = {int(rest)}"
        else:
            return None
        rows = self._rows(f"""
            select {", ".join(f"i.{name}" for name in _COLUMNS[:-2])}, l.split, null
            from ({inner}) i left join labelled l on l.uri = i.uri where {condition.replace("run =", "i.run =")} limit 1""")
        return dict(zip(_COLUMNS, rows[0], strict=True)) if rows else None

    def named(self, name: str, source: str = NEWEST) -> dict[str, Any]:
        """The image of a URI, or of the end of one that no other image shares. Raises UserError."""
        from masklake.pipeline.storage.store import normalise

        whole = f"select id, uri from ({self._images(source)}) where"
        rows = self._rows(f"{whole} uri in ({_list({name, normalise(name)})}) limit 1") or self._rows(
            f"{whole} ends_with(uri, {literal('/' + name.lstrip('/'))}) order by uri limit 3"
        )
        image = self.image(rows[0][0]) if len(rows) == 1 else None
        if image is not None:
            return image
        lake = self._database.lake.uri
        if rows:
            raise UserError(
                f"{name}: several images end so ({', '.join(uri for _, uri in rows)}, …); write more of one"
            )
        near = did_you_mean(name, [uri.rpartition("/")[2] for (uri,) in self._rows(
            f"select uri from ({self._images(source)}) limit {_LOOKED_THROUGH}"
        )])  # fmt: skip
        raise UserError(
            f'{name}: is not an image of {lake} (`masklake query {lake} "select uri from images"` lists them){near}'
        )

    def nothing_fits(self) -> UserError:
        """Why there is no image, in one line."""
        classes = [label for label, *_ in self.summary["classes"]]
        return no_image_fits(self._database.lake.uri, self._where, classes)

    def instances(
        self, images: Sequence[dict[str, Any]], source: str, most: int
    ) -> dict[str, list[dict[str, Any]]]:
        """The instances of `images`, at most `most` of each, by the images' ids; of images that the source has looked at.

        source: NEWEST for those of the images' own runs (or the labels, where they are labelled images), a run, or LABELS.
        """
        by_uri = {image["uri"]: image["id"] for image in images}
        keys = [
            (image["run"], image["image_id"], image["id"])
            for image in images
            if image["image_id"] is not None
        ]
        if not by_uri:
            return {}
        if source not in (NEWEST, LABELS):
            rows = self._rows(
                f"select run, image_id, uri from all_images where run = {literal(source)} and uri in ({_list(by_uri)})"
            )
            keys = [(run, image_id, by_uri[uri]) for run, image_id, uri in rows]
        rows = [] if source == LABELS else self._detected(keys, most)
        if source == LABELS or (source == NEWEST and len(keys) < len(by_uri)):
            rows = [(by_uri[uri], *rest) for uri, *rest in self._rows(
                f"""select uri, {_INSTANCE_COLUMNS.replace("score", "null")} from labels
                where uri in ({_list(by_uri)}) and instance < {most} order by uri, instance""")]  # fmt: skip
        if source == LABELS:
            covered = [image["id"] for image in images if image["split"] is not None]
        else:
            covered = list(by_uri.values()) if source == NEWEST else [id_ for _, _, id_ in keys]
        shown: dict[str, dict[int, dict[str, Any]]] = {id_: {} for id_ in covered}
        for id_, rank, *values in rows:  # what a killed attempt left twice is there once
            shown.setdefault(id_, {})[rank] = _instance(rank, *values)
        return {id_: list(by_rank.values()) for id_, by_rank in shown.items()}

    def _detected(self, keys: Collection[tuple[str, int, str]], most: int) -> list[tuple[Any, ...]]:
        if not keys:
            return []
        values = ", ".join(f"({literal(run)}, {image_id}, {literal(id_)})" for run, image_id, id_ in keys)
        ids = [image_id for _, image_id, _ in keys]
        return self._rows(f"""
            with k(run, image_id, id) as (values {values})
            select k.id, {_INSTANCE_COLUMNS} from all_instances n join k on n.run = k.run and n.image_id = k.image_id
            where n.run in ({_list({run for run, _, _ in keys})}) and n.image_id between {min(ids)} and {max(ids)}
                and instance < {most} order by k.id, instance""")

    def _images(self, source: str) -> str:
        if source == LABELS:
            return _LABELLED_IMAGES
        return self._newest if source == NEWEST else _RESULT_IMAGES.format(table=_rows_of(source, "images"))

    def _instances(self, source: str) -> str:
        if source == LABELS:
            return "(select '' as run, null::bigint as image_id, uri, label, 1.0 as score, area from labels)"
        return _rows_of(source, "instances")

    def _list(self, choice: GalleryFilter) -> str:
        """The images that fit, as SQL with the columns _COLUMNS."""
        conditions = ["true"]
        key = "uri" if choice.source == LABELS else "run, image_id"
        counted = choice.by_instance or choice.sort != "newest"
        if choice.status:
            conditions.append(f"i.status = {literal(choice.status)}")
        if choice.split:
            conditions.append(
                "l.split is null" if choice.split == "none" else f"l.split = {literal(choice.split)}"
            )
        if choice.by_instance:
            conditions.append("c.n > 0")
        if self._where is not None:
            template = _WHERE_LABELS if choice.source == LABELS else _WHERE
            uris = template.format(
                images=_rows_of(choice.source, "images"),
                instances=self._instances(choice.source),
                where=self._where,
            )
            conditions.append(f"i.uri in ({uris})")
        wanted = ["true"]
        if choice.label not in ("", ANY_CLASS):
            wanted.append(f"label = {literal(choice.label)}")
        if choice.size:
            low, high = SIZES[choice.size]
            wanted.append(f"area >= {low} and area < {high}")
        counts = f"""
            left join (
                select {key}, count(*) filter (score >= {float(choice.score)}) as n, count(*) filter (score between {DOUBTED[0]} and {DOUBTED[1]}) as doubt
                from {self._instances(choice.source)} where {" and ".join(wanted)} group by all
            ) c using ({key})
        """
        n, doubt = ("coalesce(c.n, 0)", "coalesce(c.doubt, 0)") if counted else ("i.n", "null::bigint")
        return f"""
            select i.id, i.run, i.image_id, i.uri, i.width, i.height, i.status, i.error, i.etag, {n} as n, i.model, i.time, l.split,
                {doubt} as doubt
            from ({self._images(choice.source)}) i {counts if counted else ""}
            left join labelled l on l.uri = i.uri where {" and ".join(conditions)}
        """

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        return self._database.rows(sql)


def _instance(rank: int, label: str, score: float | None, *rest: Any) -> dict[str, Any]:
    """The columns of a row, in their order, as the page reads them."""
    *box, area, size, counts, keypoints = rest
    points = [
        [
            point["name"],
            round(point["x"], 2),
            round(point["y"], 2),
            round(point.get("visibility", point.get("score")), 2),
        ]
        for point in keypoints or ()
    ]
    return {
        "instance": rank,
        "label": label,
        "score": None if score is None else round(score, 4),
        "box": [round(side, 2) for side in box],
        "area": area,
        "mask": None if counts is None or size is None else {"size": list(size), "counts": counts},
        "keypoints": points or None,
    }


def _rows_of(source: str, view: str) -> str:
    """The rows of `view` that a run has, or, for NEWEST, the newest ones; as SQL."""
    return view if source == NEWEST else f"(from all_{view} where run = {literal(source)})"


def _list(texts: Iterable[str]) -> str:
    return ", ".join(map(literal, texts))
