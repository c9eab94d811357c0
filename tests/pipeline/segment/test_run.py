"""Whole runs on a real Ray, over a folder with every kind of broken image, resumed, doubled, overtaken."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from masklake.jobs.cluster.cluster import ray_cluster
from masklake.jobs.demo.loopback_s3 import LoopbackS3
from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.lake.run_record import RunFolder, RunRecord, SupersededError
from masklake.pipeline.segment import manifest as manifest_module
from masklake.pipeline.segment import run as run_module
from masklake.pipeline.segment.job import Progress
from masklake.pipeline.segment.listing import Listing
from masklake.pipeline.segment.local_engine import LocalEngine
from masklake.pipeline.segment.planned import Planned
from masklake.pipeline.segment.ray_engine import RayEngine
from masklake.pipeline.segment.resources import Resources
from masklake.pipeline.segment.run import run
from masklake.pipeline.segment.write import write
from masklake.pipeline.storage.objects import ObjectInfo
from masklake.pipeline.storage.store import Storage

from tests.conftest import Bucket
from tests.helpers.images import png_bomb, solid
from tests.helpers.predictors import ContentPredictor
from tests.helpers.runs import (
    SMALL,
    SlowCommits,
    assert_exactly_once,
    execute,
    fill,
    make_job,
    part_names,
    resume_job,
    table,
)

BROKEN = {
    "cut.jpg": (solid((1, 2, 3), (64, 64), "JPEG")[:400], "unreadable"),
    "empty.png": (b"", "unreadable"),
    "text.jpg": (b"this is no image", "unsupported"),
    "bomb.png": (png_bomb(30_000, 30_000), "too_large"),
    "magic.webp": (b"RIFF\x10\0\0\0WEBPVP8 junk", "unreadable"),
    "large.bmp": (b"BM" + bytes(1_000_001), "too_large"),
    "no suffix": (solid((1, 0, 0)), "ok"),
    "hostile '; drop table images; --\n%41+é🖼.png": (solid((2, 0, 0)), "ok"),
}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with ray_cluster(None, 0):
        yield


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    fill(folder, 40)
    return folder


@pytest.fixture
def lake(tmp_path: Path) -> str:
    return str(tmp_path / "lake")


def _uris(folder: Path) -> list[str]:
    return [str(path) for path in sorted(folder.rglob("*")) if path.is_file()]


def _done(result: tuple[RunRecord, Progress]) -> RunRecord:
    record, _ = result
    assert (record.state, record.error) == ("complete", None)
    return record


def _loaded(lake: str, run_id: str) -> RunRecord:
    return RunFolder(lake, run_id, Storage()).load()


def _crashed(lake: str, run_id: str) -> None:
    """The record as a driver leaves it that was killed an hour ago."""
    folder = RunFolder(lake, run_id, Storage())
    folder.save(replace(folder.load(), state="running", updated_at="2026-01-01T00:00:00+00:00"))


def test_every_image_gets_its_row(tmp_path: Path, lake: str) -> None:
    folder = tmp_path / "photos"
    fill(folder, 60)
    (folder / "deep" / "er").mkdir(parents=True)
    for i, (name, (data, _)) in enumerate(BROKEN.items()):
        (folder / ("deep/er" if i % 2 else "") / name).write_bytes(data)
    (folder / "notes.md").write_text("left out: it does not look like an image")
    uris = [uri for uri in _uris(folder) if not uri.endswith(".md")]
    job = make_job(str(folder), lake)
    record = _done(execute(job))
    counts = assert_exactly_once(lake, record.run, uris)
    assert counts == record.counts == {"ok": 62, "unreadable": 3, "unsupported": 1, "too_large": 2}
    rows = {row["uri"]: row for row in table(lake, "images", record.run).to_pylist()}
    for uri, row in rows.items():
        name = uri.removeprefix(f"{folder}/").removeprefix("deep/er/")
        assert row["status"] == (BROKEN[name][1] if name in BROKEN else "ok")
        assert row["model"] == "content@0123456789ab"
        assert row["size_bytes"] == Path(uri).stat().st_size
        assert row["etag"]
    assert rows[f"{folder}/deep/er/bomb.png"]["width"] == 30_000
    assert record.instances == table(lake, "instances", record.run).num_rows > 60
    assert record.verification == {"images": 68, "missing": 0, "doubled": 0, "mismatched": 0, "forgotten": 0}
    assert record.manifest["images"] == 68
    assert record.manifest["ignored"] == 1
    assert _loaded(lake, record.run) == record


def test_both_engines_write_the_same_rows(photos: Path, lake: str) -> None:
    for name, (data, _) in BROKEN.items():
        (photos / name).write_bytes(data)
    rows: dict[str, list[Any]] = {}
    for engine in (RayEngine, LocalEngine):
        record = _done(execute(make_job(str(photos), lake, redo_all=True), SMALL, engine))
        assert record.engine == _loaded(lake, record.run).engine == engine.name
        assert_exactly_once(lake, record.run, _uris(photos))
        assert set(record.stages) == {"fetch", "decode", "infer", "encode", "write"}
        assert all(figures["images"] == 48 for figures in record.stages.values())
        assert record.stages["fetch"]["bytes"] > 0
        for name, keys in (("images", ["image_id"]), ("instances", ["image_id", "instance"])):
            written = table(lake, name, record.run).sort_by([(key, "ascending") for key in keys])
            changing = [c for c in ("run", "processed_at") if c in written.schema.names]
            rows.setdefault(name, []).append(written.drop_columns(changing))
    assert rows["images"][0].equals(rows["images"][1])
    assert rows["instances"][0].equals(rows["instances"][1])
    assert len(rows["instances"][0]) > 40


@pytest.mark.slow
def test_any_number_of_images(tmp_path: Path, lake: str) -> None:
    """Fewer than a packet, one more than a packet, one more than a commit."""
    for n in (1, 5, 9):
        fill(tmp_path / str(n), n)
        record = _done(execute(make_job(str(tmp_path / str(n)), lake)))
        assert_exactly_once(lake, record.run, _uris(tmp_path / str(n)))


@pytest.mark.slow
def test_nothing_but_failures(tmp_path: Path, lake: str) -> None:
    for i in range(10):
        (tmp_path / f"{i}.jpg").write_bytes(b"no image")
    record = _done(execute(make_job(f"{tmp_path}/*.jpg", lake)))
    assert record.counts == {"unsupported": 10}
    assert table(lake, "instances", record.run).num_rows == 0


def test_an_empty_source_is_a_mistake(tmp_path: Path, lake: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no images"):
        Planned(make_job(str(tmp_path / "empty"), lake))
    (tmp_path / "empty" / "notes.md").touch()
    with pytest.raises(UserError, match="1 object there, not named as images are"):
        Planned(make_job(str(tmp_path / "empty"), lake))
    assert not Path(lake).exists()


# ---- incremental runs ----


def test_a_second_run_has_nothing_to_do(photos: Path, lake: str) -> None:
    (photos / "broken.jpg").write_bytes(b"no image")
    _done(execute(make_job(str(photos), lake)))
    planned = Planned(make_job(str(photos), lake))
    assert planned.first is None
    assert planned.totals.covered == 41
    assert len(Lake(lake, Storage()).run_ids()) == 1


def test_only_what_is_new_or_changed_or_unsettled_is_done(photos: Path, lake: str) -> None:
    source = photos.parent / "list.txt"
    gone = photos / "99999.png"
    source.write_text("\n".join([*_uris(photos), str(gone)]))
    first = _done(execute(make_job(str(source), lake)))
    assert first.counts == {"ok": 40, "missing": 1}
    changed, new = photos / "00007.png", photos / "00040.png"
    changed.write_bytes(solid((3, 0, 0), (9, 9)))
    os.utime(changed, (1, 1))
    fill(photos, 1, 40)
    gone.write_bytes(solid((3, 3, 3)))
    source.write_text("\n".join([*_uris(photos)]))
    second = _done(execute(make_job(str(source), lake)))
    assert second.counts == {"ok": 3}
    assert set(table(lake, "images", second.run)["uri"].to_pylist()) == {str(changed), str(gone), str(new)}
    assert second.manifest["covered"] == 39


@pytest.mark.slow
def test_other_options_another_model_and_all_redo_everything(photos: Path, lake: str) -> None:
    _done(execute(make_job(str(photos), lake)))
    other = make_job(str(photos), lake)
    model = {**other.record.model, "fingerprint": "ffffffffffff"}
    for job in (
        make_job(str(photos), lake, options={"score": 0.5}),
        make_job(str(photos), lake, redo_all=True),
        replace(other, record=replace(other.record, model=model)),
    ):
        planned = Planned(job)
        assert sum(1 for _ in planned.objects()) == 40
        assert planned.totals.covered == 0


@pytest.mark.slow
def test_an_unfinished_run_covers_nothing(photos: Path, lake: str) -> None:
    record = _done(execute(make_job(str(photos), lake)))
    _crashed(lake, record.run)
    assert sum(1 for _ in Planned(make_job(str(photos), lake)).objects()) == 40


@pytest.mark.slow
def test_limit(photos: Path, lake: str) -> None:
    first = _done(execute(make_job(str(photos), lake, limit=10)))
    assert_exactly_once(lake, first.run, _uris(photos)[:10])
    second = _done(execute(make_job(str(photos), lake, limit=10)))
    assert_exactly_once(lake, second.run, _uris(photos)[10:20])
    third = _done(execute(make_job(str(photos), lake, limit=100)))
    assert_exactly_once(lake, third.run, _uris(photos)[20:])


# ---- resuming ----


def _undo(lake: str, run_id: str, *, keep: int, orphan: bool = False) -> None:
    """Make a finished run one that was killed: only `keep` of its commits are left."""
    for name in sorted(part_names(lake, "images", run_id))[keep:]:
        Path(lake, "images", f"run={run_id}", name).unlink()
        if not orphan:
            Path(lake, "instances", f"run={run_id}", name).unlink()
    _crashed(lake, run_id)


_SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("keep", "orphan"),
    [
        (2, True),
        pytest.param(2, False, marks=_SLOW),
        pytest.param(0, True, marks=_SLOW),
        pytest.param(0, False, marks=_SLOW),
        pytest.param(100, False, marks=_SLOW),
    ],
)
def test_resume_does_what_is_left(photos: Path, lake: str, keep: int, orphan: bool) -> None:
    """Down to nothing: a driver killed between its last commit and the proof."""
    first = _done(execute(make_job(str(photos), lake)))
    kept_parts = sorted(part_names(lake, "images", first.run))[:keep]
    _undo(lake, first.run, keep=keep, orphan=orphan)
    kept = table(lake, "images", first.run).num_rows if kept_parts else 0
    record, progress = execute(resume_job(lake, first.run))
    assert (record.state, record.attempt, progress.skipped) == ("complete", 2, kept)
    assert_exactly_once(lake, first.run, _uris(photos))
    assert set(kept_parts) <= part_names(lake, "images", first.run)
    assert progress.snapshot["counts"].get("ok", 0) == 40 - kept
    assert record.counts == {"ok": 40}


@pytest.mark.slow
def test_resume_goes_on_listing(photos: Path, lake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while it was listing: the manifest has some parts and no end."""
    monkeypatch.setattr(manifest_module, "_FIRST_PART", 4)
    first = _done(execute(make_job(str(photos), lake)))
    manifest = Path(lake, "runs", first.run, "manifest")
    (manifest / "complete.json").unlink()
    for part in sorted(manifest.glob("part-*"))[2:]:
        part.unlink()
    for table_ in ("images", "instances"):
        for name in sorted(part_names(lake, table_, first.run))[1:]:
            Path(lake, table_, f"run={first.run}", name).unlink()
    _crashed(lake, first.run)
    record = _done(execute(resume_job(lake, first.run)))
    assert_exactly_once(lake, first.run, _uris(photos))
    assert record.manifest["complete"]


