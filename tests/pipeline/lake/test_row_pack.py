"""Many small runs are read from a few files, and a pack that is old, doubled, half written or broken is never believed."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from masklake.jobs.query.database import Database
from masklake.pipeline.lake import row_pack
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.lake.row_pack import pack_rows, packs, try_to_pack_rows
from masklake.pipeline.lake.run_record import RunFolder
from masklake.pipeline.segment.covered import summarise
from masklake.pipeline.storage.store import Storage
from masklake.pipeline.tend import work
from masklake.pipeline.tend.chosen import Chosen
from masklake.pipeline.tend.replacing import Tending

from tests.conftest import Bucket
from tests.helpers.lakes import LakeBuilder, instance
from tests.helpers.opened_files import on_open
from tests.helpers.tended_lakes import all_bytes

QUERIES = (
    "select run, image_id, uri, status, n_instances from {}images order by all",
    "select run, image_id, instance, label, score, mask, keypoints from {}instances order by all",
)
SINCE = "20261201T000000-bbbbbb"


@pytest.fixture(autouse=True)
def _few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_pack, "WORTH_IT", 4)


def add_runs(builder: LakeBuilder, first: int, last: int) -> list[str]:
    """Finished runs of two parts each. The last image of each is also the first of the next one."""
    runs = [f"20261101T{number:06d}-aaaaaa" for number in range(first, last)]
    for number, run in enumerate(runs, first):
        builder.part(run, {f"s3://p/{number}": [instance("dog", 0.9)], f"s3://p/{number}x": []})
        builder.part(run, {f"s3://p/{number + 1}": [instance("person", 0.5), instance("cat", 0.4)]})
        finish(builder, run)
    return runs


def finish(builder: LakeBuilder, run: str) -> None:
    _, summary = summarise(RunFolder(builder.uri, run, builder.storage))
    builder.record(run, parts=asdict(summary))


def pack(builder: LakeBuilder) -> int:
    return pack_rows(Lake(builder.uri, builder.storage))


def rows(builder: LakeBuilder) -> list[Any]:
    with Database(Lake(builder.uri, builder.storage)) as database:
        return [database.rows(sql.format(of)) for of in ("", "all_") for sql in QUERIES]


def rows_of_parts(builder: LakeBuilder) -> list[Any]:
    """The same with no pack looked at."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(row_pack, "WORTH_IT", 10_000)
        return rows(builder)


@pytest.fixture
def builder(tmp_path: Path) -> LakeBuilder:
    builder = LakeBuilder(str(tmp_path / "lake"))
    add_runs(builder, 0, 6)
    return builder


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The first folders of the files that queries open."""
    folders: set[str] = set()
    on_open(monkeypatch, lambda path: folders.add(path.partition("/")[0]))
    return folders


def test_packed_rows_are_those_of_the_parts(builder: LakeBuilder, opened: set[str]) -> None:
    before = rows(builder)
    assert [len(of) for of in before] == [13, 8, 18, 18]
    assert "packs" not in opened
    opened.clear()
    assert pack(builder) == 6
    assert rows(builder) == before
    assert opened <= {"packs", "empty"}
    assert pack(builder) == 0


def test_what_changed_since_is_read_from_its_parts(builder: LakeBuilder) -> None:
    """A part that came, one that went, a run that went, one that was done since: and the others are still read from the pack."""
    runs = [f"20261101T{number:06d}-aaaaaa" for number in range(6)]
    pack(builder)
    builder.part(runs[1], {"s3://p/new": [instance("car", 0.7)]})
    name = min(Path(builder.uri, f"images/run={runs[2]}").iterdir()).name
    for table in ("images", "instances"):
        Path(builder.uri, f"{table}/run={runs[2]}", name).unlink()
        shutil.rmtree(Path(builder.uri, f"{table}/run={runs[3]}"))
    shutil.rmtree(Path(builder.uri, f"runs/{runs[3]}"))
    builder.part(SINCE, {"s3://p/0": [], "s3://p/5": [instance("dog", 0.3)]})
    finish(builder, SINCE)
    expected = rows_of_parts(builder)
    assert rows(builder) == expected
    shutil.rmtree(Path(builder.uri, "packs"))
    assert rows(builder) == expected


def test_of_one_run_the_parts_are_read(builder: LakeBuilder, opened: set[str]) -> None:
    pack(builder)
    with Database(Lake(builder.uri, builder.storage), run="last") as database:
        assert database.rows("select count(*) from instances") == [(3,)]
    assert "packs" not in opened


def test_two_that_pack_at_once_double_nothing(builder: LakeBuilder) -> None:
    lakes = [Lake(builder.uri, builder.storage) for _ in range(2)]
    for lake in lakes:
        lake.summaries()
    expected = rows(builder)
    written = packs(lakes[0])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(row_pack, "packs", lambda lake: written)  # neither sees the other's
        assert [pack_rows(lake) for lake in lakes] == [6, 6]
    assert len(packs(lakes[0])) == 2
    assert rows(builder) == expected


class DyingStorage(Storage):
    """Its owner is killed at a write: of packs so many succeed."""

    left: int

    def __init__(self, left: int) -> None:
        super().__init__()
        object.__setattr__(self, "left", left)

    def write(self, uri: str, data: bytes) -> None:
        if "/packs/" in uri:
            if not self.left:
                raise KeyboardInterrupt
            object.__setattr__(self, "left", self.left - 1)
        super().write(uri, data)


@pytest.mark.parametrize("writes", range(3))
def test_a_writer_that_is_killed_leaves_nothing_that_counts(builder: LakeBuilder, writes: int) -> None:
    expected = rows(builder)
    with pytest.raises(KeyboardInterrupt):
        pack_rows(Lake(builder.uri, DyingStorage(writes)))
    files = list(Path(builder.uri, "packs").rglob("*.parquet"))
    assert len(files) == writes
    assert rows(builder) == expected
    assert pack(builder) == 6
    pack(builder)
    assert all(file.exists() for file in files)  # its writer may be at work still
    for file in files:
        os.utime(file, (0, 0))
    pack(builder)
    assert not any(file.exists() for file in files)
    assert rows(builder) == expected


def test_a_pack_is_filled_up_and_the_old_one_goes_after_an_hour(builder: LakeBuilder) -> None:
    pack(builder)
    add_runs(builder, 6, 9)
    expected = rows(builder)
    assert pack(builder) == 0  # too few
    add_runs(builder, 9, 11)
    expected = rows(builder)
    assert pack(builder) == 5
    new, old = packs(Lake(builder.uri, builder.storage))
    assert (len(new.runs), len(old.runs)) == (11, 6)
    assert rows(builder) == expected
    pack(builder)
    assert len(packs(Lake(builder.uri, builder.storage))) == 2  # a query may be reading it
    for info in new.files.values():
        os.utime(info.uri, (info.modified.timestamp() - 4000,) * 2)  # type: ignore[union-attr]
    pack(builder)
    [left] = packs(Lake(builder.uri, builder.storage))
    assert left.id == new.id
    assert rows(builder) == expected


def test_rows_that_were_replaced_meanwhile_do_not_stay(
    builder: LakeBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`masklake forget` may have looked through the lake before the pack was in it."""
    lake = Lake(builder.uri, builder.storage)
    tables = row_pack._tables

    def forgetting(*arguments: Any) -> Any:
        builder.storage.write(f"{builder.uri}/replacements.json", b"{}")
        return tables(*arguments)

    monkeypatch.setattr(row_pack, "_tables", forgetting)
    assert pack_rows(lake) == 0
    assert not list(Path(builder.uri, "packs").rglob("*.parquet"))


