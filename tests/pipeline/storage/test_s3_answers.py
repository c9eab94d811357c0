"""What S3 says of objects that are encoded, archived, encrypted or paid for, and of servers that say less."""

from __future__ import annotations

import gzip
import http.server
import threading
from collections.abc import Iterator

import pytest
from masklake.pipeline.schema import Status
from masklake.pipeline.segment.fetch import fetch
from masklake.pipeline.storage.objects import TooLargeError
from masklake.pipeline.storage.s3_answers import decoded
from masklake.pipeline.storage.store import Storage, normalise

from tests.conftest import Bucket
from tests.pipeline.segment.test_fetch import _rows

ON_MOTO = pytest.mark.parametrize("s3_bucket", ["moto"], indirect=True)
PLAIN = b"a picture" * 100


@pytest.mark.parametrize("encoding", ["", "identity", "aws-chunked", "utf-8", "gzip"])
def test_what_is_not_encoded_stays(encoding: str) -> None:
    assert decoded(PLAIN, encoding, None) == PLAIN


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip", "aws-chunked,gzip", "gzip, identity"])
def test_gzip_is_unpacked(encoding: str) -> None:
    members = gzip.compress(PLAIN) + gzip.compress(b"more")
    assert decoded(members, encoding, None) == PLAIN + b"more"
    assert decoded(gzip.compress(PLAIN), encoding, len(PLAIN)) == PLAIN


def test_gzip_that_cannot_be_had() -> None:
    bomb = gzip.compress(bytes(10_000_000))
    with pytest.raises(TooLargeError):
        decoded(bomb, "gzip", 1000)
    with pytest.raises(OSError, match="end of that is missing"):
        decoded(gzip.compress(PLAIN)[:-12], "gzip", None)
    with pytest.raises(OSError, match="broken"):
        decoded(gzip.compress(PLAIN)[:10] + b"\xff" * 20, "gzip", None)
    with pytest.raises(OSError, match="'br' is not known"):
        decoded(PLAIN, "br", None)


def test_an_object_that_was_uploaded_with_gzip(s3_bucket: Bucket) -> None:
    s3_bucket.client.put_object(
        Bucket=s3_bucket.name, Key="a.jpg", Body=gzip.compress(PLAIN), ContentEncoding="gzip"
    )
    assert Storage().read(f"{s3_bucket.uri}/a.jpg") == PLAIN
    (row,) = fetch(_rows(f"{s3_bucket.uri}/a.jpg"), Storage(), 10_000).to_pylist()
    assert (row["status"], row["data"]) == ("ok", PLAIN)


@ON_MOTO
def test_an_object_in_an_archive_names_the_remedy(s3_bucket: Bucket) -> None:
    s3_bucket.client.put_object(Bucket=s3_bucket.name, Key="a.jpg", Body=b"x", StorageClass="GLACIER")
    (row,) = fetch(_rows(f"{s3_bucket.uri}/a.jpg"), Storage(), 1000).to_pylist()
    assert row["status"] == Status.FAILED  # it may be restored
    assert "lies in GLACIER" in row["error"]
    assert "restore-object" in row["error"]


def test_a_bucket_that_is_not_there_says_nothing_of_its_objects(s3_bucket: Bucket) -> None:
    (row,) = fetch(_rows("s3://no-such-bucket-here/a.jpg"), Storage(), 1000).to_pylist()
    assert row["status"] == Status.FAILED
    assert "does not exist" in row["error"]


@ON_MOTO
def test_what_is_written_is_encrypted_with_the_key(s3_bucket: Bucket) -> None:
    storage = Storage(kms_key="alias/lake")
    storage.write(f"{s3_bucket.uri}/a", b"1")
    assert storage.put_new(f"{s3_bucket.uri}/b", b"1")
    fs, path = storage.arrow(f"{s3_bucket.uri}/c")  # through which Ray Train writes its checkpoints
    with fs.open_output_stream(path) as file:
        file.write(b"1")
    for key in "abc":
        head = s3_bucket.client.head_object(Bucket=s3_bucket.name, Key=key)
        assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", "alias/lake"), key
    Storage().write(f"{s3_bucket.uri}/d", b"1")
    assert "SSEKMSKeyId" not in s3_bucket.client.head_object(Bucket=s3_bucket.name, Key="d")


@ON_MOTO
def test_arrow_asks_in_the_region_of_the_bucket(s3_bucket: Bucket) -> None:
    s3_bucket.client.create_bucket(
        Bucket="far-away", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    assert Storage().arrow("s3://far-away/x")[0].region == "eu-west-1"
    assert Storage().arrow(f"{s3_bucket.uri}/x")[0].region == "us-east-1"


class _Gateway(http.server.BaseHTTPRequestHandler):
    """Answers without an ETag, and notes who pays."""

    protocol_version = "HTTP/1.1"
    payers: list[str | None]

    def do_GET(self) -> None:
        self.payers.append(self.headers.get("x-amz-request-payer"))
        self.send_response(200)
        self.send_header("Content-Length", "3")
        self.send_header("Last-Modified", "Mon, 23 Nov 2026 00:00:00 GMT")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(b"abc")

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def gateway(s3_bucket: Bucket) -> Iterator[tuple[str, list[str | None]]]:
    """Its URL, and who paid for each request."""
    handler = type("Handler", (_Gateway,), {"payers": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True  # clients keep their connections
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", handler.payers  # type: ignore[attr-defined]
        finally:
            server.shutdown()


@ON_MOTO
def test_an_object_without_an_etag_is_read(gateway: tuple[str, list[str | None]]) -> None:
    storage = Storage(endpoint_url=gateway[0])
    (row,) = fetch(_rows("s3://b/a.jpg"), storage, 1000).to_pylist()
    assert (row["status"], row["etag"], row["data"]) == ("ok", None, b"abc")
    info = storage.stat("s3://b/a.jpg")
    assert info is not None
    assert (info.etag, info.size) == (None, 3)


@ON_MOTO
def test_who_reads_pays_where_that_is_asked_for(gateway: tuple[str, list[str | None]]) -> None:
    url, payers = gateway
    storage = Storage(endpoint_url=url, requester_pays=True)
    assert storage.read("s3://b/a.jpg") == b"abc"
    storage.stat("s3://b/a.jpg")
    fs, path = storage.arrow("s3://b/a.jpg")
    with fs.open_input_stream(path) as file:
        file.read(3)
    assert len(payers) >= 3
    assert set(payers) == {"requester"}
    Storage(endpoint_url=url).read("s3://b/a.jpg")
    assert payers[-1] is None


@pytest.mark.parametrize(
    ("written", "uri"),
    [
        ("S3://Bucket/Key", "s3://Bucket/Key"),
        ("s3a://b/k", "s3://b/k"),
        ("s3n://b/k", "s3://b/k"),
        ("S3A://b/k", "s3://b/k"),
        ("gcs://b/k", "gs://b/k"),
        ("GS://b/k", "gs://b/k"),
        ("file:/data/a.jpg", "/data/a.jpg"),
        ("file:///data/a.jpg", "/data/a.jpg"),
        ("FILE:/data/", "/data/"),
        ("HTTPS://host/A", "https://host/A"),
    ],
)
def test_one_object_has_one_spelling(written: str, uri: str) -> None:
    assert normalise(written) == uri
