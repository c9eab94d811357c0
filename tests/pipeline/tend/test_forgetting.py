"""Forgetting: nothing of an image is left in the lake, and nothing of another one is gone, wherever it is stopped."""

from __future__ import annotations

import contextlib
import datetime
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from masklake.pipeline.errors import UserError
from masklake.pipeline.labels import store as label_store
from masklake.pipeline.lake.forgotten import ForgottenSince, forgets_done
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.lake.process import process_alive
from masklake.pipeline.lake.record import now
from masklake.pipeline.lake.replacements import require_untouched
from masklake.pipeline.lake.run_record import RunFolder
from masklake.pipeline.segment import manifest as manifest_module
from masklake.pipeline.segment.heed import FORGOTTEN, heed
from masklake.pipeline.segment.manifest import Manifest
from masklake.pipeline.segment.planned import Planned
from masklake.pipeline.segment.proof import done_ids, verify
from masklake.pipeline.segment.source import packets
from masklake.pipeline.storage.crash_points import on_reach
from masklake.pipeline.storage.store import Storage
from masklake.pipeline.tend import work
from masklake.pipeline.tend.chosen import Chosen
from masklake.pipeline.tend.crash_points import POINTS
from masklake.pipeline.tend.forgetting import AtWorkError
from masklake.pipeline.tend.replacing import Tending
from masklake.pipeline.train import record as training
from masklake.pipeline.train.record import TrainingRecord

from tests.helpers.lakes import WHEN, LakeBuilder, label_row
from tests.helpers.runs import fill, make_job, resume_job
from tests.helpers.tended_lakes import (
    EXACT,
    R1,
    R2,
    STOPPED,
    all_bytes,
    by_dataset,
    by_published_views,
    by_read_table,
    covered,
    run_with_parts,
    small_parts,
    some_slow,
    uri_of,
)

STORAGE = Storage()
GONE = {uri_of(n) for n in (2, 5, 25, 49)}
"""Two of the first run, of which one has labels, one of the second, one of the stopped run."""
CHOSEN = Chosen(uris=frozenset(GONE))


def tending(lake: str, grace_s: float = 0.0) -> Tending:
    return Tending(lake=lake, storage=STORAGE, grace_s=grace_s)


def leftovers(lake: str, uris: set[str] = GONE) -> list[str]:
    """Files of the lake in which one of the images is named."""
    return [name for name, data in all_bytes(Path(lake)).items() if any(uri.encode() in data for uri in uris)]


def counts(lake: str) -> dict[str, tuple[int, int]]:
    """By a reader that knows of the lake's rules, and by one that does not."""
    return {"dataset": by_dataset(lake, STORAGE), "read_table": by_read_table(lake, STORAGE)}


LEFT = (52, 55 - (2 + 2 + 1 + 1))


def test_nothing_of_the_images_is_left(lake: str) -> None:
    assert leftovers(lake)
    result = work.forget(tending(lake), CHOSEN)
    assert set(result.images) == GONE
    assert (result.image_rows, result.instance_rows, result.label_rows) == (4, 6, 3 + 1)
    assert leftovers(lake) == []
    readers = [*EXACT.values(), by_published_views, by_read_table]
    assert {read(lake, STORAGE) for read in readers} == {LEFT}
    assert covered(lake, STORAGE) == 48 - 3
    assert [labels.uri for labels in label_store.newest(Lake(lake, STORAGE))] == [
        uri_of(n) for n in (0, 4, 1, 3)
    ]
    assert {run.id: run.record and run.record.counts for run in Lake(lake, STORAGE).runs()} == {
        R1: {"ok": 22},
        R2: {"ok": 23},
        STOPPED: {},
    }
    assert set(Lake(lake, STORAGE).summaries()) == {R1, R2}
    with pytest.raises(UserError, match="holds nothing of these images; nothing was changed"):
        work.forget(tending(lake), CHOSEN)


