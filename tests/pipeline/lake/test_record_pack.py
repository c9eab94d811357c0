"""Many runs are read with few requests, and a pack that is old is never believed."""

from __future__ import annotations

from pathlib import Path

import pytest
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.lake.record_pack import PACK, WORTH_IT
from masklake.pipeline.storage.store import Storage

from tests.conftest import Bucket
from tests.helpers.lakes import LakeBuilder
from tests.pipeline.lake.test_lake import CountingStorage

IDS = [f"20261101T{number:06d}-aaaaaa" for number in range(WORTH_IT + 10)]


@pytest.fixture
def builder(tmp_path: Path) -> LakeBuilder:
    builder = LakeBuilder(str(tmp_path / "lake"))
    for id_ in IDS:
        builder.record(id_, instances=1)
    return builder


def _read(builder: LakeBuilder) -> tuple[dict[str, int], list[str]]:
    """(instances by run, the runs whose record was read by itself)."""
    storage = CountingStorage()
    runs = Lake(builder.uri, storage).runs()
    read = [uri for call, uris in storage.calls if call == "read" for uri in uris]
    single = [uri.split("/")[-2] for uri in read if uri.endswith("/run.json")]
    return {run.id: run.record.instances for run in runs if run.record is not None}, single


def test_what_is_packed_is_read_at_once(builder: LakeBuilder) -> None:
    assert _read(builder) == (dict.fromkeys(IDS, 1), IDS)
    lake = Lake(builder.uri, Storage())
    lake.pack_records()  # nothing has been read
    assert not Path(builder.uri, "runs", PACK).exists()
    records = lake.runs()
    lake.pack_records()
    assert _read(builder) == (dict.fromkeys(IDS, 1), [])
    assert [run.record for run in Lake(builder.uri, Storage()).runs()] == [run.record for run in records]


def test_a_record_that_changed_since_is_read_by_itself(builder: LakeBuilder) -> None:
    lake = Lake(builder.uri, Storage())
    lake.runs()
    lake.pack_records()
    builder.record(IDS[3], instances=2)
    new = "20261201T000000-bbbbbb"
    builder.record(new, instances=3)
    Path(builder.uri, "runs", IDS[5], "run.json").unlink()
    expected = dict.fromkeys(IDS, 1) | {IDS[3]: 2, new: 3}
    del expected[IDS[5]]
    assert _read(builder) == (expected, [IDS[3], new])


@pytest.mark.parametrize("content", [b"", b"PAR1 and nothing of it", None])
def test_a_pack_that_cannot_be_read_is_done_without(builder: LakeBuilder, content: bytes | None) -> None:
    pack = Path(builder.uri, "runs", PACK)
    if content is None:  # a Parquet file of something else
        builder.labels([])
        [labels] = Path(builder.uri, "labels").iterdir()
        content = labels.read_bytes()
    pack.write_bytes(content)
    assert _read(builder) == (dict.fromkeys(IDS, 1), IDS)
    lake = Lake(builder.uri, Storage())
    lake.runs()
    lake.pack_records()
    assert _read(builder)[1] == []


def test_a_few_records_are_not_packed(tmp_path: Path) -> None:
    builder = LakeBuilder(str(tmp_path / "lake"))
    for id_ in IDS[: WORTH_IT - 1]:
        builder.record(id_)
    lake = Lake(builder.uri, Storage())
    lake.runs()
    lake.pack_records()
    assert not Path(builder.uri, "runs", PACK).exists()


def test_in_s3_too(s3_bucket: Bucket) -> None:
    builder = LakeBuilder(f"{s3_bucket.uri}/lake")
    for id_ in IDS:
        builder.record(id_, instances=1)
    lake = Lake(builder.uri, Storage())
    lake.runs()
    lake.pack_records()
    builder.record(IDS[0], instances=2)
    assert _read(builder) == (dict.fromkeys(IDS, 1) | {IDS[0]: 2}, [IDS[0]])
