"""Real runs before, between and after compaction and forgetting: nothing is done twice, nothing is left out in silence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.segment.heed import FORGOTTEN
from masklake.pipeline.segment.local_engine import LocalEngine
from masklake.pipeline.segment.planned import Planned
from masklake.pipeline.segment.run import run
from masklake.pipeline.storage.crash_points import on_reach
from masklake.pipeline.storage.parquet import read_table
from masklake.pipeline.storage.store import Storage
from masklake.pipeline.tend import work
from masklake.pipeline.tend.chosen import Chosen
from masklake.pipeline.tend.replacing import Tending

from tests.helpers.runs import SMALL, assert_exactly_once, execute, fill, make_job, part_names, resume_job
from tests.helpers.tended_lakes import by_dataset, by_query, by_read_table

STORAGE = Storage()


@pytest.mark.slow
def test_runs_among_compact_and_forget(tmp_path: Path) -> None:
    photos, lake = tmp_path / "photos", str(tmp_path / "lake")
    fill(photos, 24)
    tending = Tending(lake=lake, storage=STORAGE, grace_s=0)
    first, _ = execute(make_job(str(photos), lake), SMALL, LocalEngine)
    uris = [str(path) for path in sorted(photos.iterdir())]
    counts = by_dataset(lake, STORAGE)
    assert (first.state, counts) == ("complete", (24, 36))
    assert len(part_names(lake, "images", first.run)) == 3

    # Incremental after compaction: nothing, and then only what is new.
    assert work.compact(tending, 10**8).new == 2
    assert len(part_names(lake, "images", first.run)) == 1
    assert set(Lake(lake, STORAGE).summaries()) == {first.run}
    assert by_dataset(lake, STORAGE) == by_query(lake, STORAGE) == by_read_table(lake, STORAGE) == counts
    planned = Planned(make_job(str(photos), lake))
    assert (planned.first, planned.totals.covered) == (None, 24)
    fill(photos, 4, first=24)
    second, progress = execute(make_job(str(photos), lake), SMALL, LocalEngine)
    assert (second.counts, progress.totals.covered) == ({"ok": 4}, 24)
    assert_exactly_once(lake, first.run, uris)

    # A run that began before the image was forgotten leaves it out; one that begins afterwards does it again.
    earlier = make_job(str(photos), lake, redo_all=True)
    planned = Planned(earlier)
    work.forget(tending, Chosen(uris=frozenset({uris[3]})))
    third, progress = run(earlier, planned, SMALL, lambda progress: None, LocalEngine)
    assert (third.state, third.counts, progress.totals.left_out) == ("complete", {"ok": 27}, {FORGOTTEN: 1})
    assert uris[3] not in Lake(lake, STORAGE).dataset("images").to_table(columns=["uri"])["uri"].to_pylist()
    later, _ = execute(make_job(str(photos), lake), SMALL, LocalEngine)
    assert later.counts == {"ok": 1}


@pytest.mark.slow
def test_a_run_that_is_resumed_while_forget_is_at_work_ends_whole_without_the_image(tmp_path: Path) -> None:
    photos, lake = tmp_path / "photos", str(tmp_path / "lake")
    fill(photos, 16)
    record, _ = execute(make_job(str(photos), lake), SMALL, LocalEngine)
    folder = Path(lake, "images", f"run={record.run}")
    last = max(folder.iterdir())
    uri = read_table(str(last), STORAGE)["uri"][0].as_py()
    Path(lake, "instances", f"run={record.run}", last.name).unlink()
    last.unlink()  # as if it had been stopped before its second commit
    job = resume_job(lake, record.run)
    Path(lake, "runs", record.run, "run.json").write_bytes(replace(job.record, state="stopped").to_json())
    states = []

    def resume(point: str) -> None:
        if point == "committed":
            again, _ = execute(resume_job(lake, record.run), SMALL, LocalEngine)
            states.append((again.state, again.counts, (again.verification or {})["forgotten"]))

    with on_reach(resume):
        work.forget(Tending(lake=lake, storage=STORAGE, grace_s=0), Chosen(uris=frozenset({uri})))
    assert states == [("complete", {"ok": 15}, 1)]
    assert by_dataset(lake, STORAGE)[0] == by_query(lake, STORAGE)[0] == 15