def test_a_resumed_listing_still_skips_what_is_covered(
    photos: Path, lake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest_module, "_FIRST_PART", 4)
    _done(execute(make_job(str(photos), lake, limit=30)))
    fill(photos.parent / "more", 8, 100)
    for file in (photos.parent / "more").iterdir():
        file.rename(photos / f"00000-{file.name}")  # sorts among the covered ones
    job = make_job(str(photos), lake)
    folder = RunFolder(lake, job.record.run, Storage())
    folder.take_attempt(1, lambda pid: False)
    folder.save(job.record)
    next(Planned(job).write())  # killed after the manifest's first part
    _crashed(lake, job.record.run)
    record = _done(execute(resume_job(lake, job.record.run)))
    assert record.counts == {"ok": 18}


@pytest.mark.slow
def test_a_resumed_run_keeps_its_limit(photos: Path, lake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_module, "_FIRST_PART", 4)
    job = make_job(str(photos), lake, limit=10)
    folder = RunFolder(lake, job.record.run, Storage())
    folder.take_attempt(1, lambda pid: False)
    folder.save(job.record)
    next(Planned(job).write())
    _crashed(lake, job.record.run)
    _done(execute(resume_job(lake, job.record.run)))
    assert_exactly_once(lake, job.record.run, _uris(photos)[:10])


