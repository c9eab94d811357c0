"""Packed rows beside compaction and forgetting: readers count what the parts hold, and no pack keeps what is forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest
from masklake.pipeline.lake import row_pack
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.lake.row_pack import pack_rows
from masklake.pipeline.storage.crash_points import on_reach
from masklake.pipeline.storage.store import Storage
from masklake.pipeline.tend.chosen import Chosen
from masklake.pipeline.tend.replacing import Tending
from masklake.pipeline.tend.work import compact, forget

from tests.helpers.lakes import LakeBuilder
from tests.helpers.tended_lakes import all_bytes, by_query
from tests.pipeline.lake.test_row_pack import add_runs

STORAGE = Storage()


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[str]]:
    """A lake and its runs, in two packs."""
    monkeypatch.setattr(row_pack, "WORTH_IT", 2)
    monkeypatch.setattr(row_pack, "FULL", 3)
    builder = LakeBuilder(str(tmp_path / "lake"))
    runs = add_runs(builder, 0, 6)
    assert [pack_rows(Lake(builder.uri, STORAGE)) for _ in range(2)] == [3, 3]
    return builder.uri, runs


SEEN = ("all staged", "committed", "all in place", "traces removed", "finished")


def names(lake: str) -> list[str]:
    return sorted(path.parent.name + "/" + path.stem for path in Path(lake, "packs").rglob("*.parquet"))


def test_after_compaction_the_parts_are_read(packed: tuple[str, list[str]]) -> None:
    lake, _ = packed
    before = by_query(lake, STORAGE)
    seen = []
    with on_reach(lambda point: seen.append(by_query(lake, STORAGE)) if point in SEEN else None):
        result = compact(Tending(lake=lake, storage=STORAGE, grace_s=0), 10**7)
    assert (result.replaced, result.packed) == (24, 6)  # anew
    assert set(seen) == {before}
    assert by_query(lake, STORAGE) == before


@pytest.mark.parametrize(
    ("what", "left"), [("image", (12, 8)), pytest.param("run", (11, 7), marks=pytest.mark.slow)]
)
def test_a_pack_with_what_is_forgotten_goes_and_the_others_stay(
    packed: tuple[str, list[str]], what: str, left: tuple[int, int]
) -> None:
    lake, runs = packed
    before, files = by_query(lake, STORAGE), names(lake)
    gone, run = "s3://p/0x", runs[0]
    chosen = Chosen(uris=frozenset({gone})) if what == "image" else Chosen(uris=frozenset(), run=run)
    seen = []
    with on_reach(lambda point: seen.append(by_query(lake, STORAGE)) if point in SEEN else None):
        forget(Tending(lake=lake, storage=STORAGE, grace_s=0), chosen)
    assert seen == [before] * 2 + [left] * (len(seen) - 2)
    assert len(names(lake)) == len(files) - 3
    assert set(names(lake)) < set(files)
    text = (gone if what == "image" else run).encode()
    assert not [name for name, data in all_bytes(Path(lake)).items() if text in data]
    assert by_query(lake, STORAGE) == left
