"""The two Parquet parts: the contract's schema, the order, the names, and which of the two commits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from masklake.pipeline.lake.run_record import RunFolder, SupersededError
from masklake.pipeline.schema import IMAGES, INSTANCES, MODEL_KEY, VERSION_KEY
from masklake.pipeline.segment.encode import encode_rows
from masklake.pipeline.segment.infer import infer_rows
from masklake.pipeline.segment.proof import bar_uncommitted
from masklake.pipeline.segment.write import part_attempt, part_name, write
from masklake.pipeline.storage.crash_points import on_reach
from masklake.pipeline.storage.parquet import read_table
from masklake.pipeline.storage.store import Storage

from tests.helpers.images import solid
from tests.helpers.predictors import VOCABULARY, ContentPredictor
from tests.pipeline.segment.test_infer import decoded

MODEL = "content@0123456789ab"


def _encoded(*files: bytes | None) -> pa.Table:
    return encode_rows(infer_rows(decoded(*files), ContentPredictor()), VOCABULARY)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(str(tmp_path / "lake"), "20261122T235416-3fa9c1", Storage())


def _read(folder: RunFolder, table: str) -> pa.Table:
    (uri,) = folder.storage.list(folder.table_uri(table))
    return pq.read_table(uri)


def test_the_parts_have_the_contracts_schema(folder: RunFolder) -> None:
    rows = _encoded(solid((3, 0, 0)), None, solid((2, 0, 0)), solid((0, 0, 0)))
    written = write(rows, folder, 1, MODEL)
    assert (written.images, written.instances) == (4, 5)
    assert written.statuses == {"ok": 3, "missing": 1}
    images, instances = (
        pq.ParquetFile(folder.storage.list(folder.table_uri(table))[0]) for table in ("images", "instances")
    )
    assert images.schema_arrow.remove_metadata().equals(IMAGES.remove_metadata())
    assert instances.schema_arrow.remove_metadata().equals(INSTANCES.remove_metadata())
    for file, schema in ((images, IMAGES), (instances, INSTANCES)):
        footer = file.schema_arrow.metadata
        assert footer[VERSION_KEY] == b"1"
        assert footer[MODEL_KEY] == MODEL.encode()
        for field in schema:
            stored = file.schema_arrow.field(field.name)
            assert stored.metadata[b"description"] == field.metadata[b"description"]
            assert stored.nullable == field.nullable
        assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    sizes = sum(
        Path(u).stat().st_size
        for t in ("images", "instances")
        for u in folder.storage.list(folder.table_uri(t))
    )
    assert written.bytes == sizes


def test_rows_belong_together(folder: RunFolder) -> None:
    write(_encoded(solid((3, 0, 0)), None, solid((2, 0, 0)), solid((1, 0, 0))), folder, 1, MODEL)
    images, instances = _read(folder, "images"), _read(folder, "instances")
    assert images["image_id"].to_pylist() == [10, 11, 12, 13]
    assert set(images["run"].to_pylist()) == {folder.run}
    by_image = dict.fromkeys((10, 11, 12, 13), 0)
    for row in instances.to_pylist():
        by_image[row["image_id"]] += 1
        assert row["uri"] == f"s3://b/{row['image_id'] - 10}"
        assert (row["run"], row["model"]) == (folder.run, MODEL)
    assert list(by_image.values()) == images["n_instances"].to_pylist() == [3, 0, 2, 1]


def test_instances_are_sorted_so_that_statistics_prune(folder: RunFolder) -> None:
    write(_encoded(*[solid((i, 0, 0)) for i in range(12)]), folder, 1, MODEL)
    rows = _read(folder, "instances").to_pylist()
    keys = [(row["label"], -row["score"], row["image_id"]) for row in rows]
    assert keys == sorted(keys)
    assert len({row["label"] for row in rows}) == 2


def test_images_are_sorted_whatever_the_order_of_the_packets(folder: RunFolder) -> None:
    rows = _encoded(*[solid((i, 0, 0)) for i in range(6)])
    write(pa.concat_tables([rows.slice(4, 2), rows.slice(0, 2), rows.slice(2, 2)]), folder, 1, MODEL)
    assert _read(folder, "images")["image_id"].to_pylist() == [10, 11, 12, 13, 14, 15]
    counts = _read(folder, "images")["n_instances"].to_pylist()
    owners = _read(folder, "instances")["image_id"].to_pylist()
    assert [owners.count(10 + i) for i in range(6)] == counts == [0, 1, 2, 3, 0, 1]


@pytest.mark.parametrize("files", [[None], [solid((0, 0, 0))], [b"text", None]])
def test_a_commit_without_instances(folder: RunFolder, files: list[bytes | None]) -> None:
    assert write(_encoded(*files), folder, 1, MODEL).instances == 0
    assert _read(folder, "instances").num_rows == 0
    assert _read(folder, "instances").schema.remove_metadata().equals(INSTANCES.remove_metadata())
    assert _read(folder, "images").num_rows == len(files)


def test_the_instances_part_is_written_first(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    put_new = Storage.put_new

    def spy(storage: Storage, uri: str, data: bytes) -> bool:
        order.append(uri)
        return put_new(storage, uri, data)

    monkeypatch.setattr(Storage, "put_new", spy)
    write(_encoded(solid((1, 0, 0))), folder, 1, MODEL)
    assert [uri.split("/")[-3] for uri in order] == ["instances", "images"]
    assert len({uri.rpartition("/")[2] for uri in order}) == 1


def test_a_failed_commit_leaves_no_images_part(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    put_new = Storage.put_new

    def fail(storage: Storage, uri: str, data: bytes) -> bool:
        if "/images/" in uri:
            raise OSError("disk full")
        return put_new(storage, uri, data)

    monkeypatch.setattr(Storage, "put_new", fail)
    with pytest.raises(OSError, match="disk full"):
        write(_encoded(solid((1, 0, 0))), folder, 1, MODEL)
    assert folder.storage.list(folder.table_uri("images")) == []


@pytest.mark.parametrize("barred", [False, True])
def test_a_commit_that_is_overtaken_leaves_nothing(folder: RunFolder, barred: bool) -> None:
    """It stood still before its first part, until a later attempt had done its images; or, retried, between a look and that part,
    so that the later attempt saw the part without its twin and barred the name."""
    rows = _encoded(solid((3, 0, 0)), solid((1, 0, 0)))
    name = part_name(1, rows["image_id"].to_numpy())
    if barred:
        folder.storage.write(f"{folder.table_uri('instances')}/{name}", b"as far as the first try came")

    def overtaken(point: str) -> None:
        step = "write " if barred else "put "
        if (
            point.startswith(step)
            and f"/instances/run={folder.run}/{name}" in point
            and not folder.superseded(1)
        ):
            folder.take_attempt(2, lambda _: False)
            bar_uncommitted(folder, 2, MODEL)
            write(rows, folder, 2, MODEL)

    folder.take_attempt(1, lambda _: False)
    with on_reach(overtaken), pytest.raises(SupersededError):
        write(rows, folder, 1, MODEL)
    assert folder.superseded(1)
    for table, n in (("images", 2), ("instances", 4)):
        parts = {
            uri.rpartition("/")[2]: read_table(uri, folder.storage)
            for uri in folder.storage.list(folder.table_uri(table))
        }
        assert parts.keys() == {part_name(2, rows["image_id"].to_numpy()), *([name] if barred else [])}
        assert sum(map(len, parts.values())) == n


def test_a_retried_commit_overwrites_itself(folder: RunFolder) -> None:
    rows = _encoded(solid((3, 0, 0)), solid((1, 0, 0)))
    write(rows, folder, 1, MODEL)
    write(pa.concat_tables([rows.slice(1, 1), rows.slice(0, 1)]), folder, 1, MODEL)
    assert _read(folder, "images").num_rows == 2
    write(rows, folder, 2, MODEL)
    assert len(folder.storage.list(folder.table_uri("images"))) == 2


def test_part_names() -> None:
    ids = np.array([7, 3, 5])
    name = part_name(12, ids)
    assert name.startswith("part-012-0000000003-")
    assert name == part_name(12, np.sort(ids))
    assert part_attempt(name) == 12
    others = {part_name(13, ids), part_name(12, ids[:2]), part_name(12, np.array([3, 5, 8]))}
    assert len({name, *others}) == 4
    assert part_attempt(part_name(1234, np.array([10**11]))) == 1234
    for odd in ("part-1.parquet", "x" + name, name + ".tmp", f".{name}.ab12.tmp", "part-001-xx.parquet", ""):
        assert part_attempt(odd) is None


HOSTILE = [
    "s3://b/a b+%20\n\t.jpg",
    "s3://b/'; drop table --",
    "/dir/\x01\x7f",
    "s3://b/日本語/🖼",
    "s3://b/" + "x" * 5000,
]


def test_hostile_uris_arrive_as_they_are(folder: RunFolder) -> None:
    rows = _encoded(*[solid((1, 0, 0))] * len(HOSTILE))
    rows = rows.set_column(rows.schema.get_field_index("uri"), "uri", pa.array(HOSTILE))
    write(rows, folder, 1, MODEL)
    assert _read(folder, "images")["uri"].to_pylist() == HOSTILE
    assert sorted(_read(folder, "instances")["uri"].to_pylist()) == sorted(HOSTILE)


def test_masks_and_keypoints_survive_the_file(folder: RunFolder) -> None:
    rows = _encoded(solid((3, 0, 0), (40, 30)))
    write(rows, folder, 1, MODEL)
    before = {instance["instance"]: instance for instance in rows.to_pylist()[0]["instances"]}
    for row in _read(folder, "instances").to_pylist():
        expected = before[row["instance"]]
        assert json.dumps(row["mask"]) == json.dumps(expected["mask"])
        assert row["keypoints"] == expected["keypoints"]
        assert (row["area"], row["label_id"], row["x"]) == (
            expected["area"],
            expected["label_id"],
            expected["x"],
        )