def test_a_folder_of_images(lake: str) -> None:
    result = work.forget(tending(lake), Chosen(uris=frozenset(), folders=("s3://p/a/",)))
    assert len(result.images) == 28
    assert not [name for name, data in all_bytes(Path(lake)).items() if b"s3://p/a/" in data]
    assert set(counts(lake).values()) == {(28, sum(n % 3 for run in (24, 24, 8) for n in range(1, run, 2)))}


def test_a_dry_run_changes_nothing(lake: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path(lake).rglob("*")}
    result = work.forget(tending(lake), CHOSEN, dry_run=True)
    assert (result.image_rows, len(result.traces.pruned)) == (4, 3)  # the manifests
    assert {path: path.stat().st_mtime_ns for path in Path(lake).rglob("*")} == before


def test_a_stopped_run_can_still_be_resumed_to_its_end(lake: str) -> None:
    """A forgotten image is neither done again nor missing."""
    run = "20261104T000000-dddddd"
    run_with_parts(lake, run, STORAGE, first=100, parts=3, state="stopped")
    folder = RunFolder(lake, run, STORAGE)
    last = max(Path(folder.table_uri("images")).iterdir())
    Path(folder.table_uri("instances"), last.name).unlink()
    last.unlink()
    gone = {uri_of(n) for n in (101, 109)}  # one with a row, one that was still to be done
    work.forget(tending(lake), Chosen(uris=frozenset(gone)))
    assert leftovers(lake, gone) == []
    todo = packets(Manifest(folder.manifest_uri, STORAGE), folder, 2, 100)
    assert [i for packet in todo for i in packet["image_id"].to_pylist()] == [8, 10, 11]
    assert len(done_ids(folder, 2)) == 7
    assert verify(folder, 12, 2).missing == 3


def test_a_run_at_work_on_them_is_waited_for(lake: str) -> None:
    folder = RunFolder(lake, STOPPED, STORAGE)
    folder.save(replace(folder.load(), state="running", updated_at=now(), host="elsewhere"))
    with pytest.raises(UserError, match="is at work and would write rows of these images again"):
        work.forget(tending(lake), CHOSEN)
    with pytest.raises(UserError, match="is at work; stop it"):
        work.forget(tending(lake), Chosen(uris=frozenset(), run=STOPPED))
    assert set(counts(lake).values()) == {(56, 55)}
    assert set(work.forget(tending(lake), Chosen(uris=frozenset({uri_of(2)}))).images) == {uri_of(2)}


@pytest.mark.parametrize("numbers", [[5], [4, 5], [2, 3, 4, 5], [0, 1, 2, 3, 4, 5], [1]])
def test_a_listing_goes_on_wherever_it_was_and_gives_no_number_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numbers: list[int]
) -> None:
    """Though the image after which it stopped may be forgotten."""
    monkeypatch.setattr(manifest_module, "_FIRST_PART", 2)
    photos, lake = tmp_path / "photos", str(tmp_path / "lake")
    fill(photos, 9)
    job = make_job(str(photos), lake)
    folder = RunFolder(lake, job.record.run, STORAGE)
    folder.save(replace(job.record, state="stopped"))
    parts = Planned(job).write()
    assert [next(parts).images, next(parts).images] == [2, 6]  # killed here: three are still to be listed
    gone = {str(photos / f"{number:05d}.png") for number in numbers}
    work.forget(tending(lake), Chosen(uris=frozenset(gone)))
    assert leftovers(lake, gone) == []

    planned = Planned(resume_job(lake, job.record.run))
    planned.forgotten = heed(folder, planned.forgets)
    assert list(planned.write())[-1].images == 9
    rows = [row for part in Manifest(folder.manifest_uri, STORAGE).parts() for row in part.to_pylist()]
    expected = [(n, f"{n:05d}.png") for n in range(9) if n not in numbers]
    assert [(row["image_id"], Path(row["uri"]).name) for row in rows] == expected
    assert verify(folder, 9, 2).missing == len(expected)


