"""Storage on two S3 servers: what it reads, lists, writes and refuses, and in which words.

Objects are put and checked by a plain botocore client, so that a mistake in Storage cannot hide itself.
"""

from __future__ import annotations

import functools
import http.server
import pickle
import re
import threading
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import NoCredentialsError
from masklake.jobs.demo.loopback_s3 import LoopbackS3
from masklake.pipeline.errors import UserError
from masklake.pipeline.storage.explain import explain
from masklake.pipeline.storage.objects import Fetched, TooLargeError
from masklake.pipeline.storage.store import Storage

from tests.conftest import Bucket
from tests.helpers.servers import rgw

UseS3 = Callable[[LoopbackS3], None]

ODD_KEYS = [
    "with space.jpg",
    "  spaces around  ",
    "100%.jpg",
    "%2Fencoded%20.jpg",
    "a+b.jpg",
    "a#b.jpg",
    "a?b=c&d.jpg",
    "versionId?versionId=null",
    unicodedata.normalize("NFC", "é.jpg"),
    unicodedata.normalize("NFD", "é.jpg"),
    "日本/写真 😀.jpg",
    'it\'s "quoted".jpg',
    "back\\slash.jpg",
    "<xml>&amp;</xml>.jpg",
    "glob*[x]?{1}.jpg",
    "semi;colon:at@tilde~,$=!.jpg",
    "tab\t.jpg",
    ".hidden/.dot.jpg",
    "...",
    "double//slash.jpg",
    "/leading.jpg",
    "//two leading.jpg",
    "trailing/",
    "trailing",
    "k" * 1024,
]


def _explained(error: BaseException, uri: str, doing: str) -> str:
    """The user's message, after checking that it is one line and names the object."""
    assert isinstance(error, Exception)
    message = explain(error, uri, doing)
    assert isinstance(message, UserError)
    assert "\n" not in str(message)
    assert uri in str(message)
    return str(message)


def test_odd_keys_survive_every_operation(s3_bucket: Bucket) -> None:
    storage = Storage()
    content = {f"{s3_bucket.uri}/{key}": f"content of {key}".encode() for key in ODD_KEYS}
    for key in ODD_KEYS:
        s3_bucket.put(key, content[f"{s3_bucket.uri}/{key}"])
    assert set(s3_bucket.all_keys()) == set(ODD_KEYS)

    assert sorted(storage.list(s3_bucket.uri)) == sorted(content)
    fetched = storage.get_many(list(content))
    assert {uri: got for uri, got in zip(content, fetched, strict=True) if isinstance(got, Exception)} == {}
    assert [got.data for got in fetched if isinstance(got, Fetched)] == list(content.values())
    for uri, data in content.items():
        assert storage.read(uri) == data, uri
        info = storage.stat(uri)
        assert info is not None, uri
        assert (info.uri, info.size) == (uri, len(data))

    for key in ODD_KEYS:
        storage.write(f"{s3_bucket.uri}/{key}", b"new")
    assert set(s3_bucket.all_keys()) == set(ODD_KEYS)
    assert {key: s3_bucket.get(key) for key in ODD_KEYS} == dict.fromkeys(ODD_KEYS, b"new")

    for key in ODD_KEYS:
        storage.delete(f"{s3_bucket.uri}/{key}")
    assert s3_bucket.all_keys() == []


@pytest.mark.parametrize("s3_bucket", [pytest.param("rgw", marks=pytest.mark.rgw)], indirect=True)
@pytest.mark.parametrize("key", ["new\nline.jpg", "return\r.jpg", "control\x01.jpg"])
def test_control_characters_in_keys(s3_bucket: Bucket, key: str) -> None:
    """moto cannot hold such keys; real stores do."""
    storage, uri = Storage(), f"{s3_bucket.uri}/{key}"
    s3_bucket.put(key, b"content")
    assert storage.list(s3_bucket.uri) == [uri]
    assert storage.read(uri) == b"content"
    storage.write(uri, b"new")
    assert s3_bucket.get(key) == b"new"


