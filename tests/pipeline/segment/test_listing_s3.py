"""Listing a source on two S3 servers: every key once, in key order, from any point on."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

import pytest
from masklake.jobs.demo.loopback_s3 import LoopbackS3
from masklake.pipeline.errors import UserError
from masklake.pipeline.segment import listing
from masklake.pipeline.segment.listing import Listing
from masklake.pipeline.storage.explain import explain
from masklake.pipeline.storage.store import Storage

from tests.conftest import Bucket
from tests.helpers.servers import simulated_s3
from tests.helpers.servers.s3_calls import note_calls

# More folders than are listed at once, folders in folders, loose objects between them, and names that sort
# differently with and without their slash.
TREE = sorted(
    [
        *(f"{folder:02d}/{i}.jpg" for folder in range(12) for i in range(7)),
        *(f"03/deep/{i}/x.jpg" for i in range(3)),
        "03.jpg",
        "03-extra/y.jpg",
        "0.jpg",
        "zz.jpg",
        "é/日本.jpg",
        "with space/%+#.jpg",
        "double//slash.jpg",
        "/leading.jpg",
    ]
)


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of 5 keys, so that few objects make many pages."""
    note_calls(monkeypatch, page_keys=5)


def _listed(source: str, start_after: str = "") -> list[str]:
    return [info.uri for info in Listing(source=source, storage=Storage(), start_after=start_after)]


@pytest.mark.usefixtures("small_pages")
def test_a_tree_in_key_order_and_from_any_key_on(s3_bucket: Bucket) -> None:
    for key in TREE:
        s3_bucket.put(key)
    uris = [f"{s3_bucket.uri}/{key}" for key in TREE]
    assert _listed(s3_bucket.uri) == uris
    assert _listed(f"{s3_bucket.uri}/") == uris
    assert _listed(f"{s3_bucket.uri}/03") == [uri for uri in uris if "/03/" in uri]
    for i in range(0, len(uris), 7):
        assert _listed(s3_bucket.uri, start_after=uris[i]) == uris[i + 1 :]
    # The object where an earlier listing stopped may be gone.
    assert _listed(s3_bucket.uri, start_after=f"{s3_bucket.uri}/05/3") == [
        u for u in uris if u > f"{s3_bucket.uri}/05/3"
    ]


@pytest.mark.usefixtures("small_pages")
def test_a_single_chain_of_folders(s3_bucket: Bucket) -> None:
    keys = [f"2026/11/22/{i:02d}.jpg" for i in range(12)]
    for key in keys:
        s3_bucket.put(key)
    uris = [f"{s3_bucket.uri}/{key}" for key in keys]
    assert _listed(s3_bucket.uri) == uris
    assert _listed(s3_bucket.uri, start_after=uris[4]) == uris[5:]


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("taken", [1, 7])
def test_a_listing_that_is_dropped_ends(
    s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch, taken: int
) -> None:
    """The threads that read ahead must not wait for a reader that has left."""
    monkeypatch.setattr(listing, "_PAGES_AHEAD", 1)
    for folder, i in itertools.product("ab", range(30)):
        s3_bucket.put(f"{folder}/{i:02d}.jpg")
    listed = iter(Listing(source=s3_bucket.uri, storage=Storage()))
    assert len(list(itertools.islice(listed, taken))) == taken
    time.sleep(0.5)  # until they have read ahead as far as they may
    del listed


def test_what_does_not_look_like_an_image_is_counted(s3_bucket: Bucket) -> None:
    for key in (
        "a.jpg",
        "B.JPEG",
        "no-suffix",
        ".hidden",
        "notes.txt",
        "folder/",
        "folder/c.webp",
        "d.jpg.part",
    ):
        s3_bucket.put(key)
    images = Listing(source=s3_bucket.uri, storage=Storage())
    names = {info.uri.removeprefix(f"{s3_bucket.uri}/") for info in images}
    assert names == {"a.jpg", "B.JPEG", "no-suffix", ".hidden", "folder/c.webp"}
    assert images.ignored == 3
    everything = Listing(source=s3_bucket.uri, storage=Storage(), every_object=True)
    assert len(list(everything)) == 7
    assert everything.ignored == 1


def test_one_object_and_globs(s3_bucket: Bucket) -> None:
    keys = [
        "2026/a.jpg",
        "2026/b.png",
        "2026/deep/c.jpg",
        "2027/d.jpg",
        "odd [1]*.jpg",
        "odd 1x.jpg",
        "é/e.jpg",
    ]
    for key in keys:
        s3_bucket.put(key)

    def names(pattern: str) -> list[str]:
        return [uri.removeprefix(f"{s3_bucket.uri}/") for uri in _listed(f"{s3_bucket.uri}/{pattern}")]

    assert names("2026/a.jpg") == ["2026/a.jpg"]
    assert names("2026/*.jpg") == ["2026/a.jpg"]
    assert names("2026/**/*.jpg") == ["2026/a.jpg", "2026/deep/c.jpg"]
    assert names("202?/*.jpg") == ["2026/a.jpg", "2027/d.jpg"]
    assert names("*/e.jpg") == ["é/e.jpg"]
    assert names("2026/[b-z].*") == ["2026/b.png"]
    # The object of exactly this name comes before what the name would match as a glob.
    assert names("odd [1]*.jpg") == ["odd [1]*.jpg"]
    assert names("odd *.jpg") == ["odd 1x.jpg", "odd [1]*.jpg"]
    assert names("none/*.jpg") == []


