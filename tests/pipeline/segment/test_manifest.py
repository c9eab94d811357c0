"""The manifest: fixed once written, read while it grows, whatever the names in it."""

from __future__ import annotations

import datetime
import itertools
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from masklake.pipeline.errors import UserError
from masklake.pipeline.schema import MANIFEST
from masklake.pipeline.segment import manifest as module
from masklake.pipeline.segment.manifest import Manifest, ManifestTotals
from masklake.pipeline.storage.objects import ObjectInfo
from masklake.pipeline.storage.store import Storage

NOW = datetime.datetime(2026, 11, 23, 1, 2, 3, 456789, datetime.UTC)


def _objects(n: int, first: int = 0) -> Iterator[ObjectInfo]:
    for i in range(first, first + n):
        yield ObjectInfo(f"s3://b/{i:06d}.jpg", f"e{i}", i, NOW)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return Manifest(str(tmp_path / "manifest"), Storage())


def write_all(manifest: Manifest, objects: Iterator[ObjectInfo]) -> ManifestTotals:
    totals = ManifestTotals()
    for now in manifest.extend(objects, totals):
        totals = now
    return totals


def test_parts_number_their_images_through(manifest: Manifest) -> None:
    totals = write_all(manifest, _objects(3000))
    assert (totals.images, totals.bytes, totals.complete) == (3000, sum(range(3000)), False)
    tables = list(manifest.parts())
    assert len(tables) == totals.parts > 2
    ids = list(itertools.chain.from_iterable(t["image_id"].to_pylist() for t in tables))
    assert ids == list(range(3000))
    assert [t.schema.equals(MANIFEST) for t in tables] == [True] * len(tables)
    row = tables[1].to_pylist()[0]
    assert row == {
        "image_id": 256, "uri": "s3://b/000256.jpg", "etag": "e256", "size_bytes": 256, "last_modified": NOW,
    }  # fmt: skip
    assert pq.read_schema(manifest.part_uri(0)).field("etag").metadata


def test_parts_grow_to_a_bound(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PART", 2)
    monkeypatch.setattr(module, "_LARGEST_PART", 8)
    write_all(manifest, _objects(40))
    assert [len(t) for t in manifest.parts()] == [2, 4, 8, 8, 8, 8, 2]


def test_a_slow_listing_makes_small_parts(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LONGEST_WAIT_S", -1.0)
    write_all(manifest, _objects(3))
    assert [len(t) for t in manifest.parts()] == [1, 1, 1]


def test_what_storage_does_not_tell_is_null(manifest: Manifest) -> None:
    totals = write_all(manifest, iter([ObjectInfo("/a", None, None, None), ObjectInfo("/b", "e", 5, NOW)]))
    assert totals.bytes == 5
    (table,) = manifest.parts()
    assert table["size_bytes"].to_pylist() == [None, 5]
    assert table["last_modified"].to_pylist() == [None, NOW]
    write_all(Manifest(manifest.folder + "2", Storage()), iter([ObjectInfo("/a", None, None, None)]))


def test_totals_while_it_grows_and_at_its_end(manifest: Manifest) -> None:
    assert manifest.totals() == ManifestTotals()
    totals = write_all(manifest, _objects(300))
    assert manifest.totals() == ManifestTotals(parts=2, images=300, bytes=sum(range(300)))
    totals.ignored, totals.covered = 3, 4
    manifest.close(totals)
    assert manifest.totals() == ManifestTotals(
        parts=2, images=300, bytes=sum(range(300)), ignored=3, covered=4, complete=True
    )


def test_it_goes_on_where_it_stopped(manifest: Manifest) -> None:
    write_all(manifest, _objects(300))
    (*_, totals) = manifest.extend(_objects(100, 300), manifest.totals())
    assert totals.images == 400
    uris = [uri for t in manifest.parts() for uri in t["uri"].to_pylist()]
    assert uris == [info.uri for info in _objects(400)]
    ids = [i for t in manifest.parts() for i in t["image_id"].to_pylist()]
    assert ids == list(range(400))


def test_where_an_unfinished_listing_stopped(manifest: Manifest) -> None:
    assert manifest.last(manifest.totals()) == ("", None)
    write_all(manifest, _objects(300))
    assert manifest.last(manifest.totals()) == ("s3://b/000299.jpg", None)


def test_in_which_line_an_unfinished_list_stopped(manifest: Manifest) -> None:
    write_all(manifest, (info._replace(line=2 * n + 1) for n, info in enumerate(_objects(300))))
    assert manifest.last(manifest.totals()) == ("s3://b/000299.jpg", 599)


def test_following_a_manifest_that_is_being_written(manifest: Manifest) -> None:
    """Every part is handed out while later ones do not exist yet."""
    handed_out: list[int] = []
    turn = threading.Semaphore(0)

    def slow() -> Iterator[ObjectInfo]:
        for i, info in enumerate(_objects(256 + 512 + 10)):
            if i in (256, 256 + 512):
                assert turn.acquire(timeout=60)  # until the reader has had the part before
            yield info

    def write() -> None:
        manifest.close(write_all(manifest, slow()))

    writer = threading.Thread(target=write)
    writer.start()
    for part in manifest.follow(poll_s=0.01):
        handed_out.append(len(part))
        if len(handed_out) < 3:
            assert not manifest.totals().complete
            turn.release()
    writer.join()
    assert handed_out == [256, 512, 10]


def test_an_empty_manifest_ends(manifest: Manifest) -> None:
    manifest.close(ManifestTotals())
    assert list(manifest.follow()) == []


def test_a_lost_part_is_an_error_and_no_endless_wait(manifest: Manifest) -> None:
    manifest.close(write_all(manifest, _objects(300)))
    Path(manifest.part_uri(1)).unlink()
    with pytest.raises(UserError, match=r"part-000001\.parquet.*new run"):
        list(manifest.follow(poll_s=0.01))


HOSTILE = [
    "s3://b/ leading and trailing ",
    "s3://b/new\nline\ttab\r.jpg",
    "s3://b/%41+%2B%.jpg",
    "s3://b/*?[].jpg",
    "s3://b/日本語/🖼.jpg",
    "s3://b//a//b",
    "/tmp/../etc/passwd",
    "s3://b/\x01\x7f",
]


def test_hostile_names_arrive_as_they_are(manifest: Manifest) -> None:
    write_all(manifest, (ObjectInfo(uri, None, 1, None) for uri in HOSTILE))
    (table,) = manifest.parts()
    assert table["uri"].to_pylist() == HOSTILE


def test_a_file_name_that_is_no_unicode(manifest: Manifest, tmp_path: Path) -> None:
    """Linux names files by bytes. Such a file gets a row that names it, not an exception that ends the listing."""
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "good.jpg").touch()
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.jpg")).touch()
    write_all(manifest, Storage().walk(str(folder)))
    (table,) = manifest.parts()
    assert table["uri"].to_pylist() == [f"{folder}/caf\\xe9.jpg", f"{folder}/good.jpg"]