def test_a_run_as_a_whole(lake: str) -> None:
    run_with_parts(lake, "20261105T000000-eeeeee", STORAGE, first=0, parts=1)
    result = work.forget(tending(lake), Chosen(uris=frozenset(), run=R1))
    assert (result.image_rows, result.instance_rows, result.label_rows) == (24, 24, 0)
    assert not [name for name in all_bytes(Path(lake)) if R1 in name]
    assert set(counts(lake).values()) == {(36, 24 + 7 + 3)}
    assert R1 not in Lake(lake, STORAGE).run_ids()
    with pytest.raises(UserError, match="has no run"):
        work.forget(tending(lake), Chosen(uris=frozenset(), run=R1))


def test_review_tasks_exports_and_lists_in_the_lake(lake: str) -> None:
    from hashlib import sha256

    def stem(uri: str) -> str:
        return f"x-{sha256(uri.encode()).hexdigest()[:16]}"

    gone, stays = uri_of(2), uri_of(4)
    files = {
        "review.json": json.dumps([{"data": {"uri": uri, "image": f"https://h/{uri}?X-Amz-Signature=1"}} for uri in (gone, stays)]),
        "out/annotations.json": json.dumps({
            "images": [{"id": 7, "file_name": f"{stem(gone)}.jpg"}, {"id": 8, "file_name": f"{stem(stays)}.jpg"}],
            "annotations": [{"id": 1, "image_id": 7}, {"id": 2, "image_id": 8}],
            "categories": [{"id": 7, "name": "dog"}],
        }),
        f"out/labels/{stem(gone)}.txt": "0 .1 .1 .1 .1",
        f"out/labels/{stem(stays)}.txt": "0 .2 .2 .2 .2",
        f"out/images/{stem(gone)}.png": "pixels",
        "out/images.csv": f"file,uri\n{stem(gone)},{gone}\n{stem(stays)},{stays}\n",
        "gallery/index.html": f"<img alt='{gone}'>",
        "gallery/other.html": f"<img alt='{stays}'>",
        "iceberg/all_images/metadata/1-m0.avro": f"bounds of {gone}",
        "note.txt": f"{gone}.bak\n",
        "runs/" + R2 + "/train.json": json.dumps({"skipped": {gone: "gone", stays: "gone"}, "error": f"cannot read {gone}: 404"}),
    }  # fmt: skip
    for name, text in files.items():
        STORAGE.write(f"{lake}/{name}", text.encode())
    result = work.forget(tending(lake), Chosen(uris=frozenset({gone})))
    assert result.traces.unsearched == [f"{lake}/iceberg/all_images/metadata/1-m0.avro"]

    def left(name: str) -> str | None:
        path = Path(lake, name)
        return path.read_text() if path.exists() else None

    assert [task["data"]["uri"] for task in json.loads(left("review.json") or "")] == [stays]
    assert json.loads(left("out/annotations.json") or "") == {
        "images": [{"id": 8, "file_name": f"{stem(stays)}.jpg"}],
        "annotations": [{"id": 2, "image_id": 8}],
        "categories": [{"id": 7, "name": "dog"}],
    }
    assert left("out/images.csv") == f"file,uri\n{stem(stays)},{stays}\n"
    assert left(f"out/labels/{stem(gone)}.txt") is left(f"out/images/{stem(gone)}.png") is None
    assert left("gallery/index.html") is None
    for name in (f"out/labels/{stem(stays)}.txt", "gallery/other.html", "note.txt"):
        assert left(name) == files[name]
    assert json.loads(left(f"runs/{R2}/train.json") or "") == {
        "skipped": {stays: "gone"},
        "error": "cannot read (forgotten): 404",
    }


def test_a_photo_in_the_lakes_folder_stays(tmp_path: Path) -> None:
    lake = str(tmp_path / "lake")
    small_parts(lake)
    photo = Path(lake, "photos", "1.jpg")
    photo.parent.mkdir()
    photo.write_bytes(b"jpeg")
    Path(lake, "list.txt").write_text(f"{photo}\n/elsewhere.jpg\n")
    result = work.forget(tending(lake), Chosen(uris=frozenset({str(photo)})))
    assert result.traces.photos == [str(photo)]
    assert photo.read_bytes() == b"jpeg"
    assert Path(lake, "list.txt").read_text() == "/elsewhere.jpg\n"