def test_normal_forms_of_one_name_are_two_objects(s3_bucket: Bucket) -> None:
    nfc, nfd = (unicodedata.normalize(form, "Zoë.jpg") for form in ("NFC", "NFD"))
    s3_bucket.put(nfc, b"composed")
    assert not Storage().exists(f"{s3_bucket.uri}/{nfd}")
    s3_bucket.put(nfd, b"decomposed")
    assert Storage().read(f"{s3_bucket.uri}/{nfc}") == b"composed"
    assert Storage().read(f"{s3_bucket.uri}/{nfd}") == b"decomposed"


def test_a_key_that_looks_like_a_folder_is_an_object(s3_bucket: Bucket) -> None:
    storage = Storage()
    s3_bucket.put("a/", b"")
    s3_bucket.put("a/b", b"inside")
    assert not storage.exists(f"{s3_bucket.uri}/a")
    assert storage.exists(f"{s3_bucket.uri}/a/")
    assert storage.read(f"{s3_bucket.uri}/a/") == b""
    storage.delete(f"{s3_bucket.uri}/a/")
    assert s3_bucket.all_keys() == ["a/b"]


def test_list_keeps_to_the_folder(s3_bucket: Bucket) -> None:
    for key in ("photos/1.jpg", "photos/deep/2.jpg", "photos-2/3.jpg", "photos", "other/4.jpg"):
        s3_bucket.put(key)
    expected = [f"{s3_bucket.uri}/photos/1.jpg", f"{s3_bucket.uri}/photos/deep/2.jpg"]
    assert Storage().list(f"{s3_bucket.uri}/photos") == expected
    assert Storage().list(f"{s3_bucket.uri}/photos/") == expected
    assert Storage().list(f"{s3_bucket.uri}/none") == []


@pytest.mark.parametrize(
    ("s3_bucket", "n"),
    [("moto", 1001), pytest.param("rgw", 2500, marks=pytest.mark.rgw)],
    indirect=["s3_bucket"],
)
def test_every_page_is_listed_once_in_key_order(s3_bucket: Bucket, n: int) -> None:
    keys = [f"many/{i:05d} %+é.jpg" for i in range(n)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(s3_bucket.put, keys))
    assert Storage().list(f"{s3_bucket.uri}/many") == [f"{s3_bucket.uri}/{key}" for key in keys]


def test_zero_bytes(s3_bucket: Bucket) -> None:
    storage, uri = Storage(), f"{s3_bucket.uri}/empty.jpg"
    s3_bucket.put("empty.jpg", b"")
    (info,) = storage.walk(s3_bucket.uri)
    assert (info.uri, info.size) == (uri, 0)
    assert storage.read(uri) == b""
    (got,) = storage.get_many([uri])
    assert isinstance(got, Fetched)
    assert (got.data, got.size) == (b"", 0)
    storage.write(uri, b"")
    assert s3_bucket.get("empty.jpg") == b""


def test_get_many_puts_each_failure_in_its_place(s3_bucket: Bucket) -> None:
    s3_bucket.put("small", b"12")
    s3_bucket.put("large", b"x" * 100_000)
    names = ["small", "gone", "large", "small"]
    got = Storage().get_many([f"{s3_bucket.uri}/{name}" for name in names], max_bytes=1000)
    assert [type(result) for result in got] == [Fetched, FileNotFoundError, TooLargeError, Fetched]
    assert isinstance(got[3], Fetched)
    assert got[3].data == b"12"


