"""`masklake catalog`: the tables that pyiceberg's own reader sees, before and after the lake changes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from masklake.jobs.catalog import iceberg
from masklake.jobs.catalog.iceberg import iceberg_schema
from masklake.pipeline.lake.lake import SCHEMAS, Lake
from masklake.pipeline.storage.store import Storage
from pyiceberg.catalog import Catalog, load_catalog

from tests.conftest import Bucket
from tests.helpers.lakes import LakeBuilder, empty_label_row, image, instance, label_row

Run = Callable[..., tuple[int, str, str]]
R1, R2 = "20261101T000000-aaaaaa", "20261102T000000-bbbbbb"


@pytest.fixture
def lake(tmp_path: Path) -> LakeBuilder:
    builder = LakeBuilder(str(tmp_path / "lake"))
    broken = image("s3://p/broken.jpg", status="unreadable", error="truncated", width=None, height=None)
    builder.part(R1, {"s3://p/a.jpg": [instance("person", 0.9), instance("dog", 0.3, mask=None)]})
    builder.part(R1, [(broken, [])])
    builder.part(R1, {"s3://p/x.jpg": [instance("cat", 0.8)]}, commit=False)
    builder.labels([label_row("s3://p/a.jpg", "person"), empty_label_row("s3://p/b.jpg")])
    return builder


@pytest.fixture
def catalog(tmp_path: Path, lake: LakeBuilder) -> Catalog:
    return load_catalog("test", uri=f"sqlite:///{tmp_path}/catalog.db", warehouse=f"{lake.uri}/iceberg")


@pytest.fixture
def registered(masklake: Run, lake: LakeBuilder, tmp_path: Path) -> Callable[..., dict[str, list[int]]]:
    """Register; of each table how many files were added, taken out, and are there."""

    def register(*args: str) -> dict[str, list[int]]:
        uri = f"sqlite:///{tmp_path}/catalog.db"
        code, out, err = masklake("catalog", lake.uri, "--catalog", "test", "--uri", uri, "--json", *args)
        assert code == 0, err
        return {
            change["table"]: [change["added"], change["removed"], change["files"]]
            for change in json.loads(out)
        }

    return register


def rows(catalog: Catalog, table: str) -> list[dict[str, Any]]:
    return _sorted(catalog.load_table(f"masklake.all_{table}").scan().to_arrow().to_pylist())


def _sorted(content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in their order. pyiceberg 0.12 reads a null list of structs as an empty one (io/pyarrow.py, `list`)."""
    plain = [row | {"keypoints": row["keypoints"] or []} if "keypoints" in row else row for row in content]
    return sorted(plain, key=lambda row: [str(row.get(key)) for key in ("run", "uri", "instance")])


def in_lake(lake: LakeBuilder, table: str) -> list[dict[str, Any]]:
    return _sorted(Lake(lake.uri, Storage()).dataset(table).to_table().to_pylist())


def test_the_tables_hold_the_rows_of_the_lake(
    lake: LakeBuilder, catalog: Catalog, registered: Callable[..., dict[str, list[int]]]
) -> None:
    """An instances part without its images part does not count, and one without rows needs no place."""
    assert registered() == {
        "masklake.all_images": [2, 0, 2], "masklake.all_instances": [1, 0, 1], "masklake.all_labels": [1, 0, 1],
    }  # fmt: skip
    for table, schema in SCHEMAS.items():
        assert rows(catalog, table) == in_lake(lake, table)
        columns = catalog.load_table(f"masklake.all_{table}").schema()
        assert columns.as_arrow().names == iceberg_schema(schema).names
        assert {f.name: not f.required for f in columns.fields} == {f.name: f.nullable for f in schema}
        assert all(field.doc for field in columns.fields)
    partitions = catalog.load_table("masklake.all_images").inspect.partitions().to_pylist()
    assert [(p["partition"], p["file_count"]) for p in partitions] == [({"run": R1}, 2)]