def trained(lake: str, run: str, day: int, model: str | None, origin: str, **fields: Any) -> None:
    """The record of a training from the labels of that day."""
    as_of = WHEN + datetime.timedelta(days=day, hours=1)
    made = TrainingRecord(
        run=run, lake=lake, command=[], options={}, versions={}, state="complete",
        start={"from": origin}, data={"as_of": as_of.isoformat()}, model=model,
    )  # fmt: skip
    training.save(replace(made, **fields), STORAGE)


def test_models_that_learnt_from_them_are_named(lake: str) -> None:
    trained(lake, "20261110T000000-000001", -1, "early@1", "demo@0")
    trained(lake, "20261111T000000-000002", 0, "first@2", "demo@0")
    trained(lake, "20261112T000000-000003", -1, "second@3", "first@2")
    trained(lake, "20261113T000000-000004", 2, None, "demo@0")
    STORAGE.write(f"{lake}/runs/20261114T000000-000005/train.json", b"{")
    result = work.forget(tending(lake), Chosen(uris=frozenset({uri_of(2)})))
    named = [(entry.model, entry.learnt_from, entry.begun_with) for entry in result.models]
    assert named == [("first@2", 1, None), ("second@3", 0, "first@2"), (None, 1, None)]
    assert len(result.problems) == 1


def test_a_training_at_work_on_them_is_waited_for(lake: str) -> None:
    run = "20261111T000000-000002"
    trained(lake, run, 0, None, "demo@0", state="running", host="elsewhere")
    with pytest.raises(AtWorkError, match=f"training {run}: is at work and learns from these images"):
        work.forget(tending(lake), CHOSEN)
    trained(lake, run, 0, None, "demo@0", state="stopped")
    [entry] = work.forget(tending(lake), CHOSEN).models
    assert (entry.training, entry.state, entry.model, entry.at_work) == (run, "stopped", None, False)


class KilledError(BaseException):
    """The process ends here."""


AMID = [("part put in place", 4), ("old part removed", 4), ("trace removed", 2)]
STEPS = [(point, 2 if point == "finished" else 1) for point in POINTS] + AMID
QUICK = {
    (point, 1) for point in ("part staged", "committed", "part put in place", "traces removed", "retired")
}


@pytest.mark.parametrize(("point", "times"), some_slow(STEPS, QUICK))
def test_killed_at_each_step_the_next_call_forgets_all(lake: str, point: str, times: int) -> None:
    reached = []

    def kill(here: str) -> None:
        reached.append(here)
        if here == point and reached.count(point) == times:
            raise KilledError

    with pytest.raises(KilledError), on_reach(kill):
        work.forget(tending(lake), CHOSEN)
    committed = POINTS.index(point) >= POINTS.index("committed")
    assert by_dataset(lake, STORAGE) == (LEFT if committed else (56, 55))
    in_place = POINTS.index(point) >= POINTS.index("retired")
    if in_place:
        with pytest.raises(UserError, match="holds nothing of these images"):
            work.forget(tending(lake), CHOSEN)
    else:
        result = work.forget(tending(lake), CHOSEN)
        assert result.earlier.command == ("forget" if committed else None)
        report = result.earlier.forgotten if committed else result
        assert report is not None
        assert (set(report.images), report.image_rows) == (GONE, 4)
    assert leftovers(lake) == []
    assert by_dataset(lake, STORAGE) == by_read_table(lake, STORAGE) == LEFT
    assert not list(Path(lake, "replacing").rglob("*.parquet"))


@pytest.mark.parametrize(
    "killed_at", some_slow([None, "traces removed", "committed", "part put in place"], {None, "committed"})
)
def test_rows_that_come_in_meanwhile_are_forgotten_too(lake: str, killed_at: str | None) -> None:
    reached: list[str] = []

    def run_ends(point: str) -> None:
        reached.append(point)
        if point == "all in place" and reached.count(point) == 1:
            run_with_parts(lake, "20261106T000000-ffffff", STORAGE, parts=2)
        if point == killed_at and "all in place" in reached:
            raise KilledError

    with on_reach(run_ends), contextlib.suppress(KilledError):
        work.forget(tending(lake), CHOSEN)
    assert reached.count("all in place") == (2 if killed_at is None else 1)
    if killed_at is not None:
        work.compact(tending(lake), 10**7)  # which finishes it first
    assert leftovers(lake) == []
    assert by_dataset(lake, STORAGE) == (LEFT[0] + 8 - 2, LEFT[1] + 7 - 4)


