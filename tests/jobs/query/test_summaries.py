"""Finished runs speak for their parts: what their records say is not asked of the parts again, and never believed when old."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from masklake.jobs.query.database import Database
from masklake.jobs.query.uri_ranges import UriRange, overlapping
from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.lake.run_record import RunFolder
from masklake.pipeline.segment.covered import summarise
from masklake.pipeline.storage.store import Storage

from tests.helpers.lakes import LakeBuilder, instance
from tests.helpers.opened_files import on_open

FINISHED = [f"2026110{day}T000000-aaaaaa" for day in range(1, 5)]


@pytest.fixture
def builder(tmp_path: Path) -> LakeBuilder:
    return LakeBuilder(str(tmp_path / "lake"))


@pytest.fixture
def opened_parts(builder: LakeBuilder, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Four finished runs, of which the last does an image of the third again, and the parts that are opened_parts since."""
    uris = [["s3://p/1/a", "s3://p/1/b"], ["s3://p/2/a"], ["s3://p/3/a", "s3://p/3/b"], ["s3://p/3/b"]]
    for run, of_run in zip(FINISHED, uris, strict=True):
        builder.part(run, {uri: [instance("dog", 0.9)] for uri in of_run})
        _, summary = summarise(RunFolder(builder.uri, run, Storage()))
        builder.record(run, parts=asdict(summary))
    paths: list[str] = []
    on_open(monkeypatch, lambda path: paths.append(path.rpartition("/")[0]))
    return paths


def test_records_of_finished_runs_save_the_footers(builder: LakeBuilder, opened_parts: list[str]) -> None:
    """Neither the version of a part nor its range of URIs is asked of the part itself."""
    with Database(Lake(builder.uri, Storage())) as database:
        assert database.rows(f"select uri from all_images where run = '{FINISHED[1]}'") == [("s3://p/2/a",)]
        assert set(opened_parts) <= {
            f"images/run={run}" for run in FINISHED[:2]
        }  # DuckDB takes the schema of the first
    opened_parts.clear()
    with Database(Lake(builder.uri, Storage())) as database:
        database.prepare("select uri from images")
        assert set(opened_parts) <= {f"images/run={run}" for run in (FINISHED[0], *FINISHED[2:])}
        assert database.rows("select run[8], uri from images order by 2") == [
            ("1", "s3://p/1/a"),
            ("1", "s3://p/1/b"),
            ("2", "s3://p/2/a"),
            ("3", "s3://p/3/a"),
            ("4", "s3://p/3/b"),
        ]


def test_a_record_that_does_not_speak_for_the_parts_is_not_believed(
    builder: LakeBuilder, opened_parts: list[str]
) -> None:
    """A part that came since, with an image of an earlier run and of a newer schema, is seen."""
    name = builder.part(FINISHED[3], {"s3://p/1/a": []})
    with Database(Lake(builder.uri, Storage())) as database:
        assert database.rows("select run[8], uri from images where uri like '%/1/%' order by 2") == [
            ("4", "s3://p/1/a"),
            ("1", "s3://p/1/b"),
        ]
    Path(builder.uri, f"images/run={FINISHED[3]}", name).unlink()
    builder.part(FINISHED[2], {"s3://p/3/c": []}, version=99)
    with Database(Lake(builder.uri, Storage())) as database, pytest.raises(UserError, match="schema 99"):
        database.prepare("select uri from images")
    assert opened_parts


@pytest.mark.parametrize("seed", range(5))
def test_overlapping_ranges_are_those_of_all_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ends = np.sort(rng.integers(0, 60, (12, 2)), axis=1)
    ranges: list[UriRange] = [(str(i), f"{low:02d}", f"{high:02d}") for i, (low, high) in enumerate(ends)]
    by_pairs = {
        run for run, low, high in ranges for other, first, last in ranges
        if run != other and low <= last and first <= high  # type: ignore[operator]
    }  # fmt: skip
    assert set(overlapping(ranges)) == by_pairs
    assert overlapping([*ranges, ("unknown", None, None)]) == [*map(str, range(12)), "unknown"]
    assert overlapping([("alone", None, None)]) == overlapping([]) == []


def test_of_very_many_parts_no_footers_are_kept(
    builder: LakeBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder.part(FINISHED[0], {"s3://p/1": []})
    builder.part(FINISHED[0], {"s3://p/2": []})

    def kept() -> Any:
        with Database(Lake(builder.uri, Storage())) as database:
            return database.connection.execute("select current_setting('parquet_metadata_cache')").fetchone()

    assert kept() == (True,)
    monkeypatch.setattr("masklake.jobs.query.database.FOOTERS_KEPT", 1)
    assert kept() == (False,)