def test_again_only_what_is_new(
    lake: LakeBuilder, catalog: Catalog, registered: Callable[..., dict[str, list[int]]]
) -> None:
    registered()
    before = catalog.load_table("masklake.all_labels").metadata_location
    lake.part(R2, {"s3://p/c.jpg": [instance("dog", 0.5)]})
    assert registered()["masklake.all_images"] == [1, 0, 3]
    assert registered()["masklake.all_images"] == [0, 0, 3]
    assert rows(catalog, "instances") == in_lake(lake, "instances")
    assert catalog.load_table("masklake.all_labels").metadata_location == before


def test_files_that_are_gone_are_taken_out_in_the_same_commit(
    lake: LakeBuilder, catalog: Catalog, registered: Callable[..., dict[str, list[int]]]
) -> None:
    """As after a compaction: other files hold the rows."""
    registered()
    versions = len(catalog.load_table("masklake.all_images").metadata.metadata_log)
    for table in ("images", "instances"):
        for file in Path(lake.uri, table).rglob("*.parquet"):
            file.unlink()
    lake.part(R1, {"s3://p/a.jpg": [instance("person", 0.9)], "s3://p/z.jpg": []})
    changes = registered()
    assert changes["masklake.all_images"] == [1, 2, 1]
    assert changes["masklake.all_instances"] == [1, 1, 1]
    for table in SCHEMAS:
        assert rows(catalog, table) == in_lake(lake, table)
    assert len(catalog.load_table("masklake.all_images").metadata.metadata_log) == versions + 1


def test_a_lake_that_is_compacted(
    masklake: Run, lake: LakeBuilder, catalog: Catalog, registered: Callable[..., dict[str, list[int]]]
) -> None:
    """While the new parts wait below replacing/, and when they are in their place."""
    lake.record(R1)
    registered()
    for removed, options in ((2, ["--no-wait"]), (1, [])):
        code, _, err = masklake("compact", lake.uri, "--grace-minutes", "0.01", *options)
        assert code == 0, err
        assert registered()["masklake.all_images"] == [1, removed, 1]
        for table in SCHEMAS:
            assert rows(catalog, table) == in_lake(lake, table)


def test_a_part_that_was_written_anew_under_its_name(
    lake: LakeBuilder, catalog: Catalog, registered: Callable[..., dict[str, list[int]]]
) -> None:
    registered()
    lake._parts = 0
    lake.part(R1, {"s3://p/other.jpg": [instance("cat", 0.9), instance("dog", 0.8), instance("dog", 0.7)]})
    assert registered()["masklake.all_instances"] == [1, 1, 1]
    for table in SCHEMAS:
        assert rows(catalog, table) == in_lake(lake, table)