@pytest.mark.slow
def test_a_complete_run_is_not_resumed(photos: Path, lake: str) -> None:
    record = _done(execute(make_job(str(photos), lake)))
    job = resume_job(lake, record.run)
    with pytest.raises(UserError, match="complete"):
        run(job, Planned(job), SMALL, lambda progress: None)


def test_a_manifest_of_two_drivers_is_refused(photos: Path, lake: str) -> None:
    """Image ids must go on meaning the images that rows in the lake have them for."""
    job = make_job(str(photos), lake)
    first, second = Planned(job), Planned(job)
    for _ in first.write():
        pass
    with pytest.raises(UserError, match="another process"):
        list(second.write())


def test_of_two_resumes_at_once_one_wins(photos: Path, lake: str) -> None:
    first = _done(execute(make_job(str(photos), lake)))
    _undo(lake, first.run, keep=1)
    jobs = [resume_job(lake, first.run) for _ in range(2)]
    folder = RunFolder(lake, first.run, Storage())
    folder.take_attempt(2, lambda pid: True)
    attempt = Path(lake, "runs", first.run, "attempts", "000002.json")
    owner = json.loads(attempt.read_text())
    attempt.write_text(json.dumps({**owner, "host": "elsewhere"}))  # this process would be taken for dead
    before = sorted(Path(lake).rglob("*"))
    with pytest.raises(UserError, match="attempt 2 was just taken by process"):
        run(jobs[1], Planned(jobs[1]), SMALL, lambda progress: None)
    assert sorted(Path(lake).rglob("*")) == before


