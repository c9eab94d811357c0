"""Packets of the manifest: what is done is left out, and a restarted reader cuts the same ones."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from masklake.pipeline.lake.run_record import RunFolder
from masklake.pipeline.segment import manifest as manifest_module
from masklake.pipeline.segment.manifest import Manifest, ManifestTotals
from masklake.pipeline.segment.source import load, packets
from masklake.pipeline.storage.objects import ObjectInfo
from masklake.pipeline.storage.store import Storage

from tests.pipeline.segment.test_manifest import write_all
from tests.pipeline.segment.test_proof import _commit

RUN = "20261122T235416-3fa9c1"


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(str(tmp_path / "lake"), RUN, Storage())


def _listed(folder: RunFolder, n: int, *, close: bool = True) -> Manifest:
    manifest = Manifest(folder.manifest_uri, folder.storage)
    totals = write_all(manifest, (ObjectInfo(f"s3://b/{i}", "e", 1, None) for i in range(n)))
    if close:
        manifest.close(totals)
    return manifest


def _cut(manifest: Manifest, folder: RunFolder, attempt: int, size: int) -> list[list[int]]:
    return [packet["image_id"].to_pylist() for packet in packets(manifest, folder, attempt, size)]


def test_load_is_one_an_image_and_more_for_a_large_one() -> None:
    rows = pa.table({"size_bytes": pa.array([None, 0, 3_000_000, 5_000_000, 42_000_000], pa.int64())})
    assert load(rows) == 4 + 10
    assert load(rows.slice(0, 0)) == 0
    assert load(pa.table({"size_bytes": [10**10, 1]}), 64) == 65


def test_packets_hold_every_image_once(folder: RunFolder) -> None:
    cut = _cut(_listed(folder, 300), folder, 1, 16)
    assert [i for packet in cut for i in packet] == list(range(300))
    assert {len(packet) for packet in cut} == {16, 44 % 16}


def test_large_objects_make_small_packets(folder: RunFolder) -> None:
    """Sixteen satellite images at once are more than a worker has memory for."""
    mb = 10**6
    sizes = [100 * mb, 100 * mb, 100 * mb, 400 * mb, 1, None, 200 * mb, 60 * mb, *[1] * 20]
    manifest, totals = Manifest(folder.manifest_uri, folder.storage), ManifestTotals()
    listed = (ObjectInfo(f"s3://b/{i}", "e", size, None) for i, size in enumerate(sizes))
    for _ in manifest.extend(listed, totals):
        pass
    manifest.close(totals)
    cut = _cut(manifest, folder, 1, 16)
    assert cut == [[0, 1], [2], [3], [4, 5, 6, 7, *range(8, 20)], [*range(20, 28)]]


def test_what_earlier_attempts_committed_is_left_out(folder: RunFolder) -> None:
    manifest = _listed(folder, 300)
    _commit(folder, 1, *range(100))
    _commit(folder, 2, 257, 150)
    _commit(folder, 3, 299)
    assert [i for p in _cut(manifest, folder, 1, 16) for i in p] == list(range(300))
    left = [i for p in _cut(manifest, folder, 3, 16) for i in p]
    assert left == [i for i in range(100, 300) if i not in (150, 257)]


def test_a_restarted_reader_cuts_the_same_packets(folder: RunFolder) -> None:
    """Ray calls the source again to make a lost packet anew; by then this attempt has committed some."""
    manifest = _listed(folder, 100)
    _commit(folder, 1, *range(10, 20))
    before = _cut(manifest, folder, 2, 16)
    _commit(folder, 2, 0, 1, 2, 3)
    assert _cut(manifest, folder, 2, 16) == before


def test_nothing_is_left_to_do(folder: RunFolder) -> None:
    manifest = _listed(folder, 20)
    _commit(folder, 1, *range(20))
    assert _cut(manifest, folder, 2, 16) == []
    empty = RunFolder(folder.lake, "20261122T235416-000000", Storage())
    assert _cut(_listed(empty, 0), empty, 1, 16) == []


def test_packets_come_while_the_listing_goes_on(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_module, "_FIRST_PART", 4)
    manifest = Manifest(folder.manifest_uri, folder.storage)
    go_on = threading.Event()

    def slow() -> Iterator[ObjectInfo]:
        for i in range(8):
            if i == 5:
                assert go_on.wait(60)
            yield ObjectInfo(f"s3://b/{i}", "e", 1, None)

    def write() -> None:
        manifest.close(write_all(manifest, slow()))

    writer = threading.Thread(target=write)
    writer.start()
    source = packets(manifest, folder, 1, 4)
    assert next(source)["image_id"].to_pylist() == [0, 1, 2, 3]
    assert not manifest.totals().complete
    go_on.set()
    assert [p["image_id"].to_pylist() for p in source] == [[4, 5, 6, 7]]
    writer.join()


def test_packets_own_their_rows(folder: RunFolder) -> None:
    """Not a slice of the part's 32,768 rows, which would travel with every packet."""
    first = next(packets(_listed(folder, 200), folder, 1, 2))
    assert first.nbytes < 1000


def test_a_large_resume_costs_by_what_is_in_a_part(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five million images done: they are not all searched for each of the manifest's parts."""
    isin, searched = np.isin, [0]

    def spy(ids: np.ndarray, among: np.ndarray) -> np.ndarray:
        searched[0] += len(among)
        return isin(ids, among)

    monkeypatch.setattr("masklake.pipeline.segment.source.np.isin", spy)
    monkeypatch.setattr(
        "masklake.pipeline.segment.source.done_ids", lambda folder, attempt: np.arange(5_000_000)
    )
    monkeypatch.setattr(manifest_module, "_FIRST_PART", 2)
    monkeypatch.setattr(manifest_module, "_LARGEST_PART", 2)
    assert _cut(_listed(folder, 60), folder, 2, 16) == []
    assert searched == [60]