def test_two_at_once_add_no_file_twice(
    masklake: Run,
    lake: LakeBuilder,
    catalog: Catalog,
    tmp_path: Path,
    registered: Callable[..., dict[str, list[int]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other one commits while this one looks at the new files."""
    registered()
    lake.part(R2, {"s3://p/c.jpg": [instance("dog", 0.5)]})
    count = iceberg._row_counts

    def overtaken(*args: Any) -> Any:
        monkeypatch.undo()
        registered()
        return count(*args)

    monkeypatch.setattr(iceberg, "_row_counts", overtaken)
    command = ["catalog", lake.uri, "--catalog", "test", "--uri", f"sqlite:///{tmp_path}/catalog.db"]
    code, _, err = masklake(*command)
    assert (code, "another changed it meanwhile; run the command again" in err) == (2, True), err
    assert masklake(*command)[0] == 0
    for table in SCHEMAS:
        assert rows(catalog, table) == in_lake(lake, table)


def test_columns_that_the_contract_got_later(
    lake: LakeBuilder, catalog: Catalog, registered: Callable[..., dict[str, list[int]]]
) -> None:
    registered()
    table = catalog.load_table("masklake.all_labels")
    with table.update_schema() as update:
        update.delete_column("given_area")
    lake.labels([label_row("s3://p/c.jpg", "dog", given_area=1.5)])
    registered()
    assert rows(catalog, "labels") == in_lake(lake, "labels")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "the catalog masklake: URI missing"),
        (["--uri", "sqlite:////nowhere/at/all.db"], "unable to open database file"),
        (["--uri", "gopher://x"], "Could not infer the catalog type"),
        (["--uri", "postgresql://me:hunter2@localhost:1/x"], "the catalog masklake: "),
        (["--uri", "sqlite:///x.db", "--profile", "me"], "set AWS_PROFILE"),
        (["--uri", "sqlite:///x.db", "--namespace", "a'b"], '--namespace "a\'b": write letters'),
    ],
)
def test_mistakes(
    masklake: Run,
    lake: LakeBuilder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = masklake("catalog", lake.uri, *args)
    assert (code, len(err.splitlines())) == (2, 1), err
    assert message in err
    assert "hunter2" not in err


def test_a_table_of_another_lake_stays_as_it_is(
    masklake: Run, lake: LakeBuilder, tmp_path: Path, registered: Callable[..., dict[str, list[int]]]
) -> None:
    registered()
    other = LakeBuilder(str(tmp_path / "other"))
    other.part(R1, {"s3://p/o.jpg": []})
    command = ["catalog", other.uri, "--uri", f"sqlite:///{tmp_path}/catalog.db", "--catalog", "test"]
    code, _, err = masklake(*command)
    assert (
        code,
        f"masklake.all_images: is of the lake {lake.uri}; give this lake another --namespace" in err,
    ) == (2, True)
    assert masklake(*command, "--namespace", "other")[0] == 0


def test_a_lake_without_rows_is_told(masklake: Run, tmp_path: Path) -> None:
    empty = LakeBuilder(str(tmp_path / "empty"))
    empty.record(R1)
    code, out, err = masklake("catalog", empty.uri, "--uri", f"sqlite:///{tmp_path}/catalog.db")
    assert (code, "has neither images nor labels yet" in out) == (0, True), err


def test_hives_own_errors_are_one_line(
    masklake: Run, lake: LakeBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = type("TTransportException", (Exception,), {"__module__": "thrift.transport.TTransport"})

    def refuse(*_: Any, **__: Any) -> Any:
        raise error("Could not connect to any of [('127.0.0.1', 9083)]")

    monkeypatch.setattr("pyiceberg.catalog.load_catalog", refuse)
    code, _, err = masklake("catalog", lake.uri, "--uri", "thrift://localhost:9083")
    assert (code, len(err.splitlines())) == (2, 1), err
    assert "the catalog masklake: TTransportException: Could not connect" in err


def test_without_pyiceberg(masklake: Run, lake: LakeBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyiceberg.catalog", None)
    code, _, err = masklake("catalog", lake.uri, "--uri", "sqlite:///x.db")
    assert (code, "pip install 'masklake[iceberg]'" in err) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize("s3_bucket", ["moto"], indirect=True)
def test_no_credential_is_written(masklake: Run, s3_bucket: Bucket, tmp_path: Path) -> None:
    lake = LakeBuilder(f"{s3_bucket.uri}/lake")
    lake.part(R1, {"s3://p/a.jpg": [instance("dog", 0.9)]})
    code, out, err = masklake("catalog", lake.uri, "--uri", f"sqlite:///{tmp_path}/catalog.db")
    assert code == 0, err
    keys = s3_bucket.all_keys("lake/iceberg/")
    assert keys
    written = [s3_bucket.get(key) for key in keys] + [
        (tmp_path / "catalog.db").read_bytes(),
        out.encode(),
        err.encode(),
    ]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        secret = s3_bucket.server.env.get(name)
        assert not [data for data in written if secret and secret.encode() in data]
    catalog = load_catalog(
        "masklake",
        uri=f"sqlite:///{tmp_path}/catalog.db",
        **{"s3.endpoint": s3_bucket.server.env["AWS_ENDPOINT_URL"], "s3.region": "us-east-1"},
    )
    assert catalog.load_table("masklake.all_instances").scan().to_arrow()["label"].to_pylist() == ["dog"]
