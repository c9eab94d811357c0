"""What finished runs have covered, by object and version."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from masklake.pipeline.lake.lake import Lake, Part
from masklake.pipeline.lake.part_summary import PartSummary
from masklake.pipeline.lake.run_record import RunFolder
from masklake.pipeline.schema import IMAGES, Status
from masklake.pipeline.segment.covered import Covered, CoveringRun, covering_runs, summarise
from masklake.pipeline.segment.digests import DigestSet, digests
from masklake.pipeline.storage.ahead import AT_ONCE
from masklake.pipeline.storage.objects import ObjectInfo
from masklake.pipeline.storage.parquet import write_table
from masklake.pipeline.storage.store import Storage

from tests.helpers.lakes import record

NOW = datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC)


def _run(folder: Path, *parts: list[tuple[str, str | None, str]]) -> CoveringRun:
    """A run whose record says nothing of its parts, each of (URI, etag, status) rows."""
    lake = RunFolder(str(folder), "r", Storage())
    names = [f"part-001-{number:010d}-0123456789ab.parquet" for number in range(len(parts))]
    for name, rows in zip(names, parts, strict=True):
        _part(Path(lake.table_uri("images"), name), rows)
    return CoveringRun(lake, [Part("r", name, f"images/run=r/{name}", None) for name in names], None)


def _covered(folder: Path, *parts: list[tuple[str, str | None, str]]) -> Covered:
    return Covered([_run(folder, *parts)], Storage())


def _among(covered: Covered, *objects: tuple[str, str | None]) -> list[bool]:
    return [present for _, present in covered.marked(_info(*pair) for pair in objects)]


def _part(path: Path, rows: list[tuple[str, str | None, str]]) -> None:
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


def _info(uri: str, etag: str | None) -> ObjectInfo:
    return ObjectInfo(uri, etag, 1, NOW)


def test_by_uri_and_version(tmp_path: Path) -> None:
    covered = _covered(tmp_path, [("s3://b/1", "e1", "ok"), ("s3://b/2", "e2", "ok")])
    assert len(covered) == 2
    others = [
        ("s3://b/1", "e2"),
        ("s3://b/1", ""),
        ("s3://b/3", "e1"),
        ("s3://b/1e", "1"),
        ("s3://b/", "1e1"),
    ]
    assert _among(covered, ("s3://b/1", "e1"), *others) == [True] + [False] * 5


@pytest.mark.parametrize("status", list(Status))
def test_only_settled_rows_cover(tmp_path: Path, status: Status) -> None:
    covered = _covered(tmp_path, [("u", "e", str(status))])
    assert _among(covered, ("u", "e")) == [status not in (Status.MISSING, Status.FAILED)]


def test_many_parts_and_none(tmp_path: Path) -> None:
    covered = _covered(tmp_path, *([(f"u{k}-{i}", "e", "ok") for i in range(300)] for k in range(40)))
    objects = [(f"u{k}-{i}", "e") for k in range(40) for i in range(300)]
    assert all(_among(covered, *objects))
    assert _among(covered, ("u40-0", "e"), *objects)[0] is False
    none = Covered([], Storage())
    assert len(none) == 0
    assert _among(none, ("u", "e")) == [False]


@pytest.mark.parametrize("in_memory", [2, 10**6])
def test_digests_that_share_their_first_half(monkeypatch: pytest.MonkeyPatch, in_memory: int) -> None:
    """In memory, and on disk, where every second digest is spilled."""
    monkeypatch.setattr("masklake.pipeline.segment.digests.IN_MEMORY", in_memory)
    pairs = np.array([[7, 3], [2**63, 1], [7, 1], [7, 2], [2**64 - 1, 9]], np.uint64)
    digest_set = DigestSet()
    for pair in pairs:
        digest_set.add(pair[None])
    digest_set.seal()
    asked = np.array([[7, 0], [7, 1], [7, 2], [7, 3], [7, 4], [2**63, 1], [2**64 - 1, 8]], np.uint64)
    assert digest_set.contains(asked).tolist() == [False, True, True, True, False, True, False]
    assert digest_set.contains(pairs).all()


def test_as_many_as_are_not_held_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand digests, of which five hundred are held at a time, against Python's own set."""
    monkeypatch.setattr("masklake.pipeline.segment.digests.IN_MEMORY", 500)
    covered, others = (digests((f"{kind}{i}", "e") for i in range(10_000)) for kind in "ab")
    digest_set, held = DigestSet(), []
    for chunk in np.array_split(covered, 100):
        digest_set.add(chunk)
        held.append(digest_set._n_held)
    digest_set.seal()
    assert max(held) < 500
    assert len(digest_set) == 10_000
    asked = np.concatenate([covered[::7], others, covered[:3]])
    known = {tuple(pair) for pair in covered.tolist()}
    assert digest_set.contains(asked).tolist() == [tuple(pair) in known for pair in asked.tolist()]
    assert digest_set._folder is not None
    folder = digest_set._folder
    del digest_set
    assert not folder.exists()


