"""Which runs a lake holds, and which of their part files count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.lake import SCHEMAS, Lake, require_version
from masklake.pipeline.storage.store import Storage, join

from tests.conftest import Bucket
from tests.helpers.lakes import LakeBuilder, instance, label_row

R1, R2, R3 = "20261101T000000-aaaaaa", "20261102T000000-bbbbbb", "20261103T000000-cccccc"


class CountingStorage(Storage):
    """Notes which folders are listed and which objects are read."""

    calls: list[tuple[str, Any]]

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "calls", [])

    def walk(self, uri: str) -> Any:
        self.calls.append(("list", uri))
        return super().walk(uri)

    def walk_for(self, uri: str, names: Any) -> Any:
        self.calls.append(("list", uri))
        return super().walk_for(uri, names)

    def get_many(self, uris: list[str], max_bytes: int | None = None) -> Any:
        self.calls.append(("read", sorted(uris)))
        return super().get_many(uris, max_bytes)


@pytest.fixture
def builder(tmp_path: Path) -> LakeBuilder:
    return LakeBuilder(str(tmp_path / "lake"))


@pytest.fixture
def lake(builder: LakeBuilder) -> Lake:
    builder.part(R1, {"s3://p/a": [instance("dog", 0.9)]})
    builder.part(R2, {"s3://p/b": [instance("person", 0.5)], "s3://p/c": []})
    builder.part(R2, {"s3://p/d": [instance("cat", 0.4)]}, commit=False)
    builder.labels([label_row("s3://p/a", "person")])
    for run in (R1, R2):
        builder.record(run)
    return Lake(builder.uri, Storage())


def test_parts_are_those_that_are_committed(lake: Lake) -> None:
    for table in ("images", "instances"):
        parts = lake.parts(table)
        assert [part.run for part in parts] == [R1, R2]
        for part in parts:
            assert part.path == f"{table}/run={part.run}/{part.name}"
            assert (Path(lake.uri) / part.path).stat().st_size == part.size
    [labels] = lake.parts("labels")
    assert (labels.run, labels.path) == ("", f"labels/{labels.name}")


def test_a_lake_is_listed_once_a_table_however_many_runs_it_holds(builder: LakeBuilder) -> None:
    for i in range(20):
        builder.part(f"202611{i:02d}T000000-aaaaaa", {f"s3://p/{i}": [instance("dog", 0.9)]})
        builder.record(f"202611{i:02d}T000000-aaaaaa")
    storage = CountingStorage()
    lake = Lake(builder.uri, storage)
    assert len(lake.parts("instances")) == len(lake.parts("images")) == len(lake.runs()) == 20
    lake.require()
    lake.parts("instances")
    lists = [uri for call, uri in storage.calls if call == "list"]
    assert lists == [join(builder.uri, table) for table in ("images", "instances", "runs")]
    reads = [uris for call, uris in storage.calls if call == "read"]
    assert reads[0] == [join(builder.uri, "replacements.json")]  # before the first listing, and once
    assert [len(uris) for uris in reads[1:]] == [20]


def test_images_are_listed_before_instances(builder: LakeBuilder) -> None:
    """A part committed between the two listings must be in neither table, or its instances would be missing."""
    builder.part(R1, {"s3://p/a": [instance("dog", 0.9)]})

    class Racing(Storage):
        def walk(self, uri: str) -> Any:
            infos = list(super().walk(uri))
            if uri.endswith(("images", "instances")):
                builder.part(R1, {f"s3://p/{uri}": [instance("dog", 0.9)]})
            return iter(infos)

    lake = Lake(builder.uri, Racing())
    assert [p.name for p in lake.parts("instances")] == [p.name for p in lake.parts("images")]
    assert len(lake.parts("images")) == 1


def test_runs_are_listed_newest_first_with_what_is_wrong_with_them(builder: LakeBuilder) -> None:
    builder.record(R2, state="failed")
    builder.record(R1)
    builder.part(R3, {"s3://p/a": []})
    broken = {
        "20261104T000000-dddddd": (b"{", "is not JSON"),
        "20261105T000000-eeeeee": (b"[]", "is not a run record"),
        "20261106T000000-ffffff": (b"\xff\xfe", "is not JSON"),
        "20261107T000000-000000": (b'{"schema_version": "one"}', "is not a run record"),
    }
    for run, (data, _) in broken.items():
        builder.storage.write(join(builder.uri, "runs", run, "run.json"), data)
    builder.raw_record("20261108T000000-111111", stages=[1], counts=None)
    runs = Lake(builder.uri, Storage()).runs()
    assert [run.id for run in runs] == sorted((run.id for run in runs), reverse=True)
    by_id = {run.id: run for run in runs}
    assert (by_id[R2].record and by_id[R2].record.state, by_id[R2].problem) == ("failed", None)
    assert by_id[R3].problem == "it has no run.json"
    for run, (_, problem) in broken.items():
        assert by_id[run].record is None
        assert f"{run}/run.json: {problem}" in str(by_id[run].problem)
    assert "(counts is NoneType, stages is list)" in str(by_id["20261108T000000-111111"].problem)


def test_a_record_of_a_newer_masklake_stops_with_the_remedy(builder: LakeBuilder) -> None:
    builder.raw_record(R1, schema_version=7, something_new=True)
    with pytest.raises(
        UserError, match=rf"{R1}/run\.json: was written with lake schema 7.* up to schema 1; upgrade"
    ):
        Lake(builder.uri, Storage()).runs()


def test_last_is_the_newest_run(lake: Lake) -> None:
    assert lake.resolve("last") == R2
    assert lake.resolve(R1) == R1
    with pytest.raises(UserError, match=r"has no run '\.\./x'"):
        lake.resolve("../x")


def test_names_below_a_lake_that_are_not_its_own_are_left_alone(lake: Lake) -> None:
    for path in (
        f"images/run={R1}/part-1.parquet.crc", "images/run=/part-1.parquet", "images/part-1.parquet",
        "images/run=../part-1.parquet", f"images/run={R1}/deeper/part-1.parquet", "images/run=a\nb/part-1.parquet",
        "labels/part-1.parquet/x", f"runs/{R1}/manifest/part-1.parquet", f"runs/{R1}/attempts/run.json", "runs/run.json",
    ):  # fmt: skip
        file = Path(lake.uri) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    fresh = Lake(lake.uri, Storage())
    for table in SCHEMAS:
        assert fresh.parts(table) == lake.parts(table)
    assert fresh.run_ids() == [R2, R1]


def test_a_dataset_holds_the_committed_rows_with_the_types_of_the_schema(lake: Lake) -> None:
    dataset = lake.dataset("instances")
    assert dataset.schema.equals(SCHEMAS["instances"])
    assert dataset.to_table(columns=["label"])["label"].to_pylist() == ["dog", "person"]
    assert lake.dataset("instances", [R2]).count_rows() == 1
    assert lake.dataset("images").to_table()["run"].to_pylist() == [R1, R2, R2]
    [label] = lake.dataset("labels").to_table().to_pylist()
    assert label["keypoints"][0] == {"name": "nose", "x": pytest.approx(8.470588), "y": 10.0, "visibility": 2}


def test_a_dataset_of_an_empty_lake_has_no_rows(builder: LakeBuilder) -> None:
    builder.record(R1)
    for table, schema in SCHEMAS.items():
        table_ = Lake(builder.uri, Storage()).dataset(table).to_table()
        assert (len(table_), table_.schema.equals(schema)) == (0, True)


@pytest.mark.parametrize("table", ["instances", "labels"])
def test_a_dataset_of_a_newer_schema_is_refused(builder: LakeBuilder, table: str) -> None:
    builder.part(R1, {"s3://p/a": []}, version=3)
    builder.labels([label_row("s3://p/a", "dog")], version=3)
    with pytest.raises(UserError, match="was written with lake schema 3"):
        Lake(builder.uri, Storage()).dataset(table)


def test_the_version_of_a_file_is_checked() -> None:
    require_version(None, "x")
    require_version(b"1", "x")
    with pytest.raises(UserError, match="x: was written with lake schema 10"):
        require_version(b"10", "x")
    with pytest.raises(UserError, match="x: states the schema version b'new', which is no number"):
        require_version(b"new", "x")


@pytest.mark.parametrize("uri", ["lake", "./lake/", "file://{cwd}/lake"])
def test_a_local_lake_can_be_named_in_any_way(
    builder: LakeBuilder, lake: Lake, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(builder.uri).parent)
    other = Lake(uri.replace("{cwd}", str(Path(builder.uri).parent)), Storage())
    assert other.uri == lake.uri
    assert other.dataset("images").count_rows() == 3


def test_other_filesystems_hold_lakes_too() -> None:
    builder = LakeBuilder("memory://lakes/one")
    builder.part(R1, {"s3://p/a": [instance("dog", 0.9)]})
    builder.record(R1)
    lake = Lake("memory://lakes/one/", Storage())
    assert lake.dataset("instances").to_table(columns=["uri"]).to_pylist() == [{"uri": "s3://p/a"}]
    from masklake.jobs.query.database import Database

    with Database(lake) as database:
        assert database.rows("select label, run from instances") == [("dog", R1)]


def test_a_lake_in_s3(s3_bucket: Bucket) -> None:
    builder = LakeBuilder(f"{s3_bucket.uri}/deep/a lake/%41[x]")
    builder.part(R1, {"s3://p/a": [instance("dog", 0.9)], "s3://p/b": []})
    builder.record(R1)
    lake = Lake(builder.uri + "/", Storage())
    table = lake.dataset("instances").to_table()
    assert isinstance(table, pa.Table)
    assert table["uri"].to_pylist() == ["s3://p/a"]
    assert [run.record and run.record.state for run in lake.runs()] == ["complete"]
    with pytest.raises(UserError, match="is not a lake"):
        Lake(f"{s3_bucket.uri}/deep/a", Storage()).require()
    with pytest.raises(UserError, match=r"bucket 'absent-.*' does not exist"):
        Lake(f"s3://absent-{s3_bucket.name}/lake", Storage()).require()


@pytest.mark.slow
def test_an_endpoint_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    with pytest.raises(UserError, match=r"s3://bucket/lake: cannot list .*; check --endpoint-url"):
        Lake("s3://bucket/lake", Storage(endpoint_url="http://127.0.0.1:9")).require()
