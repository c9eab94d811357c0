"""The data contract: the one place that says which columns a lake has and what they mean.

Only plain Arrow types, so that any Parquet reader sees what we see. Field descriptions and units are in
each field's metadata and travel in the Parquet footer.
"""

from __future__ import annotations

import enum

import pyarrow as pa

SCHEMA_VERSION = 1
"""Raised when a reader of the older version would misread the files."""

VERSION_KEY = b"masklake.schema_version"
MODEL_KEY = b"masklake.model"


class Status(enum.StrEnum):
    """How an input image ended."""

    OK = "ok"
    MISSING = "missing"  # listed, but gone when it was fetched
    UNREADABLE = "unreadable"  # a known image format whose content is broken
    TOO_LARGE = "too_large"  # over the byte or pixel limit
    UNSUPPORTED = "unsupported"  # not an image format that we decode
    FAILED = "failed"  # storage, memory or a worker failed on it; tried again by the next run

    @property
    def settled(self) -> bool:
        """Whether the same object would end the same way again, so that later runs may skip it."""
        return self not in (Status.MISSING, Status.FAILED)


def _field(name: str, type_: pa.DataType, doc: str, *, nullable: bool = False) -> pa.Field:
    return pa.field(name, type_, nullable=nullable, metadata={"description": doc})


# Of the type that pyarrow gives to the `run=` of a path: read_table and pandas merge the two only where they are equal.
_RUN = _field("run", pa.dictionary(pa.int32(), pa.string()), "id of the run that wrote the row")
_IMAGE_ID = _field("image_id", pa.int64(), "position of the image in the run's manifest")
_URI = _field("uri", pa.string(), "where the image lies")
_MODEL = _field("model", pa.string(), "name@fingerprint of the model that ran")
_TIME = pa.timestamp("us", tz="UTC")

# Nullable all through, though no part of a mask is ever null: under a null mask, Parquet needs them to be.
RLE = pa.struct([
    _field("size", pa.list_(pa.int32(), 2), "frame height, width in pixels", nullable=True),
    _field("counts", pa.string(), "COCO compressed run lengths, column-major, as pycocotools writes them", nullable=True),
])  # fmt: skip

KEYPOINT = pa.struct([
    _field("name", pa.dictionary(pa.int32(), pa.string()), "keypoint"),
    _field("x", pa.float32(), "pixels, original image frame"),
    _field("y", pa.float32(), "pixels, original image frame"),
    _field("score", pa.float32(), "heat-map logit at the keypoint (torchvision's keypoints_scores), not a probability"),
])  # fmt: skip

MANIFEST = pa.schema([
    _IMAGE_ID,
    _URI,
    _field("etag", pa.string(), "version of the object: S3 ETag without quotes, or modification time and size", nullable=True),
    _field("size_bytes", pa.int64(), "object size", nullable=True),
    _field("last_modified", _TIME, "when the storage says it was last changed", nullable=True),
])  # fmt: skip

IMAGES = pa.schema([
    _RUN,
    *MANIFEST,
    _field("width", pa.int32(), "pixels, after EXIF orientation; null when it could not be read", nullable=True),
    _field("height", pa.int32(), "pixels, after EXIF orientation; null when it could not be read", nullable=True),
    _field("status", pa.dictionary(pa.int32(), pa.string()), " | ".join(Status)),
    _field("error", pa.string(), "why status is not ok; null when it is", nullable=True),
    _field("n_instances", pa.int32(), "rows that this image has in instances"),
    _MODEL,
    _field("processed_at", _TIME, "when the row was made"),
])  # fmt: skip

INSTANCES = pa.schema([
    _RUN,
    _IMAGE_ID,
    _URI,
    _field("instance", pa.int32(), "rank by score within the image, from 0"),
    _field("label_id", pa.int32(), "class id of the model (COCO category id for the COCO models)"),
    _field("label", pa.dictionary(pa.int32(), pa.string()), "class name"),
    _field("score", pa.float32(), "0 to 1; what is below the run's --score (0.05 unless it says otherwise) has no row: ask for score > 0.5"),
    _field("area", pa.int32(), "mask pixels; box pixels, rounded, where the model has no masks"),
    _field("x", pa.float32(), "left of the box, pixels, original image frame"),
    _field("y", pa.float32(), "top of the box, pixels, original image frame"),
    _field("w", pa.float32(), "box width, pixels"),
    _field("h", pa.float32(), "box height, pixels"),
    _field("mask", RLE, "null where the model has no masks", nullable=True),
    _field("keypoints", pa.list_(pa.field("element", KEYPOINT, nullable=False)), "null where the class has no keypoints; their score is a heat-map logit, not a probability from 0 to 1", nullable=True),
    _MODEL,
])  # fmt: skip

LABELS = pa.schema([
    _URI,
    _field("width", pa.int32(), "of the image, pixels, after EXIF orientation; null when nobody told", nullable=True),
    _field("height", pa.int32(), "of the image, pixels, after EXIF orientation; null when nobody told", nullable=True),
    _field("instance", pa.int32(), "position within the image's label set, from 0; -1 in the one row of an image that was looked at and has no instances"),
    *[
        INSTANCES.field(name).with_nullable(True)  # null where instance is -1
        for name in ("label_id", "label", "area", "x", "y", "w", "h", "mask")
    ],
    _field(
        "keypoints",
        pa.list_(pa.field("element", pa.struct([
            *[KEYPOINT.field(i) for i in range(3)],
            _field("visibility", pa.int8(), "COCO: 0 not labelled (x and y are 0), 1 labelled but hidden, 2 visible"),
        ]), nullable=False)),
        "null where no keypoint of the instance is labelled",
        nullable=True,
    ),
    _field("iscrowd", pa.bool_(), "COCO crowd region: many objects under one mask", nullable=True),
    _field("source", pa.string(), "human | import | …"),
    _field("split", pa.string(), "train | val, a stable hash of uri unless pinned"),
    _field("labelled_at", _TIME, "of the whole label set; the newest label set of an image replaces older ones"),
    # Added later, and so at the end and nullable: parts of older versions have none of them.
    _field("ignore", pa.bool_(), "neither learnt nor counted: COCO's ignore; null and false mean that it is an object", nullable=True),
    _field("given_area", pa.float64(), "the annotation file's area, pixels, by which COCO's evaluation goes; null where it is the column area", nullable=True),
    _field("num_keypoints", pa.int32(), "the annotation file's number of labelled keypoints; null where it is that of the column keypoints", nullable=True),
    _field("absent", pa.list_(pa.string()), "of the image: classes that were searched for and are not there, where only these and those of the instances were (LVIS' neg_category_ids); null where every class was", nullable=True),
    _field("not_exhaustive", pa.list_(pa.string()), "of the image: classes of which not every object is labelled (LVIS' not_exhaustive_category_ids)", nullable=True),
])  # fmt: skip
"""One row per labelled instance, and one with instance -1 for an image that is labelled and has none."""

REPEATING = (
    "run", "uri", "model", "label", "label_id", "status", "source", "split", "labelled_at",
    "keypoints.list.element.name", "mask.size.list.element",
)  # fmt: skip
"""Columns, as paths in Parquet, whose values repeat within a part, so that a dictionary makes them smaller."""


def with_footer(schema: pa.Schema, model: str | None) -> pa.Schema:
    """`schema` with the schema version and, where a model made the rows, its fingerprint as footer metadata."""
    made_by = {} if model is None else {MODEL_KEY: model.encode()}
    return schema.with_metadata({VERSION_KEY: str(SCHEMA_VERSION).encode(), **made_by})