def test_compaction_packs_all_that_are_left(
    builder: LakeBuilder, opened: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_pack, "FULL", 4)
    add_runs(builder, 6, 11)
    expected = rows(builder)
    tending = Tending(lake=builder.uri, storage=builder.storage, grace_s=0.0)
    compacted = work.compact(tending, 10**6)
    assert (compacted.new, compacted.packed) == (22, 8)
    opened.clear()
    assert rows(builder) == expected
    assert "packs" in opened
    assert work.compact(tending, 10**6).packed == 0


def test_forgotten_images_leave_the_packs(builder: LakeBuilder) -> None:
    def naming() -> list[str]:
        return [name for name, data in all_bytes(Path(builder.uri)).items() if b"'s3://p/2'" in data]

    pack(builder)
    assert [name for name in naming() if name.startswith("packs/")]
    chosen = Chosen(uris=frozenset({"s3://p/2"}))
    work.forget(Tending(lake=builder.uri, storage=builder.storage, grace_s=0.0), chosen)
    assert naming() == []
    assert not list(Path(builder.uri, "packs").rglob("*.parquet"))  # the pack goes, and can be made again
    assert rows(builder) == rows_of_parts(builder)


@pytest.mark.parametrize("content", [b"", b"PAR1 and nothing of it", "instances.parquet"])
def test_a_pack_that_says_nothing_of_its_runs_is_done_without(
    builder: LakeBuilder, content: bytes | str
) -> None:
    expected = rows(builder)
    pack(builder)
    [folder] = Path(builder.uri, "packs").iterdir()
    data = (folder / content).read_bytes() if isinstance(content, str) else content
    (folder / "runs.parquet").write_bytes(data)
    assert rows(builder) == expected


def test_a_pack_of_another_schema_is_done_without(
    builder: LakeBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = row_pack._RUNS.with_metadata({row_pack.VERSION_KEY: "99"})
    with monkeypatch.context() as patched:
        patched.setattr(row_pack, "_RUNS", newer)
        assert pack(builder) == 6
    [of_newer] = packs(Lake(builder.uri, builder.storage))
    assert of_newer.runs == {}


def test_large_and_unfinished_runs_are_not_packed(
    builder: LakeBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder.part(SINCE, {"s3://p/0": []})
    builder.record(SINCE, state="incomplete")
    assert pack(builder) == 6
    shutil.rmtree(Path(builder.uri, "packs"))
    monkeypatch.setattr(row_pack, "_LARGEST_RUN", 10)
    assert pack(builder) == 0


def test_a_part_that_cannot_be_read_is_left_to_its_readers(builder: LakeBuilder) -> None:
    """The end of a run is no place to fail for a copy."""
    next(Path(builder.uri, "instances").rglob("*.parquet")).write_bytes(b"PAR1 and nothing of it")
    try_to_pack_rows(Lake(builder.uri, builder.storage))
    assert packs(Lake(builder.uri, builder.storage)) == []


def test_in_s3_too(s3_bucket: Bucket) -> None:
    builder = LakeBuilder(f"{s3_bucket.uri}/lake")
    add_runs(builder, 0, 5)
    expected = rows(builder)
    assert pack(builder) == 5
    assert rows(builder) == expected
    builder.part("20261101T000002-aaaaaa", {"s3://p/new": []})
    assert rows(builder) == rows_of_parts(builder) != expected
