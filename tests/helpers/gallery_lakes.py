"""A small lake with photos of its own, two runs and labels: what galleries are tried on."""

from __future__ import annotations

import datetime
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from masklake.pipeline.storage.store import Storage, join
from PIL import Image

from tests.helpers.lakes import WHEN, LakeBuilder, empty_label_row, image, instance, label_row

OLD = "20261101T000000-aaaaaa"
NEW = "20261102T000000-bbbbbb"
HOSTILE = "<img src=x onerror=alert(1)>'\"; drop table images;--\u202e\x1b[31m.jpg"
"""A key that is HTML, SQL, a turned text and a terminal's escape sequence at once."""


def photo(colour: tuple[int, int, int] = (90, 120, 150)) -> bytes:
    """A JPEG of 64×48."""
    sink = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(sink, "JPEG")
    return sink.getvalue()


def gallery_lake(folder: Path | str, plain: int = 6) -> LakeBuilder:
    """In `folder`, which may be a bucket: a lake of `plain` photos a00.jpg … with a dog each, and of scores and sizes that differ; a person with
    keypoints in a00; a hostile key; an image that is gone, one that has changed, and one that failed; labels of a00 and a01."""
    photos, storage = join(str(folder), "photos"), Storage()
    names = [*(f"a{i:02}.jpg" for i in range(plain)), HOSTILE.replace("/", "_")]
    rows = []
    for i, name in enumerate(names):
        uri = join(photos, name)
        storage.write(uri, photo((40 * i % 256, 90, 150)))
        info = storage.stat(uri)
        assert info is not None
        time = WHEN + datetime.timedelta(minutes=i)
        score = (0.9, 0.5, 0.2)[i % 3]
        rows.append((image(uri, etag=info.etag, processed_at=time), [instance("dog", score, (8, 4, 16, 12))]))
    rows[0][1].append(instance("person", 0.8, (30, 4, 20, 40)))
    rows[-1][1][0]["label"] = "<b>dog</b>"
    rows.append((image(join(photos, "gone.jpg")), [instance("dog", 0.9)]))
    storage.write(join(photos, "changed.jpg"), photo())
    rows.append((image(join(photos, "changed.jpg"), etag="of another time"), [instance("dog", 0.9)]))
    failed = image(
        join(photos, "broken.jpg"), status="unreadable", error="broken JPEG content", width=None, height=None
    )
    rows.append((failed, []))
    lake = LakeBuilder(join(str(folder), "lake"))
    lake.part(OLD, [(rows[0][0], [instance("dog", 0.7, (8, 4, 16, 11)), instance("cat", 0.6, (2, 2, 5, 5))])])
    lake.record(OLD)
    lake.part(NEW, rows)
    lake.record(NEW)
    first, second = rows[0][0]["uri"], rows[1][0]["uri"]
    lake.labels([
        label_row(first, "dog", x=8.0, y=4.0, w=16.0, h=12.0),
        label_row(first, "horse", instance=1, x=1.0, y=1.0, w=6.0, h=5.0, mask=None),
        empty_label_row(second, split="val"),
    ])  # fmt: skip
    return lake


def large_lake(folder: Path, images: int, each: int = 5) -> LakeBuilder:
    """A lake of `images` rows with `each` instances of scores and classes drawn at random; its photos are nowhere."""
    lake = LakeBuilder(str(folder / "lake"))
    name = lake.part(OLD, [(image("s3://p/a"), [instance("person", 0.9)] * each)])
    parts = {table: Path(lake.uri, table, f"run={OLD}", name) for table in ("images", "instances")}
    samples = {table: pq.read_table(path, partitioning=None) for table, path in parts.items()}
    random = np.random.default_rng(1)
    ids = np.arange(images)
    times = pa.array(np.datetime64("2026-11-01", "us") + ids.astype("timedelta64[s]")).cast(
        pa.timestamp("us", "UTC")
    )
    uris = pa.array([f"s3://p/{i:07}.jpg" for i in ids])
    names = pa.array(["person", "dog", "cat"]).take(pa.array(random.integers(0, 3, images * each)))
    columns = {
        "images": {"image_id": pa.array(ids), "uri": uris, "processed_at": times},
        "instances": {
            "image_id": pa.array(np.repeat(ids, each)),
            "uri": uris.take(pa.array(np.repeat(ids, each))),
            "instance": pa.array(np.tile(np.arange(each, dtype=np.int32), images)),
            "score": pa.array(random.random(images * each, np.float32)),
            "label": names.dictionary_encode(),
        },
    }
    for table, path in parts.items():
        rows = samples[table].take(pa.array(np.tile(np.arange(len(samples[table])), images)))
        for column, values in columns[table].items():
            place = rows.schema.get_field_index(column)
            rows = rows.set_column(place, rows.schema.field(place), values)
        pq.write_table(rows, path, compression="zstd", row_group_size=10_000)
    lake.record(OLD)
    return lake