@pytest.mark.slow
def test_a_straggler_that_commits_after_the_next_attempt_has_looked(photos: Path, lake: str) -> None:
    """Parts of the killed attempt appear while the next one is at work on the same images."""
    first = _done(execute(make_job(str(photos), lake)))
    parts = [p for t in ("instances", "images") for p in sorted(Path(lake, t, f"run={first.run}").iterdir())]
    late = [(part, part.read_bytes()) for part in parts]
    _undo(lake, first.run, keep=1)
    job = resume_job(lake, first.run, seconds=0.1)
    came = threading.Event()

    def watch(progress: Progress) -> None:
        if not came.is_set() and len(part_names(lake, "images", first.run)) > 1:
            for part, data in late:
                part.write_bytes(data)
            came.set()

    record, _ = run(job, Planned(job), SMALL, watch)
    assert came.is_set()
    assert (record.state, record.attempt) == ("complete", 2)
    assert record.verification == {"images": 40, "missing": 0, "doubled": 32, "mismatched": 0, "forgotten": 0}
    assert record.counts == {"ok": 40}
    assert_exactly_once(lake, first.run, _uris(photos))


# ---- ends ----


@pytest.mark.slow
def test_a_superseded_attempt_stops(tmp_path: Path, lake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frozen, then overtaken, then awake again: it writes nothing more, neither rows nor its record."""
    monkeypatch.setattr(run_module, "HEARTBEAT_S", 0.5)
    fill(tmp_path / "photos", 200)
    job = make_job(str(tmp_path / "photos"), lake, seconds=0.1)
    folder = RunFolder(lake, job.record.run, Storage())
    taken = threading.Event()

    def watch(progress: Progress) -> None:
        if not taken.is_set() and folder.storage.list(folder.table_uri("images")):
            folder.take_attempt(2, lambda pid: True)
            folder.save(replace(job.record, attempt=2, pid=-1))
            taken.set()

    record, _ = run(job, Planned(job), SMALL, watch)
    assert (record.state, record.error) == ("stopped", "a later attempt took over")
    assert _loaded(lake, job.record.run).pid == -1
    count = len(part_names(lake, "images", job.record.run))
    assert 0 < count < 200 / 8
    time.sleep(2)
    assert len(part_names(lake, "images", job.record.run)) == count


def test_a_straggler_of_a_superseded_attempt_cannot_commit(lake: str) -> None:
    from tests.pipeline.segment.test_write import MODEL, _encoded

    folder = RunFolder(lake, "20261122T235416-3fa9c1", Storage())
    rows = _encoded(solid((3, 0, 0)))
    folder.take_attempt(1, lambda pid: True)
    write(rows, folder, 1, MODEL)
    folder.take_attempt(2, lambda pid: True)
    with pytest.raises(SupersededError):
        write(rows.slice(0, 1), folder, 1, MODEL)
    write(rows, folder, 2, MODEL)
    assert len(part_names(lake, "images", folder.run)) == 2


@pytest.mark.parametrize("signal_", [pytest.param(signal.SIGINT, marks=_SLOW), signal.SIGTERM])
def test_a_signal_stops_the_run_and_resume_finishes_it(photos: Path, lake: str, signal_: int) -> None:
    job = make_job(str(photos), lake, seconds=0.1)
    folder = RunFolder(lake, job.record.run, Storage())
    sent = threading.Event()

    def watch(progress: Progress) -> None:
        if folder.storage.list(folder.table_uri("images")) and not sent.is_set():
            sent.set()
            os.kill(os.getpid(), signal_)

    # where the tests run in the background of a script, SIGINT is ignored from the start
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        record, _ = run(job, Planned(job), SMALL, watch)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (record.state, record.error) == ("stopped", None)
    assert record.finished_at is not None
    count = len(part_names(lake, "images", record.run))
    assert sum(record.counts.values()) == table(lake, "images", record.run).num_rows < 40
    time.sleep(2)
    assert len(part_names(lake, "images", record.run)) == count, "the stages went on after the run had ended"
    resumed, progress = execute(resume_job(lake, record.run))
    assert resumed.state == "complete"
    assert progress.skipped > 0
    assert_exactly_once(lake, record.run, _uris(photos))


@pytest.mark.slow
def test_a_part_that_is_being_written_at_the_end_is_counted(photos: Path, lake: str) -> None:
    """Ray Data cancels tasks and waits for none: the run awaits its writes, and begins no more."""
    job = replace(make_job(str(photos), lake), storage=SlowCommits())
    folder = RunFolder(lake, job.record.run, Storage())
    sent = threading.Event()

    def watch(progress: Progress) -> None:
        begun, committed = (len(folder.storage.list(folder.table_uri(t))) for t in ("instances", "images"))
        if begun > committed and not sent.is_set():
            sent.set()
            os.kill(os.getpid(), signal.SIGTERM)

    record, _ = run(job, Planned(job), SMALL, watch)
    assert record.state == "stopped"
    rows = table(lake, "images", record.run).num_rows
    assert 0 < sum(record.counts.values()) == rows < 40
    time.sleep(3)
    assert table(lake, "images", record.run).num_rows == rows
    assert execute(resume_job(lake, record.run))[0].state == "complete"
    assert_exactly_once(lake, record.run, _uris(photos))


def test_the_first_ctrl_c_keeps_what_is_done(photos: Path, lake: str) -> None:
    """No part is full when it comes: what the predictors have done is written all the same, and nothing is begun."""
    job = make_job(str(photos), lake, seconds=0.2)
    seen: list[int] = []

    def watch(progress: Progress) -> None:
        done = int(progress.snapshot.get("stages", {}).get("infer", {}).get("images", 0))
        if done and not progress.stopping:
            seen.append(done)
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        record, progress = run(job, Planned(job), replace(SMALL, commit_images=1000), watch)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (record.state, record.error, progress.stopping) == ("stopped", None, True)
    assert len(seen) == 1
    assert seen[0] <= sum(record.counts.values()) == table(lake, "images", record.run).num_rows < 40
    resumed, progress = execute(resume_job(lake, record.run))
    assert resumed.state == "complete"
    assert progress.skipped == sum(record.counts.values())
    assert_exactly_once(lake, record.run, _uris(photos))


@pytest.mark.slow
def test_a_listing_that_fails_ends_the_run(photos: Path, lake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_module, "_FIRST_PART", 8)
    listed = Listing.__iter__

    def fails(listing: Listing) -> Iterator[ObjectInfo]:
        yield from itertools.islice(listed(listing), 20)
        raise PermissionError("the key was revoked")

    monkeypatch.setattr(Listing, "__iter__", fails)
    record, _ = execute(make_job(str(photos), lake))
    assert record.state == "failed"
    assert record.error is not None
    assert str(photos) in record.error
    assert "permission denied" in record.error
    monkeypatch.setattr(Listing, "__iter__", listed)
    assert _loaded(lake, record.run) == record
    assert execute(resume_job(lake, record.run))[0].state == "complete"
    assert_exactly_once(lake, record.run, _uris(photos))


def test_a_listing_that_fails_in_the_background_of_a_script(
    photos: Path, lake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`masklake … &` in a shell script starts with SIGINT ignored; the failure must end the run all the same."""
    listed = Listing.__iter__

    def fails(listing: Listing) -> Iterator[ObjectInfo]:
        yield from itertools.islice(listed(listing), 1)
        raise OSError("no route")

    monkeypatch.setattr(Listing, "__iter__", fails)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        record, _ = execute(make_job(str(photos), lake))
    finally:
        signal.signal(signal.SIGINT, before)
    assert (record.state, "no route" in str(record.error)) == ("failed", True)


class Broken:
    """A predictor with a bug."""

    def predict(self, images: Any, frames: Any = None) -> list[Any]:
        raise ZeroDivisionError("a bug in the model")


class Unloadable:
    def __init__(self) -> None:
        raise UserError("weights.safetensors: is broken; fetch it again")


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        pytest.param(Broken, "ZeroDivisionError: a bug in the model", marks=_SLOW),
        (Unloadable, "weights.safetensors: is broken; fetch it again"),
    ],
)
def test_a_predictor_that_raises_fails_the_run_with_its_reason(
    photos: Path, lake: str, factory: Callable[[], Any], said: str
) -> None:
    record, _ = execute(replace(make_job(str(photos), lake), predictor=factory))
    assert (record.state, record.error) == ("failed", said)
    assert _loaded(lake, record.run).error == said
    resumed = resume_job(lake, record.run)
    assert execute(resumed)[0].state == "complete"
    assert_exactly_once(lake, record.run, _uris(photos))


