"""All objects below a prefix, from S3 servers with small pages: each once, in key order, by few requests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import pytest
from botocore import handlers
from masklake.pipeline.storage.s3 import S3Store
from masklake.pipeline.storage.store import Storage

from tests.conftest import Bucket
from tests.helpers.servers import simulated_s3
from tests.helpers.servers.s3_calls import note_calls
from tests.helpers.servers.simulated_s3 import computed_etag, computed_key

KEYS = sorted(
    [
        *(f"images/run={run:02d}/part-{part}.parquet" for run in range(40) for part in range(run % 5)),
        *(f"images/run=07/deep/{part:03d}" for part in range(30)),
        "images/run=07.parquet",
        "images/run=07-extra/x",
        "images/0",
        "images/zz",
        "images/run=20/",  # the marker of a folder, as consoles make it
        "images/é/日本",
        "image",
        "images2/x",
    ]
)


def test_every_object_once_in_key_order(s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = note_calls(monkeypatch, page_keys=5)
    for key in KEYS:
        s3_bucket.put(key)
    below = [f"{s3_bucket.uri}/{key}" for key in KEYS if key.startswith("images/")]
    assert Storage().list(f"{s3_bucket.uri}/images") == below
    assert sum("StartAfter" in arguments for _, arguments in calls) > 8  # ranges
    assert Storage().list(s3_bucket.uri) == [f"{s3_bucket.uri}/{key}" for key in KEYS]
    assert Storage().list(f"{s3_bucket.uri}/none") == []


@pytest.fixture(scope="module")
def big() -> Iterator[None]:
    """A simulated bucket of 12,000 keys in 12 folders."""
    with simulated_s3.running(12_000, per_folder=1000) as server, server.applied():
        yield


@pytest.mark.usefixtures("big")
def test_a_large_prefix_is_listed_with_few_more_requests_than_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = note_calls(monkeypatch)
    uris = Storage().list("s3://big/photos")
    assert uris == [f"s3://big/{computed_key(number, 1000)}" for number in range(12_000)]
    assert 12 <= len(calls) <= 12 + 1 + 10  # pages; the folders; at each range's end the page that says so
    calls.clear()
    assert len(Storage().list("s3://big/photos/00007")) == 1000
    assert len(calls) == 1


@pytest.mark.usefixtures("big")
def test_a_page_is_the_same_whoever_parses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Storage().store("s3://big/")
    assert isinstance(store, S3Store)
    ours = next(store.pages("big", "photos/")), next(store.pages("big", "photos/", delimiter="/"))
    looked_at: list[bytes] = []
    looks = handlers._looks_like_special_case_error

    def noted(status: int, body: bytes) -> bool:
        looked_at.append(body)
        return bool(looks(status, body))

    monkeypatch.setattr(handlers, "_looks_like_special_case_error", noted)
    assert next(store.pages("big", "photos/")) == ours[0]
    assert looked_at == [b""]  # botocore does not parse what we have parsed
    monkeypatch.setattr("masklake.pipeline.storage.s3_pages.ElementTree.fromstring", broken)
    assert (next(store.pages("big", "photos/")), next(store.pages("big", "photos/", delimiter="/"))) == ours
    assert len(looked_at[-1]) > 1000
    first = ours[0][0][0]
    assert (first.etag, first.size) == (computed_etag(0), len(simulated_s3.jpeg()))


def broken(_: bytes) -> None:
    raise ElementTree.ParseError


def test_an_error_that_is_called_a_success_is_tried_again(s3_bucket: Bucket) -> None:
    """As S3 answers under load: status 200, and an error in the body."""
    s3_bucket.put("a/b")
    store = S3Store(None, None, anonymous=False)
    bad = [
        b"<Error><Code>InternalError</Code><Message>try again</Message></Error>",
        b"<ListBucketResult><Cont",
    ]

    def spoiled(response_dict: dict, operation_model: Any, **_: object) -> None:
        if bad and operation_model.name == "ListObjectsV2":
            response_dict["body"] = bad.pop()

    store.fs.s3.meta.events.register_first("before-parse.s3.*", spoiled)
    pages = list(store.pages(s3_bucket.name, "a/"))
    assert [info.uri for objects, _ in pages for info in objects] == [f"{s3_bucket.uri}/a/b"]
    assert bad == []
