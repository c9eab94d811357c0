"""Fetching: a row for every object, whatever became of it."""

from __future__ import annotations

import datetime
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pytest
from masklake.jobs.demo.loopback_s3 import LoopbackS3
from masklake.pipeline.schema import MANIFEST
from masklake.pipeline.segment.fetch import FETCHED, fetch
from masklake.pipeline.storage.store import Storage

from tests.conftest import Bucket

OLD = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


def _rows(*uris: str, size: int | None = 3, first: int = 0) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {"image_id": first + i, "uri": uri, "etag": "listed", "size_bytes": size, "last_modified": OLD}
            for i, uri in enumerate(uris)
        ],
        MANIFEST,
    )


def test_every_row_in_order(tmp_path: Path) -> None:
    names = [f"{i}.bin" for i in range(40)]
    for i, name in enumerate(names):
        (tmp_path / name).write_bytes(bytes([i]) * (i + 1))
    uris = [str(tmp_path / name) for name in reversed(names)]
    out = fetch(_rows(*uris), Storage(), 1000)
    assert out.schema.equals(FETCHED)
    assert out["uri"].to_pylist() == uris
    assert out["image_id"].to_pylist() == list(range(40))
    assert [len(data) for data in out["data"].to_pylist()] == list(range(40, 0, -1))
    assert set(out["status"].to_pylist()) == {"ok"}
    assert out["error"].null_count == 40


def test_version_and_size_are_of_what_was_read(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"changed since")
    row = fetch(_rows(str(file)), Storage(), 1000).to_pylist()[0]
    info = Storage().stat(str(file))
    assert info is not None
    assert (row["etag"], row["size_bytes"], row["last_modified"]) == (info.etag, 13, info.modified)


def test_an_object_over_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "large"
    file.write_bytes(bytes(2000))
    by_listing = fetch(_rows(str(file), size=2000), Storage(), 1000).to_pylist()[0]
    grown = fetch(_rows(str(file), size=3), Storage(), 1000).to_pylist()[0]
    unlisted = fetch(_rows(str(file), size=None), Storage(), 1000).to_pylist()[0]
    for row in (by_listing, grown, unlisted):
        assert row["status"] == "too_large"
        assert row["error"] == "2,000 bytes; the limit is 1,000 (--max-bytes)"
        assert row["data"] is None
    assert fetch(_rows(str(file), size=2000), Storage(), 2000)["status"].to_pylist() == ["ok"]


def test_what_cannot_be_had(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "good").write_bytes(b"abc")
    uris = [
        str(tmp_path / "gone"),
        str(tmp_path / "folder"),
        str(tmp_path / "nul\0byte"),
        str(tmp_path / "good"),
        str(tmp_path / "good" / "below"),
        str(tmp_path / ("x" * 300)),
        "nosuchprotocol://host/key",
        "ftp://host/key",
        "memory://not/there",
    ]
    out = fetch(_rows(*uris), Storage(), 1000).to_pylist()
    assert [row["status"] for row in out] == [
        "missing", "failed", "failed", "ok", "failed", "failed", "failed", "failed", "missing",
    ]  # fmt: skip
    assert all(row["error"] for row in out if row["status"] != "ok")
    assert "nosuchprotocol" in out[6]["error"]
    assert [row["etag"] for row in out].count("listed") == 8


class _Answers(BaseHTTPRequestHandler):
    """Answers `/403` with 403, and so on."""

    def do_GET(self) -> None:
        self.send_response(int(self.path.strip("/")))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_over_http_only_what_is_gone_is_missing() -> None:
    """fsspec says FileNotFoundError of whatever went wrong; `missing` is settled for ever, so it must be true."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        codes = (404, 410, 401, 403, 429, 500, 503)
        out = fetch(_rows(*(f"{url}/{code}" for code in codes)), Storage(), 1000).to_pylist()
        server.shutdown()
    assert [row["status"] for row in out] == ["missing"] * 2 + ["failed"] * 5
    for code, row in list(zip(codes, out, strict=True))[2:]:
        assert f"HTTP {code}" in row["error"], row["error"]
    with socket.create_server(("127.0.0.1", 0)) as probe:
        nobody = f"http://127.0.0.1:{probe.getsockname()[1]}/a.jpg"
    (row,) = fetch(_rows(nobody), Storage(), 1000).to_pylist()
    assert (row["status"], "no answer" in row["error"]) == ("failed", True)


def test_no_rows() -> None:
    out = fetch(MANIFEST.empty_table(), Storage(), 1000)
    assert out.schema.equals(FETCHED)
    assert len(out) == 0


def test_one_packet_may_span_storages(tmp_path: Path, s3_bucket: Bucket) -> None:
    (tmp_path / "a").write_bytes(b"local")
    s3_bucket.put("b", b"remote")
    out = fetch(_rows(f"{s3_bucket.uri}/b", str(tmp_path / "a"), f"{s3_bucket.uri}/c"), Storage(), 1000)
    assert out["data"].to_pylist() == [b"remote", b"local", None]
    assert out["status"].to_pylist() == ["ok", "ok", "missing"]


HOSTILE = [
    "with space.jpg",
    "plus+and%20percent.jpg",
    "q?uestion#hash.jpg",
    "star*[a-z]{b}.jpg",
    "ünï/日本語/🖼.jpg",
    "double//slash.jpg",
    "../dots/../up.jpg",
    "quote'\"; drop table images; --.jpg",
    "trailing space ",
    "<script>alert(1)</script>.jpg",
    "=cmd|' /C calc'!A0.jpg",
    "a" * 900 + ".jpg",
]


def test_hostile_keys(s3_bucket: Bucket) -> None:
    for i, key in enumerate(HOSTILE):
        s3_bucket.put(key, bytes([i]))
    out = fetch(_rows(*(f"{s3_bucket.uri}/{key}" for key in HOSTILE)), Storage(), 1000)
    assert out["data"].to_pylist() == [bytes([i]) for i in range(len(HOSTILE))]
    etags = out["etag"].to_pylist()
    assert all(etag and '"' not in etag for etag in etags)


def test_forbidden_and_absent_on_s3(s3_bucket: Bucket, use_s3: Callable[[LoopbackS3], None]) -> None:
    s3_bucket.put("open/a", b"a")
    s3_bucket.put("closed/b", b"b")
    s3_bucket.allow_guest("s3:GetObject", "s3:ListBucket", prefix="open/")
    use_s3(s3_bucket.guest)
    uris = [f"{s3_bucket.uri}/open/a", f"{s3_bucket.uri}/closed/b", "s3://no-such-bucket-here/c"]
    out = fetch(_rows(*uris), Storage(), 1000).to_pylist()
    assert out[0]["status"] == "ok"
    assert out[1]["status"] == "failed"
    assert "permission denied" in out[1]["error"]
    assert out[2]["status"] in ("missing", "failed")
    assert out[2]["error"]


def test_errors_carry_no_secrets(tmp_path: Path) -> None:
    uri = "nosuchprotocol://user:hunter2@host/key?X-Amz-Signature=abcdef"
    row = fetch(_rows(uri), Storage(), 1000).to_pylist()[0]
    assert "hunter2" not in row["error"]
    assert "abcdef" not in row["error"]
