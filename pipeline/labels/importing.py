"""From annotation files to label sets of a lake's images: read, placed, numbered. `label_store.add` writes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from masklake.pipeline.errors import UserError
from masklake.pipeline.labels import store as label_store
from masklake.pipeline.labels.formats.coco_reader import CocoReader
from masklake.pipeline.labels.formats.detect import detect, parse, studio_tasks
from masklake.pipeline.labels.formats.studio_reader import StudioReader
from masklake.pipeline.labels.placement import Placement, Size
from masklake.pipeline.labels.sets import (
    Instance,
    LabelFile,
    LabelledImage,
    LabelSet,
    Skipped,
    digest,
    number_classes,
    split_of,
)
from masklake.pipeline.lake.lake import Lake

FORMATS = ("coco", "cvat", "label-studio")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What an import would write, and the labels that these images have so far.

    `notes` say what was left out or changed on the way, and how often.
    """

    sets: list[LabelSet]
    before: list[LabelSet]
    notes: Counter[str]


def read(
    files: Sequence[tuple[str, bytes]],
    format_: str | None = None,
    *,
    strict: bool = False,
    allow_empty: bool = False,
) -> tuple[str, LabelFile]:
    """The format and the labels of files (name, content) that are read together. `format_` None: by their shape.

    What cannot be read is left out and told in the result's `skipped`, or, where `strict`, refused. Raises UserError for a
    file that is no such file at all, for files of different formats, for one of which nothing could be read, and, unless
    `allow_empty`, for one that has images and no annotation at all.
    """
    chosen, label_file = _read(files, format_)
    _require_read(label_file, strict=strict)
    if label_file.unannotated and not allow_empty:
        raise UserError(
            f"{label_file.unannotated[0]}: has images and no annotation at all, as CVAT's export COCO Keypoints writes it where it "
            "lost the annotations (COCO 1.0 has them); --allow-empty says that these images hold nothing"
        )
    return chosen, label_file


def read_tasks(
    tasks: Iterable[Any], where: str, image_fields: Mapping[str, str], *, strict: bool = False
) -> LabelFile:
    """The labels of Label Studio's tasks, read one by one, from a server for example, which `where` names in messages.

    `image_fields`: the field of tasks that each Image tag of the project shows. Otherwise as `read`.
    """
    studio = StudioReader(image_fields)
    for task in tasks:
        studio.add([task], where)
    label_file = studio.result()
    _require_read(label_file, strict=strict)
    return label_file


def _require_read(label_file: LabelFile, *, strict: bool) -> None:
    if strict and label_file.skipped:
        raise UserError(f"{_listed(label_file.skipped)}; without --strict they are left out")
    if label_file.skipped and not label_file.images:
        raise UserError(f"{_listed(label_file.skipped)}; nothing is left to import")


def _listed(skipped: Sequence[Skipped]) -> str:
    first = skipped[0]
    more = f" (and {len(skipped) - 1:,} more that cannot be read)" if len(skipped) > 1 else ""
    return f"{first.where}: {first.problem}{more}"


def _read(files: Sequence[tuple[str, bytes]], format_: str | None) -> tuple[str, LabelFile]:
    contents = [(file, parse(data, file)) for file, data in files]
    shapes = [detect(content, file) for file, content in contents]
    family = {"label-studio" if shape == "label-studio" else "coco" for shape in shapes}
    chosen = format_ or ("cvat" if "cvat" in shapes else shapes[0])
    if len(family) > 1 or ("label-studio" in family) != (chosen == "label-studio"):
        formats = ", ".join(f"{file} is {shape}" for (file, _), shape in zip(contents, shapes, strict=True))
        raise UserError(
            f"files of one import must be of one format{f' ({format_})' if format_ else ''}, but {formats}"
        )
    if chosen != "label-studio":
        coco = CocoReader(cvat=chosen == "cvat")
        for file, content in contents:
            coco.add(content, file)
        return chosen, coco.result()
    studio = StudioReader()
    for file, content in contents:
        studio.add(studio_tasks(content) or [], file)
    return chosen, studio.result()


def prepare(
    lake: Lake,
    placement: Placement,
    *,
    source: str,
    pinned_source: str | None = None,
    split: str | None = None,
    ids: Mapping[str, int],
    skip_empty: bool = False,
) -> Prepared:
    """The label sets of what was placed. `ids` number classes that neither the lake nor the file numbers.

    Who labelled an image is `pinned_source`, else what the file says, if Masklake wrote it and nobody has changed the
    image's labels since, else `source`.
    An image's split is the given one, else that of its labels so far, else the file's, else `split_of` its uri: an image
    never moves between train and val by being labelled again.
    """
    placed = [(image, uri) for image, uri in placement.placed if image.instances or not skip_empty]
    notes: Counter[str] = Counter(placement.notes)
    if left := len(placement.placed) - len(placed):
        notes["images without annotations left out (--skip-empty)"] = left
    before = {label_set.uri: label_set for label_set in label_store.newest(lake, [uri for _, uri in placed])}
    numbers = _numbers(lake, [image for image, _ in placed], ids, notes)
    sets = [
        LabelSet(
            uri=uri,
            **_size(image, placement.sizes.get(uri)),
            instances=tuple(_numbered(instance, numbers) for instance in image.instances),
            source=pinned_source or _exported_source(image) or source,
            split=split or (before[uri].split if uri in before else image.split or split_of(uri)),
            absent=image.absent,
            not_exhaustive=image.not_exhaustive,
        )
        for image, uri in placed
    ]
    return Prepared(sets=sets, before=list(before.values()), notes=notes)


def _size(image: LabelledImage, known: Size | None) -> dict[str, int | None]:
    width, height = (image.width, image.height) if image.size_known and image.width else known or (None, None)
    return {"width": width, "height": height}


def _exported_source(image: LabelledImage) -> str | None:
    return image.source if image.digest == digest(image.instances) else None


def _numbered(instance: Instance, numbers: Mapping[str, int]) -> Instance:
    id_ = numbers[instance.label]
    return instance if instance.label_id == id_ else replace(instance, label_id=id_)


def _numbers(
    lake: Lake, images: Sequence[LabelledImage], ids: Mapping[str, int], notes: Counter[str]
) -> dict[str, int]:
    wanted: dict[str, int | None] = {}
    for image in images:
        for instance in image.instances:
            wanted[instance.label] = wanted.get(instance.label) or instance.label_id
    numbers = number_classes(
        {name: ids.get(name) if id_ is None else id_ for name, id_ in wanted.items()},
        label_store.classes(lake),
    )
    for name, id_ in wanted.items():
        if id_ is not None and id_ != numbers[name]:
            notes[
                f"class {name!r} has id {numbers[name]} in the lake, not {id_} as in the file: instances"
            ] = sum(instance.label == name for image in images for instance in image.instances)
    return numbers