class Reading(Storage):
    """Notes which objects are read, and how many of them are in hand at once."""

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "names", [])

    def read(self, uri: str) -> bytes:
        self.names.append(uri.rpartition("/")[2])  # type: ignore[attr-defined]
        return super().read(uri)


def _finished(folder: Path, run: str, *parts: list[tuple[str, str | None, str]]) -> PartSummary:
    """A finished run of a lake, with what is written at its end."""
    lake = RunFolder(str(folder), run, Storage())
    for number, rows in enumerate(parts):
        _part(Path(lake.table_uri("images"), f"part-001-{number:010d}-0123456789ab.parquet"), rows)
    _, summary = summarise(lake)
    lake.save(record(run, str(folder), parts=asdict(summary)))
    return summary


def test_the_digests_of_a_finished_run_are_read_instead_of_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("masklake.pipeline.segment.covered._DIGESTS_A_PART", 4)
    rows = [(f"s3://b/{i}", "e", "failed" if i == 3 else "ok") for i in range(30)]
    summary = _finished(tmp_path, "r1", *(rows[i : i + 3] for i in range(0, 30, 3)))
    assert (summary.first_uri, summary.last_uri) == ("s3://b/0", "s3://b/9")
    storage = Reading()
    [run] = covering_runs(Lake(str(tmp_path), storage), record("r", "").covers, "s3://b")
    covered = Covered([run], storage)
    names: list[str] = storage.names  # type: ignore[attr-defined]
    assert sorted(names) == [f"part-{number:06d}.parquet" for number in range(5)]
    assert _among(covered, *((uri, "e") for uri, *_ in rows)) == [i != 3 for i in range(30)]
    assert _among(covered, ("s3://b/30", "e"), ("s3://b/1", "f")) == [False, False]


@pytest.mark.parametrize(
    "change", ["added", "taken away", "rewritten", "no digests", "broken record", "older"]
)
def test_digests_that_no_longer_stand_for_the_rows_are_not_believed(tmp_path: Path, change: str) -> None:
    _finished(tmp_path, "r1", [("u1", "e", "ok")], [("u2", "e", "ok")])
    second = tmp_path / "images/run=r1/part-001-0000000001-0123456789ab.parquet"
    expected = {"u1": True, "u2": True, "u3": False}
    if change == "added":  # by a worker that outlived its run
        _part(second.with_name("part-001-0000000002-0123456789ab.parquet"), [("u3", "e", "ok")])
        expected["u3"] = True
    elif change == "taken away":  # by hand, to have it done again
        second.unlink()
        expected["u2"] = False
    elif change == "rewritten":
        _part(second, [("u3", "e", "ok"), ("u4", "e", "ok")])
        expected |= {"u2": False, "u3": True}
    elif change == "no digests":
        (tmp_path / "runs/r1/covered/part-000000.parquet").unlink()
    elif change == "broken record":
        RunFolder(str(tmp_path), "r1", Storage()).save(record("r1", str(tmp_path), parts={"signature": 3}))
    else:
        RunFolder(str(tmp_path), "r1", Storage()).save(record("r1", str(tmp_path)))
    covered = Covered(covering_runs(Lake(str(tmp_path), Storage()), record("r", "").covers, ""), Storage())
    assert dict(zip(expected, _among(covered, *((uri, "e") for uri in expected)), strict=True)) == expected


