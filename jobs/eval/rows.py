"""The detections that are measured: which runs count, the newest row of each image, and its instances as COCO results."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from masklake.jobs.segment.options import RowOptions
from masklake.pipeline.errors import UserError
from masklake.pipeline.schema import Status
from masklake.pipeline.storage.explain import explaining

if TYPE_CHECKING:
    from masklake.jobs.models.resolve import Resolved
    from masklake.pipeline.lake.lake import Lake
    from masklake.pipeline.lake.run_record import RunRecord


@dataclass(frozen=True, kw_only=True)
class Detector:
    """The model that is measured, and the runs whose rows are its detections."""

    model: str
    """name@fingerprint"""
    source: str
    """The value of --model that loads it: a preset's name, a path or a URI."""
    classes: tuple[str, ...]
    """Names of the classes that it can find."""
    runs: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ImageRow:
    """The newest row of an image."""

    run: str
    status: str
    size: tuple[int | None, int | None]
    """Width and height, pixels."""


def of_run(lake: Lake, name: str, model: Resolved | None) -> Detector:
    """One run. Raises UserError when there is no such run, it cannot be read, or it is not one of `model`."""
    id_ = lake.resolve(name)
    [run] = lake.runs([id_])
    if run.record is None:
        raise UserError(f"run {id_}: {run.problem}; without it nobody knows its model: name another run")
    record = run.record
    made_by = f"{record.model.get('name', '?')}@{record.model.get('fingerprint', '?')}"
    if model is not None and record.model.get("fingerprint") != model.fingerprint:
        raise UserError(
            f"run {id_}: was made by {made_by}, not by {model.spec.name}@{model.fingerprint}; leave out --run or --model"
        )
    notes = _cut_short(record)
    if record.state != "complete":
        notes = [f"run {id_} is {record.state}: what it has not come to is missing", *notes]
    return Detector(
        model=made_by,
        source=str(record.model.get("source", "?")),
        classes=tuple(record.options.get("classes") or record.model.get("classes") or ()),
        runs=(id_,),
        notes=tuple(notes),
    )


def _cut_short(record: RunRecord) -> list[str]:
    """Notes on options of a run that left out rows which AP would count."""
    score, most = record.options.get("score"), record.options.get("max_detections")
    notes = []
    if isinstance(score, float) and score > RowOptions.score:
        notes.append(f"run {record.run} left out instances below score {score:g}: AP is below the model's")
    if isinstance(most, int) and most < RowOptions.max_detections:
        notes.append(f"run {record.run} kept {most} instances an image: AP is below the model's")
    if proposals := record.options.get("proposals"):
        notes.append(
            f"run {record.run} classified at most {proposals} proposals an image (--proposals): AP may be below the model's"
        )
    return notes


def of_model(lake: Lake, model: Resolved) -> Detector:
    """All runs of `model` with segment's own defaults, which is how a run over missing images would be made."""
    runs = [
        run.id
        for run in lake.runs()
        if run.record is not None and run.record.covers == (model.fingerprint, RowOptions().record())
    ]
    return Detector(
        model=f"{model.spec.name}@{model.fingerprint}",
        source=model.source.name,
        classes=tuple(info.name for info in model.spec.classes),
        runs=tuple(runs),
    )


def newest_images(lake: Lake, runs: Iterable[str], uris: Collection[str]) -> dict[str, ImageRow]:
    """The row of the newest of `runs` for each of `uris` that has one."""
    rows: dict[str, ImageRow] = {}
    for row in _rows(lake, "images", runs, uris, ["run", "uri", "status", "width", "height"]):
        known = rows.get(row["uri"])
        if known is None or known.run < row["run"]:
            rows[row["uri"]] = ImageRow(
                run=row["run"], status=row["status"], size=(row["width"], row["height"])
            )
    return rows


def instances(lake: Lake, images: Mapping[str, ImageRow]) -> list[dict[str, Any]]:
    """The rows of `instances` that belong to `images`, by uri and rank. An image that failed has none."""
    good = {uri: row.run for uri, row in images.items() if row.status == Status.OK}
    columns = ["run", "uri", "instance", "label", "score", "x", "y", "w", "h", "mask", "keypoints"]
    # A killed attempt may have written an image twice, until its run is resumed and verified.
    rows = {
        (row["uri"], row["instance"]): row
        for row in _rows(lake, "instances", set(good.values()), good.keys(), columns)
        if good[row["uri"]] == row["run"]
    }
    return [rows[key] for key in sorted(rows)]


def _rows(
    lake: Lake, table: str, runs: Iterable[str], uris: Collection[str], columns: list[str]
) -> Iterable[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.dataset as ds

    chosen = set(runs)
    if not any(part.run in chosen for part in lake.parts(table)):
        return
    dataset = lake.dataset(table, chosen)
    wanted = ds.field("uri").isin(pa.array(list(uris), pa.string()))
    with explaining(lake.uri, f"read {table}"):
        for batch in dataset.to_batches(columns=columns, filter=wanted):
            yield from batch.to_pylist()


def as_results(
    rows: Iterable[Mapping[str, Any]],
    images: Mapping[str, int],
    ids: Mapping[str, int],
    keypoints: Sequence[str],
) -> list[dict[str, Any]]:
    """COCO results of rows of `instances`, classes and keypoints matched by name; other classes are left out.

    A keypoint that the model does not place is taken to lie where the instance's first one does.
    """
    return [
        {
            "image_id": images[row["uri"]],
            "category_id": ids[row["label"]],
            "score": row["score"],
            "bbox": [row[side] for side in "xywh"],
            "segmentation": row["mask"],
            "keypoints": _placed(row["keypoints"], keypoints) if row["keypoints"] and keypoints else None,
        }
        for row in rows
        if row["label"] in ids
    ]


def _placed(keypoints: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[float]:
    places = {keypoint["name"]: (keypoint["x"], keypoint["y"], 1) for keypoint in keypoints}
    first = next(
        (places[name] for name in names if name in places), (keypoints[0]["x"], keypoints[0]["y"], 1)
    )
    return [value for name in names for value in places.get(name, first)]