def test_versions_agree_between_list_stat_and_get(s3_bucket: Bucket) -> None:
    storage, uri = Storage(), f"{s3_bucket.uri}/photo.jpg"
    s3_bucket.put("photo.jpg", b"one")
    (listed,) = storage.walk(s3_bucket.uri)
    (got,) = storage.get_many([uri])
    assert isinstance(got, Fetched)
    assert listed.etag is not None
    assert listed.etag == got.etag
    info = storage.stat(uri)
    assert info is not None
    assert (info.etag, info.size) == (listed.etag, 3)
    assert info.modified is not None
    assert info.modified.tzinfo is not None
    s3_bucket.put("photo.jpg", b"two")
    changed = storage.stat(uri)
    assert changed is not None
    assert changed.etag != listed.etag


def test_what_is_absent(s3_bucket: Bucket) -> None:
    storage, uri = Storage(), f"{s3_bucket.uri}/none.jpg"
    assert storage.stat(uri) is None
    assert not storage.exists(uri)
    storage.delete(uri)
    with pytest.raises(FileNotFoundError) as caught:
        storage.read(uri)
    assert "does not exist" in _explained(caught.value, uri, "read it")


def test_a_pickled_storage_reads(s3_bucket: Bucket) -> None:
    s3_bucket.put("k", b"v")
    storage = pickle.loads(pickle.dumps(Storage(endpoint_url=s3_bucket.server.endpoint)))  # noqa: S301 - our own
    assert storage.read(f"{s3_bucket.uri}/k") == b"v"


@pytest.mark.parametrize("folder", ["lake", "my lake", "100% é+#/lake"])
def test_arrow_and_fsspec_reach_the_same_objects(s3_bucket: Bucket, folder: str) -> None:
    storage, uri = Storage(), f"{s3_bucket.uri}/{folder}/part-0.parquet"
    fs, path = storage.arrow(uri)
    with fs.open_output_stream(path) as stream:
        stream.write(b"from arrow")
    assert s3_bucket.get(f"{folder}/part-0.parquet") == b"from arrow"
    fs, path = storage.filesystem(uri)
    assert fs.cat_file(path) == b"from arrow"
    fs.pipe_file(path, b"from fsspec")
    fs, path = storage.arrow(uri)
    assert fs.open_input_stream(path).read() == b"from fsspec"


# Errors


@pytest.mark.parametrize("field", ["access_key", "secret_key"])
def test_wrong_credentials(s3_bucket: Bucket, use_s3: UseS3, field: str) -> None:
    s3_bucket.put("k")
    use_s3(replace(s3_bucket.server, **{field: "WRONG"}))
    storage, uri = Storage(), f"{s3_bucket.uri}/k"
    with pytest.raises(PermissionError) as caught:
        storage.read(uri)
    assert "refuses the credentials" in _explained(caught.value, uri, "read it")
    with pytest.raises(PermissionError) as caught:
        storage.list(s3_bucket.uri)
    message = _explained(caught.value, s3_bucket.uri, "list it")
    assert "refuses the credentials" in message
    assert "AWS_ACCESS_KEY_ID" in message
    for write in (storage.write, storage.put_new):
        with pytest.raises(PermissionError):
            write(uri, b"new")
    with pytest.raises(PermissionError):
        storage.stat(uri)
    assert s3_bucket.get("k") == b"x"