def test_runs_of_other_prefixes_are_not_read(tmp_path: Path) -> None:
    for day in ("01", "02", "03"):
        _finished(tmp_path, f"r{day}", [(f"s3://b/2026/{day}/{i}.jpg", "e", "ok") for i in range(3)])
    _part(
        tmp_path / "images/run=r04/part-001-0000000001-0123456789ab.parquet",
        [("s3://b/2026/04/x.jpg", "e", "ok")],
    )
    RunFolder(str(tmp_path), "r04", Storage()).save(record("r04", str(tmp_path)))
    lake = Lake(str(tmp_path), Storage())

    def runs(prefix: str) -> list[str]:
        return sorted(run.folder.run for run in covering_runs(lake, record("r", "").covers, prefix))

    assert runs("s3://b/2026/02") == ["r02", "r04"]  # of the last nothing is known
    assert runs("s3://b/2026") == runs("s3://b") == runs("") == ["r01", "r02", "r03", "r04"]
    assert runs("s3://b/2026/02/1.jpg") == ["r02", "r04"]
    assert runs("s3://b/2026/0") == ["r01", "r02", "r03", "r04"]
    assert runs("s3://c") == runs("s3://b/2026/02/2.jpg/") == ["r04"]


def test_a_few_parts_are_in_hand_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many parts the covering runs have."""
    run = _run(tmp_path, *([(f"u{k}", "e", "ok")] for k in range(300)))
    in_hand, most = 0, 0
    of_part, add = Covered._of_part, DigestSet.add

    def read(covered: Covered, uri: str) -> np.ndarray:
        nonlocal in_hand, most
        in_hand += 1
        most = max(most, in_hand)
        return of_part(covered, uri)

    def added(digest_set: DigestSet, pairs: np.ndarray) -> None:
        nonlocal in_hand
        in_hand -= 1
        add(digest_set, pairs)

    monkeypatch.setattr(Covered, "_of_part", read)
    monkeypatch.setattr(DigestSet, "add", added)
    assert len(Covered([run], Storage())) == 300
    assert most <= 2 * AT_ONCE + 1


def test_bare_uris_are_asked_for_their_version(tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.jpg" for i in range(1300)]
    for file in files[:-1]:
        file.write_bytes(b"x")
    info = Storage().stat(str(files[0]))
    assert info is not None
    covered = _covered(tmp_path / "lake", [(info.uri, info.etag, "ok")])
    listed = [ObjectInfo(str(f), None, None, None, line) for line, f in enumerate(files, start=1)]
    marked = list(covered.marked(iter(listed)))
    assert [v.uri for v, _ in marked] == [str(f) for f in files]
    assert [present for _, present in marked] == [True] + [False] * 1299
    assert marked[0][0] == info._replace(line=1)
    assert marked[-1][0] == listed[-1]  # gone: fetching it will tell


def test_a_first_run_asks_nothing() -> None:
    class Silent(Storage):
        def stat(self, uri: str) -> Any:
            raise AssertionError(f"asked for {uri}")

    listed = [ObjectInfo("/x", None, None, None)]
    assert list(Covered([], Silent()).marked(listed)) == [(listed[0], False)]


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

    covered = _covered(tmp_path / "lake", [("u", "e", "ok")])
    for n, _ in enumerate(covered.marked(endless())):
        if n == 10:
            break
    assert read < 1000
