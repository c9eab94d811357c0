"""COCO's instances and person_keypoints JSON (and what CVAT exports as COCO, and LVIS) into labels.

Polygons are rasterised by pycocotools in the image's frame. The box is the file's own; where there is none, the box
around the mask, or around the labelled keypoints. Files read together describe one set of images, and what they say of one
object becomes one instance (`merge`). An image without annotations is an image with nothing in it, unless the whole file
has none.

What is not needed is not judged: unused categories, ids of annotations, sizes of images without polygons. What cannot be
read is skipped and told, and the rest is taken; an image of which nothing could be read is left out.

CVAT writes COCO with an `attributes` object in each annotation, and differs (datumaro's coco exporter): iscrowd is 1 for
every brush mask, and a rotated rectangle is its unrotated box and an angle. So there iscrowd is not taken, and the box
is the upright one around the rotated rectangle.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Any

from masklake.pipeline.labels import masks as label_masks
from masklake.pipeline.labels import names
from masklake.pipeline.labels.formats.coco_annotation import Annotation, Category
from masklake.pipeline.labels.formats.node import Node, UnreadableError
from masklake.pipeline.labels.merge import Merged
from masklake.pipeline.labels.sets import (
    SPLITS,
    Instance,
    LabelFile,
    LabelledImage,
    Skipped,
    known_images,
)

_NAMES = ("file_name", "coco_url", "path", "filename")


class CocoReader:
    """Reads files one by one; `result` holds the labels of all of them together."""

    def __init__(self, *, cvat: bool = False) -> None:
        self._cvat = cvat
        self._images: dict[str, LabelledImage] = {}
        self._merged: dict[str, Merged] = defaultdict(Merged)
        self._notes: Counter[str] = Counter()
        self._skipped: list[Skipped] = []
        self._bare: dict[str, list[LabelledImage]] = {}
        """The images of files without any annotation."""

    def result(self) -> LabelFile:
        for name, image in self._images.items():
            image.instances[:] = self._merged[name].instances
        unannotated = [
            file
            for file, images in self._bare.items()
            if images and not any(image.instances or image.unread or image.uri for image in images)
        ]
        return LabelFile(
            images=known_images(self._images.values(), self._notes),
            notes=self._notes,
            skipped=self._skipped,
            unannotated=unannotated,
        )

    def add(self, content: dict[str, Any], file: str) -> None:
        """Add the content of `file`. Raises UserError where it is not COCO at all."""
        root = Node(content, file)
        categories = _Categories(root, self._notes)
        images = self._take_images(root, categories)
        annotations = root.items("annotations")
        image_key = _key("image_id", images, annotations)
        images = {image_key(id_): image for id_, image in images.items()}
        category_key = _key("category_id", categories.ids, annotations)
        instances_by_image: dict[str, list[tuple[Hashable, Instance]]] = defaultdict(list)
        for i, value in enumerate(annotations):
            image = None
            try:
                node = Node(value, f"{file}: annotation {i + 1} of the file")
                id_: Hashable = ("of the file", i)
                if "id" in node:
                    id_ = node.identity("id")
                    node.where = f"{file}: annotation {id_!r}"
                image = images.get(image_key(node.identity("image_id")))
                if image is None:
                    raise node.fail(f"its image_id {node.value['image_id']!r} is not among the images")
                category = categories.class_of(node, category_key)
                annotation = Annotation(node, image, category, self._notes)
                instances_by_image[image.name].append((id_, annotation.instance(cvat=self._cvat)))
                self._skipped += annotation.skipped
            except UnreadableError as error:
                self._skipped.append(error.skipped)
                if image is not None:
                    image.unread += 1
        for name, instances in instances_by_image.items():
            self._merge(name, instances)
        if not annotations:
            self._bare[file] = list(images.values())

    def _merge(self, name: str, instances: list[tuple[Hashable, Instance]]) -> None:
        merged = self._merged[name]
        before = len(merged.instances)
        if by_box := merged.add(instances):
            self._notes["annotations of other ids joined by their boxes"] += by_box
        if before and len(merged.instances) == before + len(instances):
            self._notes[
                "images of one name in several files that share no object, taken for one image; if they are several, "
                f"import each file with its own --uri-prefix (the first: {name!r})"
            ] += 1

    def _take_images(self, root: Node, categories: _Categories) -> dict[Hashable, LabelledImage]:
        nodes: list[tuple[Hashable, str, Node]] = []
        for i, value in enumerate(root.items("images")):
            try:
                node = Node(value, f"{root.where}: image {i + 1} of the file")
                own_id = node.identity("id")
                node.where = f"{root.where}: image {own_id!r}"
                nodes.append((own_id, _image_name(node), node))
            except UnreadableError as error:
                self._skipped.append(error.skipped)
        ids: dict[Hashable, set[str]] = defaultdict(set)
        files: dict[str, set[Hashable]] = defaultdict(set)
        for id_, name, _ in nodes:
            ids[id_].add(name)
            files[name].add(id_)
        images: dict[Hashable, LabelledImage] = {}
        for id_, name, node in nodes:
            try:
                if len(ids[id_]) > 1:
                    raise node.fail("its id is used for several images of the file")
                if len(files[name]) > 1:
                    raise node.fail(f"several images of the file have its name, {name!r}")
                images[id_] = self._take_image(node, name, categories)
            except UnreadableError as error:
                self._skipped.append(error.skipped)
        return images

    def _take_image(self, node: Node, name: str, categories: _Categories) -> LabelledImage:
        size = self._size(node)
        absent, not_exhaustive = (
            categories.named(node.value.get(key))
            for key in ("neg_category_ids", "not_exhaustive_category_ids")
        )
        if absent is not None:
            self._notes[
                "images that were searched for some classes only (LVIS): others count as unknown there"
            ] += 1
        known = self._images.get(name)
        if known is None:
            width, height = size or (None, None)
            known = self._images[name] = LabelledImage(
                name=name, aliases=names.aliases(name), width=width, height=height, **own_fields(node)
            )
        elif size and known.width and (known.width, known.height) != size:
            raise node.fail(
                f"{name!r} is {size[0]}×{size[1]} here and {known.width}×{known.height} in another file; "
                "import files of the same images together"
            )
        if absent is not None:
            known.absent = tuple(dict.fromkeys((*(known.absent or ()), *absent)))
        known.not_exhaustive = tuple(dict.fromkeys((*known.not_exhaustive, *(not_exhaustive or ()))))
        return known

    def _size(self, node: Node) -> tuple[int, int] | None:
        """Width and height, or None where the file does not tell them: only polygons need them."""
        try:
            width, height = node.whole("width", 1), node.whole("height", 1)
            label_masks.check_frame(height, width)
        except UnreadableError as error:
            self._notes[f"images whose size is not told ({error.problem.partition(' is ')[0]})"] += 1
            return None
        except ValueError as error:
            raise node.fail(str(error)) from None
        return width, height


class _Categories:
    """The classes of a file, judged only when an annotation names them."""

    def __init__(self, root: Node, notes: Counter[str]) -> None:
        self._categories: dict[Hashable, list[Any]] = defaultdict(list)
        self._read: dict[Hashable, Category] = {}
        self._ids: dict[str, Hashable] = {}
        self._where, self._notes = root.where, notes
        for value in root.items("categories"):
            if isinstance(value, dict):
                try:
                    self._categories[Node(value, root.where).identity("id")].append(value)
                except UnreadableError:
                    continue  # no annotation can name it

    @property
    def ids(self) -> Collection[Hashable]:
        return self._categories.keys()

    def class_of(self, annotation: Node, key: Callable[[Hashable], Hashable]) -> Category:
        """The class of an annotation, whose ids `key` compares. Raises UnreadableError where the file does not tell it."""
        id_: Hashable = annotation.identity("category_id")
        if id_ not in self._categories:
            id_ = next((known for known in self._categories if key(known) == key(id_)), id_)
        if id_ not in self._read:
            by_name = {
                category["name"] if isinstance(category.get("name"), str) else None: category
                for category in self._categories.get(id_, ())
            }
            if not by_name:
                raise annotation.fail(
                    f"its category_id {annotation.value['category_id']!r} is not among the categories"
                )
            if len(by_name) > 1:
                raise annotation.fail(
                    f"its category_id {id_!r} is used for several categories: {', '.join(map(repr, by_name))}"
                )
            [value] = by_name.values()
            self._read[id_] = self._category(id_, Node(value, f"{annotation.where}: its category {id_!r}"))
        return self._read[id_]

    def _category(self, id_: Hashable, node: Node) -> Category:
        name = node.text("name")
        if self._ids.setdefault(name, id_) != id_:
            self._notes[f"categories of the same name, {name!r}, taken for one class"] += 1
        keypoints: list[str] = []
        if node.value.get("keypoints"):
            try:
                keypoints = node.texts("keypoints")
            except UnreadableError as error:
                self._notes[f"names of keypoints not taken: {error}"] += 1
        return Category(id_ if isinstance(id_, int) and 0 <= id_ < 2**31 else None, name, tuple(keypoints))

    def named(self, ids: Any) -> tuple[str, ...] | None:
        """The names of these category ids; None where there is no list of them."""
        if not isinstance(ids, list):
            return None
        known: Mapping[Hashable, list[Any]] = self._categories
        known_names = (known.get(id_, [{}])[0].get("name") for id_ in ids if isinstance(id_, int | str))
        return tuple(name for name in known_names if isinstance(name, str) and name)


def _key(field: str, ids: Collection[Hashable], annotations: list[Any]) -> Callable[[Hashable], Hashable]:
    """The key by which the annotations' ids are compared with `ids`: the ids themselves, or, where none of them is equal,
    their texts, since a file may write some ids as numbers and the others as texts."""
    used = (value.get(field) for value in annotations if isinstance(value, dict))
    exact = any(isinstance(id_, int | float | str) and id_ in ids for id_ in used)
    return (lambda id_: id_) if exact else str


def own_fields(node: Node) -> dict[str, Any]:
    """The fields of the `masklake` object of Masklake's own exports: uri, source, split, digest, size_known."""
    value = node.value.get("masklake")
    if value is None:
        return {}
    own = Node(value, f"{node.where}: masklake")
    fields: dict[str, Any] = {
        name: own.text(name) for name in ("uri", "source", "split", "digest") if name in own
    }
    if fields.get("split", "train") not in SPLITS:
        raise own.fail(f"split is {fields['split']!r}, not one of {', '.join(SPLITS)}")
    if "size_known" in own:
        fields["size_known"] = own.flag("size_known")
    return fields


def _image_name(node: Node) -> str:
    for key in _NAMES:
        if node.value.get(key):
            return node.text(key)
    return node.text(_NAMES[0])