def test_no_credentials(s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(NoCredentialsError) as caught:
        Storage().list(s3_bucket.uri)
    message = _explained(caught.value, s3_bucket.uri, "list it")
    assert "no credentials were found" in message
    assert "AWS_ACCESS_KEY_ID" in message


def test_missing_bucket(s3_bucket: Bucket) -> None:
    storage, folder = Storage(), f"{s3_bucket.uri}-missing"
    with pytest.raises(FileNotFoundError) as caught:
        storage.list(folder)
    message = _explained(caught.value, folder, "list it")
    assert f"bucket '{s3_bucket.name}-missing' does not exist" in message
    for operation in (
        lambda: storage.read(f"{folder}/k"),
        lambda: storage.write(f"{folder}/k", b"x"),
        lambda: storage.put_new(f"{folder}/k", b"x"),
    ):
        with pytest.raises(FileNotFoundError) as caught:
            operation()
        assert "does not exist" in _explained(caught.value, f"{folder}/k", "use it")


@pytest.mark.parametrize("s3_bucket", ["moto"], indirect=True)
def test_nothing_listens(s3_bucket: Bucket) -> None:
    storage = Storage(endpoint_url="http://127.0.0.1:1")
    with pytest.raises(Exception, match=re.escape("127.0.0.1:1")) as caught:
        storage.list(s3_bucket.uri)
    assert "does not answer" in _explained(caught.value, s3_bucket.uri, "list it")


def test_everything_forbidden(s3_bucket: Bucket, use_s3: UseS3) -> None:
    s3_bucket.put("k")
    use_s3(s3_bucket.guest)
    storage, uri = Storage(), f"{s3_bucket.uri}/k"
    with pytest.raises(PermissionError) as caught:
        storage.list(s3_bucket.uri)
    message = _explained(caught.value, s3_bucket.uri, "list it")
    assert "permission denied" in message
    assert "s3:ListBucket" in message
    with pytest.raises(PermissionError):
        storage.read(uri)
    (got,) = storage.get_many([uri])
    assert isinstance(got, PermissionError)


def test_read_forbidden_list_allowed(s3_bucket: Bucket, use_s3: UseS3) -> None:
    s3_bucket.put("k")
    s3_bucket.allow_guest("s3:ListBucket")
    use_s3(s3_bucket.guest)
    storage, uri = Storage(), f"{s3_bucket.uri}/k"
    assert storage.list(s3_bucket.uri) == [uri]
    (got,) = storage.get_many([uri])
    assert isinstance(got, PermissionError)
    assert "s3:GetObject" in _explained(got, uri, "read it")


def test_write_forbidden_read_allowed(s3_bucket: Bucket, use_s3: UseS3) -> None:
    s3_bucket.put("k", b"old")
    s3_bucket.allow_guest("s3:ListBucket", "s3:GetObject")
    use_s3(s3_bucket.guest)
    storage, uri = Storage(), f"{s3_bucket.uri}/k"
    assert storage.read(uri) == b"old"
    info = storage.stat(uri)
    assert info is not None
    assert info.etag is not None
    etag = info.etag
    with pytest.raises(PermissionError) as caught:
        storage.write(uri, b"new")
    assert "s3:PutObject" in _explained(caught.value, uri, "write it")
    # A refusal must not pass for a lost race.
    with pytest.raises(PermissionError):
        storage.put_new(f"{s3_bucket.uri}/other", b"new")
    with pytest.raises(PermissionError):
        storage.replace(uri, b"new", etag)
    with pytest.raises(PermissionError):
        storage.delete(uri)
    assert {key: s3_bucket.get(key) for key in s3_bucket.all_keys()} == {"k": b"old"}


@pytest.mark.parametrize("s3_bucket", [pytest.param("rgw", marks=pytest.mark.rgw)], indirect=True)
def test_anonymous_reads_only_what_is_public(s3_bucket: Bucket) -> None:
    s3_bucket.client.put_object(Bucket=s3_bucket.name, Key="public", Body=b"open", ACL="public-read")
    s3_bucket.put("private", b"closed")
    storage = Storage(anonymous=True)
    assert storage.read(f"{s3_bucket.uri}/public") == b"open"
    with pytest.raises(PermissionError):
        storage.read(f"{s3_bucket.uri}/private")


class _BreaksTwice(http.server.BaseHTTPRequestHandler):
    """Ends the connection in the middle of the first two answers."""

    protocol_version = "HTTP/1.1"
    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        self.send_response(200)
        for name, value in (
            ("Content-Length", "1000"),
            ("ETag", '"abc"'),
            ("Last-Modified", "Mon, 23 Nov 2026 00:00:00 GMT"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"x" * (10 if self.asked < 3 else 1000))
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
        pass


@pytest.mark.parametrize("s3_bucket", ["moto"], indirect=True)
def test_a_connection_that_breaks_while_reading(s3_bucket: Bucket) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _BreaksTwice) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        storage = Storage(endpoint_url=f"http://127.0.0.1:{server.server_port}")
        assert storage.read(f"{s3_bucket.uri}/k") == b"x" * 1000
        server.shutdown()
    assert _BreaksTwice.asked == 3


# Conditional writes


def _race(threads: int, attempt: Callable[[int], Any]) -> list[Any]:
    """`attempt(0)`, `attempt(1)`, … at the same time."""
    gate = threading.Barrier(threads)

    def run(i: int) -> Any:
        gate.wait(30)
        return attempt(i)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(run, range(threads)))


