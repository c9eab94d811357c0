"""Parquet and a dataset card, as Hugging Face `datasets` loads them: `load_dataset("DIR")`, or any reader of Parquet.

A row is an image; its instances are lists of equal length below `objects`, as in the object detection datasets of the hub.
The features are in the metadata of each file and in README.md, in words that `datasets` 2 to 5 understand. With --images
the column `image` holds the photo; without it, its URI, which `datasets` opens when the image is asked for.
"""

from __future__ import annotations

import json
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from masklake.pipeline.export.folder import ExportFolder
from masklake.pipeline.export.image import Contents, ExportImage
from masklake.pipeline.export.names import file_of

SPLITS = {"train": "train", "val": "validation"}
GROUP_BYTES = 32 * 2**20
_GROUP_ROWS = 1_000
SHARD_BYTES = 480 * 2**20
"""The hub asks for files below 500 MB. A shard ends with the row group that makes it so large."""


class HuggingFace:
    """data/train-NNNNN.parquet, data/validation-NNNNN.parquet, and README.md. A row group of each split is held."""

    def __init__(self, folder: ExportFolder, contents: Contents, *, with_photos: bool = False) -> None:
        self._folder, self._contents, self._with_photos = folder, contents, with_photos
        self._features = features(contents)
        self._index = {name: i for i, name in enumerate(contents.classes)}
        metadata = {b"huggingface": json.dumps({"info": {"features": self._features}}).encode()}
        columns = schema(contents).with_metadata(metadata)
        self._shards = {name: _Shards(folder, name, columns) for name in SPLITS.values()}
        self._images = self._objects = 0

    def photos(self, split: str) -> None:
        """They are in the rows."""

    def add(self, image: ExportImage) -> None:
        name = file_of(image.uri)
        width, height = image.size or (None, None)
        row = {
            "image": {"bytes": image.photo, "path": name if self._with_photos else image.uri},
            "image_id": self._images,
            "uri": image.uri,
            "width": width,
            "height": height,
            "objects": self._columns(image),
        }
        self._images += 1
        text = sum(len(i.mask.counts) if i.mask else 0 for i in image.instances)
        self._shards[SPLITS[image.split]].add(
            row, len(image.photo or b"") + text + 500 * len(image.instances)
        )
        self._folder.list_image(name, image.uri, image.split)

    def _columns(self, image: ExportImage) -> dict[str, list[Any]]:
        instances = image.instances
        ids = range(self._objects, self._objects + len(instances))
        self._objects += len(instances)
        value = "visibility" if image.scores is None else "score"
        columns: dict[str, list[Any]] = {
            "id": list(ids),
            "category": [self._index[instance.label] for instance in instances],
            "bbox": [list(instance.box) for instance in instances],
            "area": [instance.evaluated_area for instance in instances],
            "segmentation": [
                instance.mask
                and {"size": [instance.mask.height, instance.mask.width], "counts": instance.mask.counts}
                for instance in instances
            ],
            "keypoints": [
                [
                    {"name": name, "x": x, "y": y, value: number}
                    for name, x, y, number in image.keypoints_of(i)
                ]
                for i in range(len(instances))
            ],
        }
        if image.scores is not None:
            return columns | {"score": list(image.scores)}
        return columns | {"iscrowd": [i.iscrowd for i in instances], "ignore": [i.ignore for i in instances]}

    def finish(self) -> None:
        for shards in self._shards.values():
            shards.finish()
        splits = [
            {"name": name, "num_examples": shards.rows}
            for name, shards in self._shards.items()
            if shards.rows
        ]
        files = [{"split": split["name"], "path": f"data/{split['name']}-*.parquet"} for split in splits]
        header = {
            "pretty_name": f"{'Results' if self._contents.detected else 'Labels'} of a Masklake lake",
            "task_categories": ["object-detection", "image-segmentation"],
            "configs": [{"config_name": "default", "data_files": files}],
            "dataset_info": {"features": for_card(self._features), "splits": splits},
        }
        with self._folder.open("README.md") as file:
            file.write(f"---\n{yaml.safe_dump(header, sort_keys=False, width=10**6)}---\n\n{_CARD}")


_CARD = """\
# Images with instance masks, boxes and keypoints

Written by `masklake export`. A row is an image: `uri` says where it lies, `width` and `height` are those of the upright image
(as the orientation in its EXIF says). Below `objects` there is one list a column, an object each:

| column | what it is |
|---|---|
| `category` | the class |
| `bbox` | x, y, width, height in pixels |
| `area` | pixels |
| `segmentation` | COCO's compressed RLE, which `pycocotools.mask.decode` takes; null where there is no mask |
| `keypoints` | name, x, y in pixels, and `score`, a logit (of labels `visibility`: 0 not labelled, 1 hidden, 2 visible) |
| `score` | 0 to 1, of results |
| `iscrowd`, `ignore` | COCO's, of labels |

The photos are those of their owners; this card says nothing of their licence.
"""