def nobody(pid: int) -> bool:
    return False


def begin(lake: str, run: str) -> list[int]:
    """What a driver does first that resumes a run: the image_ids that it gives out. Its process stays at work."""
    require_untouched(lake, run, STORAGE)
    folder = RunFolder(lake, run, STORAGE)
    record = folder.load()
    attempt = folder.take_attempt(record.attempt + 1, nobody)
    folder.save(replace(record, state="running", attempt=attempt, updated_at=now(), host="elsewhere"))
    heed(folder, record.forgets)
    todo = packets(Manifest(folder.manifest_uri, STORAGE), folder, attempt, 100)
    return [i for packet in todo for i in packet["image_id"].to_pylist()]


def stop(lake: str, run: str) -> None:
    folder = RunFolder(lake, run, STORAGE)
    folder.save(replace(folder.load(), state="stopped"))


@pytest.fixture
def undone(lake: str) -> str:
    """A stopped run of the images of R1 that has still to do its last four, 8 to 11."""
    run = "20261104T000000-dddddd"
    run_with_parts(lake, run, STORAGE, parts=3, state="stopped")
    folder = RunFolder(lake, run, STORAGE)
    last = max(Path(folder.table_uri("images")).iterdir())
    Path(folder.table_uri("instances"), last.name).unlink()
    last.unlink()
    return run


NINE = Chosen(uris=frozenset({uri_of(9)}))


def test_a_run_that_is_resumed_in_the_grace_leaves_it_out(lake: str, undone: str) -> None:
    assert work.forget(tending(lake, 3600), NINE, wait=False).waits_s
    assert begin(lake, undone) == [8, 10, 11]
    finish_at_once(lake)
    assert work.compact(tending(lake), 10**7).earlier.command == "forget"
    assert leftovers(lake, set(NINE.uris)) == []
    assert verify(RunFolder(lake, undone, STORAGE), 12, 2).missing == 3


def finish_at_once(lake: str) -> None:
    """Let the grace of committed work be over."""
    state = tending(lake).state()
    assert state.current is not None
    assert replace(state, current=replace(state.current, grace_s=0.0)).save(lake, STORAGE)


@pytest.mark.parametrize(
    "point",
    some_slow(["begun", "all staged", "committed", "waited", "all in place"], {"all staged", "committed"}),
)
def test_a_run_that_is_resumed_at_any_step_does_not_bring_it_back(lake: str, undone: str, point: str) -> None:
    seen: list[int] = []

    def resume(here: str) -> None:
        if here == point and not seen:
            seen.extend(begin(lake, undone))

    with on_reach(resume):
        try:
            work.forget(tending(lake), NINE)
            refused = False
        except UserError as error:
            assert "is at work and would write rows of these images again" in str(error)
            refused = True
    assert refused == (
        9 in seen
    )  # before the commit it could not know, and forget does not say that it is done
    if refused:
        stop(lake, undone)
        work.compact(tending(lake), 10**7)
        assert 9 not in begin(lake, undone)
    assert leftovers(lake, set(NINE.uris)) == []


def test_a_new_run_that_began_before_leaves_it_out_and_a_later_one_takes_it(tmp_path: Path) -> None:
    photos, lake = tmp_path / "photos", str(tmp_path / "lake")
    fill(photos, 6)
    gone = str(photos / "00003.png")
    LakeBuilder(lake).labels([label_row(gone, "dog")])

    def listed(planned: Planned, run: str) -> list[str]:
        folder = RunFolder(lake, run, STORAGE)
        folder.save(planned_job.record)
        planned.forgotten = heed(folder, planned.forgets)
        list(planned.write())
        return [
            Path(u).name
            for part in Manifest(folder.manifest_uri, STORAGE).parts()
            for u in part["uri"].to_pylist()
        ]

    planned_job = make_job(str(photos), lake)
    earlier = Planned(planned_job)
    work.forget(tending(lake), Chosen(uris=frozenset({gone})))
    assert listed(earlier, planned_job.record.run) == [f"{n:05d}.png" for n in (0, 1, 2, 4, 5)]
    assert earlier.totals.left_out == {FORGOTTEN: 1}
    planned_job = make_job(str(photos), lake)
    later = Planned(planned_job)
    assert listed(later, planned_job.record.run) == [f"{n:05d}.png" for n in range(6)]