def _claim(storage: Storage, uri: str, writer: int, *, etag: str | None = None) -> bool:
    data = f"writer {writer}".encode()
    return storage.put_new(uri, data) if etag is None else storage.replace(uri, data, etag)


def test_put_new_and_replace_alone(s3_bucket: Bucket) -> None:
    storage, uri = Storage(), f"{s3_bucket.uri}/aliases %+é.json"
    assert storage.put_new(uri, b"first")
    assert not storage.put_new(uri, b"second")
    info = storage.stat(uri)
    assert info is not None
    assert info.etag is not None
    assert storage.replace(uri, b"third", info.etag)
    assert not storage.replace(uri, b"fourth", info.etag)
    assert storage.read(uri) == b"third"
    assert not storage.replace(f"{s3_bucket.uri}/none", b"new", info.etag)
    assert storage.list(s3_bucket.uri) == [uri]


def test_one_of_eight_creates(s3_bucket: Bucket) -> None:
    storage = Storage()
    for round_ in range(5):
        uri = f"{s3_bucket.uri}/claim-{round_}"
        won = _race(8, functools.partial(_claim, storage, uri))
        assert won.count(True) == 1
        assert storage.read(uri) == f"writer {won.index(True)}".encode()


def test_one_of_eight_replaces(s3_bucket: Bucket) -> None:
    storage, uri = Storage(), f"{s3_bucket.uri}/aliases.json"
    for _ in range(5):
        storage.write(uri, b"start")
        info = storage.stat(uri)
        assert info is not None
        assert info.etag is not None
        won = _race(8, functools.partial(_claim, storage, uri, etag=info.etag))
        assert won.count(True) == 1
        assert storage.read(uri) == f"writer {won.index(True)}".encode()


def test_compare_and_set_loses_no_update(s3_bucket: Bucket) -> None:
    storage, uri = Storage(), f"{s3_bucket.uri}/log"
    storage.write(uri, b"")

    def append(writer: int) -> None:
        for i in range(5):
            while True:
                (got,) = storage.get_many([uri])
                assert isinstance(got, Fetched)
                assert got.etag is not None
                if storage.replace(uri, got.data + f"{writer}.{i}\n".encode(), got.etag):
                    break

    _race(4, append)
    assert sorted(s3_bucket.get("log").decode().split()) == sorted(
        f"{w}.{i}" for w in range(4) for i in range(5)
    )


@pytest.mark.rgw
@pytest.mark.slow
def test_a_server_that_asks_to_slow_down(use_s3: UseS3) -> None:
    """Four requests at once are served; the rest get 503 SlowDown."""
    reason = rgw.available()
    if reason is not None:
        pytest.skip(reason)
    with rgw.RGW(max_concurrent=4) as host:
        use_s3(host.server)
        host.server.client().create_bucket(Bucket="busy")
        storage = Storage()
        uris = [f"s3://busy/{i:03d}" for i in range(300)]
        with ThreadPoolExecutor(16) as threads:
            list(threads.map(lambda uri: storage.write(uri, uri.encode()), uris))
        assert [got.data if isinstance(got, Fetched) else got for got in storage.get_many(uris)] == [
            uri.encode() for uri in uris
        ]
