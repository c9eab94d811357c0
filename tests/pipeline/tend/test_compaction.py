"""Compaction: the same rows in fewer files, whoever reads, wherever it is stopped."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.lake.replacements import Replacements
from masklake.pipeline.lake.run_record import RunFolder
from masklake.pipeline.segment.proof import bar_uncommitted, tally, verify
from masklake.pipeline.storage.crash_points import on_reach
from masklake.pipeline.storage.store import Storage
from masklake.pipeline.tend import work
from masklake.pipeline.tend.crash_points import POINTS
from masklake.pipeline.tend.replacing import Tending

from tests.helpers.lakes import MODEL
from tests.helpers.tended_lakes import (
    EXACT,
    R1,
    R2,
    STOPPED,
    by_dataset,
    by_published_views,
    by_query,
    by_read_table,
    covered,
    labelled,
    some_slow,
)

STORAGE = Storage()
TARGET = 10**7


def tending(lake: str, grace_s: float = 0.0) -> Tending:
    return Tending(lake=lake, storage=STORAGE, grace_s=grace_s)


def rows(lake: str) -> dict[str, list[str]]:
    """All rows of the lake as text, sorted."""
    opened = Lake(lake, STORAGE)
    return {
        table: sorted(map(str, opened.dataset(table).to_table().to_pylist()))
        for table in ("images", "instances", "labels")
    }


def assert_whole(lake: str) -> None:
    """Every reader that goes by the lake's rules sees every row, once: all of them by the parts that Lake says count."""
    assert by_dataset(lake, STORAGE) == (56, 55)
    assert (covered(lake, STORAGE), labelled(lake, STORAGE)) == (48, 6)


def part_files(lake: str) -> int:
    return len(list(Path(lake).glob("*/**/part-*.parquet"))) - len(
        list(Path(lake).glob("runs/**/part-*.parquet"))
    )


def test_the_same_rows_in_fewer_files(lake: str) -> None:
    before = rows(lake)
    assert part_files(lake) == 2 * 14 + 3
    result = work.compact(tending(lake), TARGET)
    assert (result.files, result.replaced, result.new, result.waits_s) == (31, 24 + 3, 5, 0)
    assert result.left == {STOPPED: "is stopped: only complete runs are compacted"}
    assert part_files(lake) == 4 + 4 + 1
    assert rows(lake) == before
    assert_whole(lake)
    assert {read(lake, STORAGE) for read in EXACT.values()} == {(56, 55)}
    assert by_read_table(lake, STORAGE) == by_published_views(lake, STORAGE) == (56, 55)
    assert not list(Path(lake, "replacing").rglob("*.parquet"))
    again = work.compact(tending(lake), TARGET)
    assert (again.files, again.replaced) == (9, 0)


def test_new_parts_are_as_a_run_writes_them(lake: str) -> None:
    work.compact(tending(lake), TARGET)
    [path] = Path(lake).glob(f"instances/run={R1}/*.parquet")
    table = pq.read_table(path, partitioning=None)
    order = [(row["label"], -row["score"], row["image_id"]) for row in table.to_pylist()]
    assert order == sorted(order)
    [old] = Path(lake).glob(f"instances/run={STOPPED}/part-001-0000000000-*.parquet")
    assert table.schema.equals(pq.read_schema(old), check_metadata=True)
    assert pq.ParquetFile(path).metadata.row_group(0).column(3).compression == "ZSTD"
    for run in (R1, R2):  # the proof of the run still holds
        folder = RunFolder(lake, run, STORAGE)
        assert tally(folder).counts == {"ok": 24}
        assert verify(folder, 24, 2).whole


def test_a_writer_that_was_overtaken_is_kept_out_for_ever(lake: str) -> None:
    """Its part's name is barred by one without rows, which no compaction may take away: it may stand still for days."""
    folder, name = RunFolder(lake, R1, STORAGE), "part-001-0000000007-0123456789ab.parquet"
    instances = next(Path(lake).glob(f"instances/run={R1}/*"))
    STORAGE.write(f"{folder.table_uri('instances')}/{name}", instances.read_bytes())
    bar_uncommitted(folder, 2, MODEL)
    before = rows(lake)
    for _ in range(2):
        work.compact(tending(lake), TARGET)
        assert rows(lake) == before
        assert not STORAGE.put_new(f"{folder.table_uri('images')}/{name}", b"a part, late")
        assert len(list(Path(lake).glob(f"images/run={R1}/*"))) == 2


def test_files_are_of_the_wanted_size(lake: str) -> None:
    one = sum(path.stat().st_size for path in Path(lake).glob(f"*/run={R1}/part-001-0000000000-*"))
    result = work.compact(tending(lake), int(2.5 * one))
    assert len(list(Path(lake).glob(f"images/run={R1}/*"))) == 3
    assert result.replaced >= 24
    assert_whole(lake)