def test_an_import_that_began_before_leaves_its_labels_out(lake: str) -> None:
    sets = label_store.newest(Lake(lake, STORAGE))
    opened, before = Lake(lake, STORAGE), forgets_done(lake, STORAGE)
    work.forget(tending(lake), CHOSEN)
    added = label_store.add(opened, sets, [], forgets=before)
    assert (added.new, added.forgotten) == (4, 2)
    assert leftovers(lake) == []
    assert label_store.add(Lake(lake, STORAGE), sets, []).new == 6  # one that begins now may


def test_an_import_that_is_written_at_the_same_moment_says_so(
    lake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets, write = label_store.newest(Lake(lake, STORAGE)), label_store._write

    def overtaken(*arguments: object) -> str:
        work.forget(tending(lake), CHOSEN)
        return write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(label_store, "_write", overtaken)
    with pytest.raises(UserError, match="call that forget again"):
        label_store.add(Lake(lake, STORAGE), sets, [])
    work.forget(tending(lake), CHOSEN)
    assert leftovers(lake) == []


def test_a_compaction_that_lost_its_lock_brings_nothing_back(lake: str) -> None:
    reached: list[str] = []

    def overtake(point: str) -> None:
        reached.append(point)
        if point == "all staged" and len(reached) == reached.index(point) + 1:
            work.forget(tending(lake), CHOSEN)

    with on_reach(overtake), pytest.raises(UserError, match="another process changed it"):
        work.compact(tending(lake), 10**7)
    assert set(counts(lake).values()) == {LEFT}
    work.compact(tending(lake), 10**7)
    assert leftovers(lake) == []
    assert set(counts(lake).values()) == {LEFT}


@pytest.mark.parametrize("run", [R1, STOPPED])
def test_a_worker_that_outlived_its_driver_commits_nothing_more(lake: str, run: str) -> None:
    work.forget(tending(lake), CHOSEN)
    work.forget(tending(lake), Chosen(uris=frozenset({uri_of(0), uri_of(50)})))
    assert RunFolder(lake, run, STORAGE).superseded(1)
    assert not RunFolder(lake, run, STORAGE).superseded(2)  # one claim for nobody is enough
    assert (
        RunFolder(lake, STOPPED, STORAGE).take_attempt(2, process_alive) == 3
    )  # and a resume is not in anybody's way


def test_a_run_that_is_forgotten_while_it_is_resumed_does_not_come_back(lake: str) -> None:
    folder = RunFolder(lake, STOPPED, STORAGE)
    record = folder.load()
    work.forget(tending(lake), Chosen(uris=frozenset(), run=STOPPED))
    assert folder.superseded(1)
    folder.save(replace(record, attempt=folder.take_attempt(2, lambda _: False)))
    with pytest.raises(UserError, match="was forgotten"):
        heed(folder, record.forgets)
    assert STOPPED not in Lake(lake, STORAGE).run_ids()


def test_digests_do_not_name_what_is_forgotten(lake: str) -> None:
    work.forget(tending(lake), Chosen(uris=frozenset({uri_of(2)}), folders=("s3://p/b/",)))
    forgotten, forgets = ForgottenSince.load(lake, STORAGE, 0)
    assert (forgets, forgotten.has(uri_of(2)), forgotten.has("s3://p/b/new/x.jpg")) == (1, True, True)
    assert not any(map(forgotten.has, (uri_of(4), "s3://p/bb/1.jpg", "s3://p/b")))
    assert not ForgottenSince.load(lake, STORAGE, 1)[0]