class _Shards:
    """The files of one split, a row group after the other."""

    def __init__(self, folder: ExportFolder, split: str, schema: pa.Schema) -> None:
        self.rows = 0
        self._folder, self._split, self._schema = folder, split, schema
        self._number = 0
        self._held: list[dict[str, Any]] = []
        self._bytes = 0
        self._file: IO[bytes] | None = None
        self._writer: pq.ParquetWriter | None = None

    def add(self, row: dict[str, Any], size: int) -> None:
        """Hold a row of about `size` bytes, and write what is held where that is enough for a row group."""
        self._held.append(row)
        self._bytes += size
        self.rows += 1
        if self._bytes >= GROUP_BYTES or len(self._held) >= _GROUP_ROWS:
            self._write()

    def finish(self) -> None:
        if self._held:
            self._write()
        self._close()

    def _write(self) -> None:
        if self._file is None or self._writer is None:
            self._file = self._folder.open(f"data/{self._split}-{self._number:05d}.parquet", "wb")
            self._writer = pq.ParquetWriter(self._file, self._schema, compression="zstd")
            self._number += 1
        self._writer.write_table(pa.Table.from_pylist(self._held, self._schema))
        self._held, self._bytes = [], 0
        if self._file.tell() >= SHARD_BYTES:
            self._close()

    def _close(self) -> None:
        if self._file is not None and self._writer is not None:
            self._writer.close()
            self._file.close()
        self._file = self._writer = None


def schema(contents: Contents) -> pa.Schema:
    """The columns, as Arrow has them."""
    value = ("score", pa.float32()) if contents.detected else ("visibility", pa.int8())
    keypoint = pa.struct([("name", pa.string()), ("x", pa.float32()), ("y", pa.float32()), value])
    of_kind = (
        [("score", pa.float32())] if contents.detected else [("iscrowd", pa.bool_()), ("ignore", pa.bool_())]
    )
    objects = [
        ("id", pa.int64()),
        ("category", pa.int64()),
        ("bbox", pa.list_(pa.float32(), 4)),
        ("area", pa.float64()),
        ("segmentation", pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])),
        ("keypoints", pa.list_(keypoint)),
        *of_kind,
    ]
    return pa.schema([
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("image_id", pa.int64()),
        ("uri", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("objects", pa.struct([(name, pa.list_(type_)) for name, type_ in objects])),
    ])  # fmt: skip


def features(contents: Contents) -> dict[str, Any]:
    """The columns, as `datasets` writes them into Parquet: what is an image, which class has which number."""
    by_name = {field.name: _feature(field.type) for field in schema(contents)}
    by_name["image"] = {"_type": "Image"}
    by_name["objects"]["category"]["feature"] = {"names": list(contents.classes), "_type": "ClassLabel"}
    return by_name


def _feature(type_: pa.DataType) -> Any:
    if pa.types.is_struct(type_):
        return {field.name: _feature(field.type) for field in type_}
    if pa.types.is_fixed_size_list(type_):
        return {"feature": _feature(type_.value_type), "length": type_.list_size, "_type": "Sequence"}
    if pa.types.is_list(type_):
        element = _feature(type_.value_type)
        # A Sequence of structs would be a struct of lists: it is the form of TFDS, which `datasets` keeps.
        return (
            [element] if pa.types.is_struct(type_.value_type) else {"feature": element, "_type": "Sequence"}
        )
    name = {"float": "float32", "double": "float64"}.get(str(type_), str(type_))
    return {"dtype": name, "_type": "Value"}


def for_card(columns: Any) -> list[dict[str, Any]]:
    """`features` as the card of a dataset writes them."""
    return [{"name": name, **_on_card(feature)} for name, feature in columns.items()]


def _on_card(feature: Any) -> dict[str, Any]:
    if isinstance(feature, list):
        return {"list": for_card(feature[0])}
    match feature.get("_type"):
        case "Value":
            return {"dtype": feature["dtype"]}
        case "Image":
            return {"dtype": "image"}
        case "ClassLabel":
            names = {str(i): name for i, name in enumerate(feature["names"])}
            return {"dtype": {"class_label": {"names": names}}}
        case "Sequence":
            element = _on_card(feature["feature"])
            only = (
                element["dtype"]
                if list(element) == ["dtype"] and isinstance(element["dtype"], str)
                else element
            )
            length = {"length": feature["length"]} if "length" in feature else {}
            return {"sequence": only, **length}
        case _:
            return {"struct": for_card(feature)}