def test_finished_runs_still_speak_for_their_parts(lake: str) -> None:
    work.compact(tending(lake), TARGET)
    assert set(Lake(lake, STORAGE).summaries()) == {R1, R2}


class KilledError(BaseException):
    """The process ends here."""


AMID = [("part staged", 2), ("part put in place", 3), ("old part removed", 3), ("staging removed", 2)]
STEPS = [(point, 2 if point == "finished" else 1) for point in POINTS if point != "trace removed"]


GRACE = [("committed", 1, 0.3), ("retired", 1, 0.3)]
QUICK = {
    (point, 1, 0.0)
    for point in ("part staged", "committed", "part put in place", "old part removed", "retired")
}


@pytest.mark.parametrize(
    ("point", "times", "grace_s"), some_slow([(*step, 0.0) for step in STEPS + AMID] + GRACE, QUICK)
)
def test_killed_at_each_step_the_lake_is_whole_and_the_next_call_finishes(
    lake: str, point: str, times: int, grace_s: float
) -> None:
    reached = []

    def kill(here: str) -> None:
        reached.append(here)
        if here == point and reached.count(point) == times:
            raise KilledError

    with pytest.raises(KilledError), on_reach(kill):
        work.compact(tending(lake, grace_s), TARGET)
    assert_whole(lake)
    exchanging = point in ("part put in place", "old part removed")
    if exchanging:
        assert by_published_views(lake, STORAGE) == by_query(lake, STORAGE) == (56, 55)
    images, instances = by_read_table(lake, STORAGE)
    if exchanging:
        assert images >= 56
        assert instances >= 55
    else:
        assert (images, instances) == (56, 55)
    work.compact(tending(lake, grace_s), TARGET)
    assert_whole(lake)
    assert by_read_table(lake, STORAGE) == (56, 55)
    assert part_files(lake) == 9
    assert not list(Path(lake, "replacing").rglob("*.parquet"))
    assert Replacements.load(lake, STORAGE).current is None


def test_who_opened_the_lake_before_reads_on_for_a_while(lake: str) -> None:
    opened = Lake(lake, STORAGE)
    opened.parts("images")
    result = work.compact(tending(lake, 3600), TARGET, wait=False)
    assert 3500 < result.waits_s <= 3600
    assert opened.dataset("instances").count_rows() == 55
    assert by_read_table(lake, STORAGE) == (56, 55)  # what knows nothing of it sees the old files
    assert_whole(lake)
    again = work.compact(tending(lake, 3600), TARGET, wait=False)
    assert again.earlier.command == "compact"
    assert again.earlier.waits_s
    assert_whole(lake)


def test_who_opened_it_long_before_is_told_so_and_misses_nothing_in_silence(lake: str) -> None:
    opened = Lake(lake, STORAGE)
    opened.parts("images")
    work.compact(tending(lake), TARGET)
    with pytest.raises(UserError, match="were replaced since it was opened"):
        opened.parts("instances")


def test_what_does_not_add_up_is_left_alone_and_told(lake: str) -> None:
    part = min(Path(lake).glob(f"instances/run={R1}/*.parquet"))
    table = pq.read_table(part, partitioning=None)
    pq.write_table(table.slice(1), part)
    before = rows(lake)
    result = work.compact(tending(lake), TARGET)
    assert result.left[R1] == "its instances are not those that its images count"
    assert rows(lake) == before
    assert len(list(Path(lake).glob(f"images/run={R2}/*"))) == 1


def test_two_who_commit_at_once_do_not_both(lake: str) -> None:
    reached: list[str] = []

    def overtake(point: str) -> None:
        reached.append(point)
        if point == "all staged" and reached.count(point) == 1:
            work.compact(tending(lake, 3600), TARGET, wait=False)

    with on_reach(overtake), pytest.raises(UserError, match="another process changed it at the same time"):
        work.compact(tending(lake), TARGET)
    assert_whole(lake)


def test_a_broken_object_is_refused_by_every_reader(lake: str) -> None:
    Path(lake, "replacements.json").write_text('{"schema_version": 1}')
    with pytest.raises(UserError, match="restore it: it says which parts count"):
        Lake(lake, STORAGE).parts("images")
    Path(lake, "replacements.json").write_text('{"schema_version": 99}')
    with pytest.raises(UserError, match="upgrade Masklake"):
        Lake(lake, STORAGE).parts("images")
    group = '{"run": "../x", "old": [], "new": null, "sizes": {}}'
    Path(lake, "replacements.json").write_text(
        f'{{"schema_version": 1, "retired": [], "current": {{"id": "a", "command": "compact", "committed_at": "2026-11-28T00:00:00+00:00", "grace_s": 1, "groups": [{group}]}}}}'
    )
    with pytest.raises(UserError, match="is no name"):
        Lake(lake, STORAGE).parts("images")
