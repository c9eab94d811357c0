"""What finished runs have covered, by object and version."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from masklake.pipeline.schema import IMAGES, Status
from masklake.pipeline.segment.covered import Covered
from masklake.pipeline.storage.objects import ObjectInfo
from masklake.pipeline.storage.parquet import write_table
from masklake.pipeline.storage.store import Storage

NOW = datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC)


def _part(path: Path, rows: list[tuple[str, str | None, str]]) -> str:
    table = pa.Table.from_pylist(
        [
            {
                "run": "r", "image_id": i, "uri": uri, "etag": etag, "size_bytes": 1, "last_modified": NOW,
                "width": 1, "height": 1, "status": status, "error": None, "n_instances": 0, "model": "m@1",
                "processed_at": NOW,
            }
            for i, (uri, etag, status) in enumerate(rows)
        ],
        IMAGES,
    )  # fmt: skip
    write_table(table, str(path), Storage())
    return str(path)


def _info(uri: str, etag: str | None) -> ObjectInfo:
    return ObjectInfo(uri, etag, 1, NOW)


def test_by_uri_and_version(tmp_path: Path) -> None:
    part = _part(tmp_path / "a", [("s3://b/1", "e1", "ok"), ("s3://b/2", "e2", "ok")])
    covered = Covered([part], Storage())
    assert len(covered) == 2
    assert _info("s3://b/1", "e1") in covered
    for other in (
        ("s3://b/1", "e2"),
        ("s3://b/1", None),
        ("s3://b/3", "e1"),
        ("s3://b/1e", "1"),
        ("s3://b/", "1e1"),
    ):
        assert _info(*other) not in covered


@pytest.mark.parametrize("status", list(Status))
def test_only_settled_rows_cover(tmp_path: Path, status: Status) -> None:
    covered = Covered([_part(tmp_path / "a", [("u", "e", str(status))])], Storage())
    assert (_info("u", "e") in covered) == (status not in (Status.MISSING, Status.FAILED))


def test_many_parts_and_none(tmp_path: Path) -> None:
    parts = [_part(tmp_path / str(k), [(f"u{k}-{i}", "e", "ok") for i in range(300)]) for k in range(4)]
    covered = Covered(parts, Storage())
    assert all(_info(f"u{k}-{i}", "e") in covered for k in range(4) for i in range(300))
    assert _info("u4-0", "e") not in covered
    none = Covered([], Storage())
    assert len(none) == 0
    assert _info("u", "e") not in none
    assert len(Covered([_part(tmp_path / "f", [("u", "e", "failed")])], Storage())) == 0


def test_digests_that_share_their_first_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def halves(uri: str, etag: str | None) -> bytes:
        return b"12345678" + uri[-8:].rjust(8).encode()

    monkeypatch.setattr("masklake.pipeline.segment.covered._digest", halves)
    covered = Covered([_part(tmp_path / "a", [(f"{i}", "e", "ok") for i in (3, 1, 2)])], Storage())
    assert [_info(str(i), "e") in covered for i in range(5)] == [False, True, True, True, False]


def test_bare_uris_are_asked_for_their_version(tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.jpg" for i in range(300)]
    for file in files[:-1]:
        file.write_bytes(b"x")
    info = Storage().stat(str(files[0]))
    assert info is not None
    covered = Covered([_part(tmp_path / "part", [(info.uri, info.etag, "ok")])], Storage())
    listed = [ObjectInfo(str(f), None, None, None, line) for line, f in enumerate(files, start=1)]
    versioned = list(covered.versioned(iter(listed)))
    assert [v.uri for v in versioned] == [str(f) for f in files]
    assert [v in covered for v in versioned] == [True] + [False] * 299
    assert versioned[0] == info._replace(line=1)
    assert versioned[-1] == listed[-1]  # gone: fetching it will tell


def test_a_first_run_asks_nothing() -> None:
    class Silent(Storage):
        def stat(self, uri: str) -> Any:
            raise AssertionError(f"asked for {uri}")

    listed = [ObjectInfo("/x", None, None, None)]
    assert list(Covered([], Silent()).versioned(listed)) == listed


def test_versions_are_asked_for_as_the_listing_is_read(tmp_path: Path) -> None:
    """A list of a hundred million lines is not read to its end before the first image."""
    file = tmp_path / "a.jpg"
    file.touch()
    read = 0

    def endless() -> Iterator[ObjectInfo]:
        nonlocal read
        while True:
            read += 1
            yield ObjectInfo(str(file), None, None, None)

    covered = Covered([_part(tmp_path / "part", [("u", "e", "ok")])], Storage())
    for n, _ in enumerate(covered.versioned(endless())):
        if n == 10:
            break
    assert read < 1000
