"""What detections are measured against: the labels of a lake, or the annotation files of COCO val2017."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from masklake.pipeline.errors import UserError
from masklake.pipeline.words import counted

if TYPE_CHECKING:
    from masklake.pipeline.lake.lake import Lake
    from masklake.pipeline.storage.store import Storage

_ALL_KINDS = ("box", "mask", "keypoints")
COCO_IMAGES = "val2017"
COCO_FILES = {
    "annotations/instances_val2017.json": ("box", "mask"),
    "annotations/person_keypoints_val2017.json": ("keypoints",),
}


@dataclass(frozen=True, kw_only=True)
class Truth:
    """A COCO dataset, the kinds that are measured by it, and the names of its keypoints, in their order."""

    content: dict[str, Any]
    kinds: tuple[str, ...]
    keypoints: tuple[str, ...]

    @property
    def ids(self) -> dict[str, int]:
        """Category ids by class name."""
        return {category["name"]: category["id"] for category in self.content["categories"]}

    @property
    def names(self) -> dict[int, str]:
        """Class names by category id."""
        return {id_: name for name, id_ in self.ids.items()}

    def only(self, images: Collection[int], classes: Collection[str]) -> Truth:
        """The part of it about these image ids and class names."""
        ids = {id_ for name, id_ in self.ids.items() if name in classes}
        content = self.content | {
            "images": [entry for entry in self.content["images"] if entry["id"] in images],
            "annotations": [
                entry
                for entry in self.content["annotations"]
                if entry["image_id"] in images and entry["category_id"] in ids
            ],
            "categories": [entry for entry in self.content["categories"] if entry["id"] in ids],
        }
        return replace(self, content=content)


@dataclass(frozen=True, kw_only=True)
class Target:
    """The labels to compare with. All `truths` use the same image ids; the first has the boxes."""

    name: str
    """val, train, all or coco-val2017: the folder of the results."""
    images: dict[str, int]
    """Image ids by uri."""
    sizes: dict[str, tuple[int, int] | None]
    """Width and height by uri, pixels; None where they are not known."""
    truths: list[Truth]

    @property
    def classes(self) -> list[str]:
        """The classes that any annotation has, by category id."""
        labelled = {
            name
            for truth in self.truths
            for name in map(
                truth.names.get, {annotation["category_id"] for annotation in truth.content["annotations"]}
            )
            if name is not None
        }
        return sorted(labelled, key=lambda name: (self.truths[0].ids.get(name, 0), name))

    def of_classes(self, names: Collection[str]) -> Target:
        """The same images with the annotations of these classes alone."""
        ids = set(self.images.values())
        return replace(self, truths=[truth.only(ids, names) for truth in self.truths])


def of_labels(lake: Lake, split: str) -> Target:
    """The newest labels of the images of `split` (train, val or all). Raises UserError when there are none."""
    from masklake.pipeline.labels import store as label_store
    from masklake.pipeline.labels.formats import coco_writer as label_coco_export

    lake.require()
    every = label_store.newest(lake)
    sets = [label_set for label_set in every if split in ("all", label_set.split)]
    if not sets:
        others = Counter(label_set.split for label_set in every)
        has = ", ".join(f"{counted(n, 'images')} in {name}" for name, n in sorted(others.items()))
        raise UserError(
            f"{lake.uri}: has no labels of split {split}, but {has}; give --split {min(others)} or all"
            if others
            else f"{lake.uri}: has no labels to evaluate against; `masklake labels import FILE {lake.uri}` takes some in"
        )
    content = label_coco_export.to_coco(sets)
    return Target(
        name=split,
        images={label_set.uri: image["id"] for label_set, image in zip(sets, content["images"], strict=True)},
        sizes={
            label_set.uri: (label_set.width, label_set.height)
            if label_set.width and label_set.height
            else None
            for label_set in sets
        },
        truths=[Truth(content=content, kinds=_ALL_KINDS, keypoints=_shared_keypoints(content))],
    )


def of_coco(directory: str, storage: Storage) -> Target:
    """COCO val2017 in `directory`, as it comes: val2017/ and annotations/. Raises UserError for anything else."""
    from masklake.pipeline.storage.explain import explaining
    from masklake.pipeline.storage.store import join, normalise_folder

    root = normalise_folder(directory)
    truths = []
    for file, kinds in COCO_FILES.items():
        uri = join(root, file)
        with explaining(uri, "read COCO's annotations"):
            data = storage.read(uri)
        content = _checked(data, uri)
        truths.append(Truth(content=content, kinds=kinds, keypoints=_shared_keypoints(content)))
    images = {join(root, COCO_IMAGES, image["file_name"]): image for image in truths[0].content["images"]}
    strangers = {image["id"] for image in truths[1].content["images"]} - {
        image["id"] for image in images.values()
    }
    if strangers or not images:
        raise UserError(
            f"{root}: its two annotation files speak of other images ({len(images):,} in the first, "
            f"{len(strangers):,} only in the second); unpack annotations_trainval2017.zip again"
        )
    return Target(
        name=f"coco-{COCO_IMAGES}",
        images={uri: image["id"] for uri, image in images.items()},
        sizes={uri: (image["width"], image["height"]) for uri, image in images.items()},
        truths=truths,
    )


_FIELDS = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "bbox", "area"),
    "categories": ("id", "name"),
}


def _checked(data: bytes, uri: str) -> dict[str, Any]:
    try:
        content = json.loads(data)
        for part, fields in _FIELDS.items():
            for entry in content[part]:
                _ = [entry[name] for name in fields]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{uri}: is not an annotation file of COCO ({type(error).__name__}: {error}); unpack it again"
        ) from error
    checked: dict[str, Any] = content
    return checked


def _shared_keypoints(content: dict[str, Any]) -> tuple[str, ...]:
    """The names of the keypoints of all classes together. Annotations of classes that lack some get them, unlabelled.

    COCOeval knows one list of keypoints for all classes; those that are not labelled do not count.
    """
    by_class = {category["id"]: category.get("keypoints") or [] for category in content["categories"]}
    keypoints = tuple(dict.fromkeys(name for names in by_class.values() for name in names))
    for annotation in content["annotations"]:
        names = by_class.get(annotation["category_id"]) or []
        if annotation.get("keypoints") and tuple(names) != keypoints:
            annotation["keypoints"] = _spread(annotation["keypoints"], names, keypoints)
    return keypoints


def _spread(values: Sequence[float], names: Sequence[str], wanted: Sequence[str]) -> list[float]:
    by_name = {name: values[3 * i : 3 * i + 3] for i, name in enumerate(names)}
    return [value for name in wanted for value in by_name.get(name, (0, 0, 0))]
