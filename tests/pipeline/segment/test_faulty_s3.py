"""Listing and fetching from an S3 server that misbehaves: each image is a row, with its bytes or with the reason."""

from __future__ import annotations

import re
from collections import Counter

import pyarrow as pa
import pytest
from masklake.pipeline.schema import MANIFEST
from masklake.pipeline.segment.fetch import fetch
from masklake.pipeline.storage.store import Storage

from tests.conftest import Bucket
from tests.helpers.faults.table import counted, struck
from tests.helpers.servers import simulated_s3
from tests.helpers.servers.faulty import Plan, faulty
from tests.pipeline.segment.test_fetch import _rows

pytestmark = pytest.mark.parametrize("s3_bucket", ["moto"], indirect=True)
CONTENT = b"a picture" * 500
N = 14


def _fetched(s3_bucket: Bucket, plan: Plan) -> list[dict]:
    keys = [f"{number:02d}.jpg" for number in range(N)]
    for key in keys:
        s3_bucket.put(key, CONTENT)
    with faulty(s3_bucket.server, plan) as url:
        storage = Storage(endpoint_url=url)
        listed = {info.uri: info for info in storage.walk(s3_bucket.uri)}
        assert list(listed) == [f"{s3_bucket.uri}/{key}" for key in keys]
        table = _rows(*listed).to_pylist()
        for row in table:
            info = listed[row["uri"]]
            row |= {"etag": info.etag, "size_bytes": info.size, "last_modified": info.modified}
        struck()
        fetched = fetch(pa.Table.from_pylist(table, MANIFEST), storage, 10**6).to_pylist()
        counted(N, len(fetched), lost=len(set(listed) - {row["uri"] for row in fetched}), doubled=0)
        return fetched


@pytest.mark.parametrize("fault", ["slow down", "internal", "reset", "cut off", "answer lost"])
def test_what_happens_once_costs_nothing(s3_bucket: Bucket, fault: str) -> None:
    fetched = _fetched(
        s3_bucket, lambda method, path, before: fault if before == 0 and ".jpg" in path else ""
    )
    assert [(row["status"], row["data"]) for row in fetched] == [("ok", CONTENT)] * N


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("reset", "the connection broke while reading"),
        ("cut off", "the connection broke while reading"),
        (
            "cut off with its length",
            "the storage gave 2,250 bytes of it, and listed 4,500 of the same version",
        ),
        ("no length", "the answer has no Content-Length"),
        ("expired", "permission denied: .*Expired"),
        pytest.param("internal", "InternalError", marks=pytest.mark.slow),
        ("stall", "not read in time"),
        ("trickle", "not read in time"),
    ],
)
def test_what_never_comes_is_a_row_with_its_reason(
    s3_bucket: Bucket, fault: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are read meanwhile."""
    monkeypatch.setattr("masklake.pipeline.storage.s3._PATIENCE", 3 if fault in ("stall", "trickle") else 300)
    fetched = _fetched(s3_bucket, lambda method, path, before: fault if "03.jpg" in path else "")
    assert Counter(row["status"] for row in fetched) == {"ok": N - 1, "failed": 1}
    assert re.search(reason, fetched[3]["error"]), fetched[3]["error"]
    assert fetched[3]["data"] is None


def test_what_is_replaced_or_deleted_meanwhile(s3_bucket: Bucket) -> None:
    """A new version is read as what it is; what has gone is missing."""

    def plan(method: str, path: str, before: int) -> str:
        if "list-type" not in path and before == 0:
            if "02.jpg" in path:
                s3_bucket.put("02.jpg", b"another")
            if "05.jpg" in path:
                s3_bucket.client.delete_object(Bucket=s3_bucket.name, Key="05.jpg")
        return ""

    fetched = _fetched(s3_bucket, plan)
    assert (fetched[2]["status"], fetched[2]["data"], fetched[2]["size_bytes"]) == ("ok", b"another", 7)
    assert (fetched[5]["status"], fetched[5]["data"]) == ("missing", None)
    assert Counter(row["status"] for row in fetched) == {"ok": N - 1, "missing": 1}


def test_a_page_that_is_listed_twice_counts_once(s3_bucket: Bucket) -> None:
    seen: list[str] = []

    def plan(method: str, path: str, before: int) -> str:
        seen.append(path)
        return "page again" if len([p for p in seen if "list-type" in p]) == 2 else ""

    with simulated_s3.running(2300) as server:
        with faulty(server, plan) as url:
            uris = Storage(endpoint_url=url).list("s3://big/photos")
        assert uris == [f"s3://big/{simulated_s3.computed_key(i, 100_000)}" for i in range(2300)]
        with faulty(server, lambda *_: "page again") as url, pytest.raises(OSError, match="same page"):
            Storage(endpoint_url=url).list("s3://big/photos")


@pytest.mark.parametrize("fault", ["answer lost", "internal", "slow down"])
def test_a_conditional_write_whose_answer_is_lost_took_effect(s3_bucket: Bucket, fault: str) -> None:
    with faulty(
        s3_bucket.server, lambda method, path, before: fault if method == "PUT" and before == 0 else ""
    ) as url:
        storage = Storage(endpoint_url=url)
        assert storage.put_new(f"{s3_bucket.uri}/lock", b"mine")
        assert not storage.put_new(f"{s3_bucket.uri}/lock", b"another's")
        info = storage.stat(f"{s3_bucket.uri}/lock")
        assert info is not None
        assert info.etag is not None
        assert storage.replace(f"{s3_bucket.uri}/lock", b"new", info.etag)
    assert s3_bucket.get("lock") == b"new"