@pytest.mark.slow
def test_rows_that_go_missing_make_the_run_incomplete(
    photos: Path, lake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the run's back, before its proof."""
    from masklake.pipeline.segment.proof import verify

    def lose(folder: RunFolder, n: int, attempt: int) -> Any:
        Path(sorted(folder.storage.list(folder.table_uri("images")))[0]).unlink()
        return verify(folder, n, attempt)

    monkeypatch.setattr(run_module, "verify", lose)
    record, _ = execute(make_job(str(photos), lake))
    assert record.state == "incomplete"
    assert record.verification is not None
    assert record.verification["missing"] == 8
    assert record.counts == {"ok": 32}
    monkeypatch.setattr(run_module, "verify", verify)
    assert execute(resume_job(lake, record.run))[0].state == "complete"
    assert_exactly_once(lake, record.run, _uris(photos))


def test_a_lake_that_cannot_be_written(
    s3_bucket: Bucket, use_s3: Callable[[LoopbackS3], None], photos: Path
) -> None:
    s3_bucket.allow_guest("s3:ListBucket", "s3:GetObject")
    use_s3(s3_bucket.guest)
    job = make_job(str(photos), f"{s3_bucket.uri}/lake")
    with pytest.raises(UserError, match=r"cannot write to the lake.*s3:PutObject"):
        execute(job)
    assert s3_bucket.all_keys() == []


def test_a_lake_that_is_a_file(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "lake").write_text("a file")
    with pytest.raises(UserError, match="cannot"):
        execute(make_job(str(photos), str(tmp_path / "lake")))


@pytest.mark.slow
def test_images_that_vanish_after_they_were_listed(
    photos: Path, lake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = Listing.__iter__

    def then_delete(listing: Listing) -> Iterator[ObjectInfo]:
        for info in listed(listing):
            if info.uri.endswith("3.png"):
                Path(info.uri).unlink()
            yield info

    monkeypatch.setattr(Listing, "__iter__", then_delete)
    uris = _uris(photos)
    record = _done(execute(make_job(str(photos), lake)))
    assert assert_exactly_once(lake, record.run, uris) == {"ok": 36, "missing": 4}


@pytest.mark.slow
def test_heartbeats(photos: Path, lake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it runs the record in the lake says so, with counts that grow; a storage that fails now and then
    does not matter."""
    monkeypatch.setattr(run_module, "HEARTBEAT_S", 0.5)
    save, saved = RunFolder.save, []

    def flaky(folder: RunFolder, record: RunRecord) -> None:
        saved.append(record)
        if len(saved) == 3:
            raise OSError("503 SlowDown")
        save(folder, record)

    monkeypatch.setattr(RunFolder, "save", flaky)
    record = _done(execute(make_job(str(photos), lake, seconds=0.1)))
    assert len(saved) > 4
    assert {r.state for r in saved[:-1]} == {"running"}
    totals = [sum(r.counts.values()) for r in saved]
    assert totals == sorted(totals)
    assert saved[-1] == record


@pytest.mark.slow
def test_a_progress_display_that_fails_does_not_stop_the_run(photos: Path, lake: str) -> None:
    def watch(progress: Progress) -> None:
        raise BrokenPipeError("the terminal went away")

    job = make_job(str(photos), lake)
    record, _ = run(job, Planned(job), SMALL, watch)
    assert record.state == "complete"


@pytest.mark.slow
def test_the_predictor_of_these_tests_is_deterministic(photos: Path, lake: str) -> None:
    """Two runs write the same rows, whatever the packets: what parity of resumed runs rests on."""
    runs = [
        _done(execute(make_job(str(photos), lake, redo_all=True), resources)).run
        for resources in (SMALL, Resources.fitted(2, 0, packet_images=7, commit_images=20))
    ]
    assert ContentPredictor() == ContentPredictor()
    instances = [
        sorted(
            table(lake, "instances", run_id).drop_columns(["run"]).to_pylist(),
            key=lambda row: (row["uri"], row["instance"]),
        )
        for run_id in runs
    ]
    assert json.dumps(instances[0]) == json.dumps(instances[1])