@pytest.mark.parametrize("s3_bucket", ["moto"], indirect=True)
def test_an_object_of_a_folders_name_hides_nothing(s3_bucket: Bucket) -> None:
    for key, data in {
        "photos": b"",
        "photos/a.jpg": b"x",
        "photos/b/c.jpg": b"x",
        "both": b"x",
        "both/d.jpg": b"x",
    }.items():
        s3_bucket.put(key, data)
    s3_bucket.put("empty", b"")
    assert _listed(f"{s3_bucket.uri}/photos") == [
        f"{s3_bucket.uri}/photos/{key}" for key in ("a.jpg", "b/c.jpg")
    ]
    assert _listed(f"{s3_bucket.uri}/both") == [f"{s3_bucket.uri}/{key}" for key in ("both", "both/d.jpg")]
    assert _listed(f"{s3_bucket.uri}/empty") == [f"{s3_bucket.uri}/empty"]
    rest = Listing(f"{s3_bucket.uri}/photos", Storage(), start_after=f"{s3_bucket.uri}/photos/a.jpg")
    assert [info.uri for info in rest] == [f"{s3_bucket.uri}/photos/b/c.jpg"]


def test_a_wildcard_in_the_bucket_is_refused(s3_bucket: Bucket) -> None:
    with pytest.raises(UserError, match="bucket"):
        _listed(f"{s3_bucket.uri[:-2]}*/a.jpg")


def test_a_list_file_in_the_bucket(s3_bucket: Bucket) -> None:
    s3_bucket.put("lists/today.txt", f"# photos\na b.jpg\n\n{s3_bucket.uri}/100%.jpg\r\n".encode())
    assert _listed(f"{s3_bucket.uri}/lists/today.txt") == [
        f"{s3_bucket.uri}/lists/a b.jpg",
        f"{s3_bucket.uri}/100%.jpg",
    ]
    s3_bucket.put("lists/today.csv", b'\xef\xbb\xbfid,url,etag\n1,"x, y.jpg",abc\n')
    (info,) = Listing(source=f"{s3_bucket.uri}/lists/today.csv", storage=Storage())
    assert (info.uri, info.etag) == (f"{s3_bucket.uri}/lists/x, y.jpg", "abc")
    with pytest.raises(FileNotFoundError):
        _listed(f"{s3_bucket.uri}/lists/none.txt")


@pytest.mark.parametrize("source", ["", "/", "/photos", "/photos/*.jpg"])
def test_missing_bucket(s3_bucket: Bucket, source: str) -> None:
    uri = f"{s3_bucket.uri}-missing{source}"
    with pytest.raises(FileNotFoundError) as caught:
        _listed(uri)
    assert f"bucket '{s3_bucket.name}-missing' does not exist" in str(explain(caught.value, uri, "list it"))


@pytest.mark.parametrize("source", ["", "/photos", "/photos/*.jpg"])
def test_forbidden(s3_bucket: Bucket, use_s3: Callable[[LoopbackS3], None], source: str) -> None:
    s3_bucket.put("photos/a.jpg")
    use_s3(s3_bucket.guest)
    with pytest.raises(PermissionError):
        _listed(f"{s3_bucket.uri}{source}")


def test_permission_for_one_folder_is_enough(s3_bucket: Bucket, use_s3: Callable[[LoopbackS3], None]) -> None:
    s3_bucket.put("photos/a.jpg")
    s3_bucket.allow_guest("s3:ListBucket", "s3:GetObject", prefix="photos/")
    use_s3(s3_bucket.guest)
    for source in ("photos", "photos/", "photos/*.jpg", "photos/a.jpg"):
        assert _listed(f"{s3_bucket.uri}/{source}") == [f"{s3_bucket.uri}/photos/a.jpg"]


@pytest.mark.parametrize("name", ["Bad_Bucket!", "a", "x" * 300])
def test_an_impossible_bucket_name_is_explained_in_one_line(s3_bucket: Bucket, name: str) -> None:
    with pytest.raises(Exception) as caught:
        _listed(f"s3://{name}/photos")
    message = str(explain(caught.value, f"s3://{name}/photos", "list it"))
    assert name in message
    assert "\n" not in message


def test_a_million_keys_begin_after_a_few_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """And of what is listed no more than a few pages a lister wait for the reader."""
    with simulated_s3.running(1_000_000, per_folder=20_000) as server, server.applied():
        calls, before = note_calls(monkeypatch), set(threading.enumerate())
        objects = iter(Listing("s3://big/photos/", Storage()))
        ahead = listing._LISTERS * (listing._PAGES_AHEAD + 2) + 2
        for position in range(30_001):
            info = next(objects)
            if position % 10_000 == 0:
                assert info.uri == f"s3://big/{simulated_s3.computed_key(position, 20_000)}"
                assert len(calls) <= position // 1000 + ahead
        listers = set(threading.enumerate()) - before
        assert listers
        assert all(
            lister.daemon for lister in listers
        )  # a process that ends in the midst waits for none of them
        del objects  # ends the listers
