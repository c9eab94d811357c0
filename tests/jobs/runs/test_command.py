"""`masklake runs` and `masklake run show`."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from masklake.pipeline.lake.lake import Lake, Run
from masklake.pipeline.lake.run_summary import RunSummary, moment
from masklake.pipeline.storage.store import Storage
from masklake.pipeline.train import record as training_record

from tests.helpers.lakes import LakeBuilder, image, instance, record
from tests.helpers.terminals import lines_without_styles, terminal
from tests.helpers.trainings import a_record

R1, R2, R3 = "20261101T000000-aaaaaa", "20261102T000000-bbbbbb", "20261103T000000-cccccc"
STAGES = {
    "fetch": {"images": 200, "seconds": 2.0, "cpu_seconds": 0.5, "bytes": 5_000_000},
    "infer": {"images": 200, "seconds": 8.0, "cpu_seconds": 16.0, "idle_seconds": 1.25},
}


@pytest.fixture
def builder(tmp_path: Path) -> LakeBuilder:
    return LakeBuilder(str(tmp_path / "lake"))


Masklake = Callable[..., tuple[int, str, str]]


def ago(seconds: float) -> str:
    return (datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds)).isoformat()


def test_runs_are_listed_newest_first_with_how_far_and_how_fast(
    builder: LakeBuilder, masklake: Masklake
) -> None:
    builder.record(R1, manifest={"images": 1500, "complete": True}, counts={"ok": 1490, "unreadable": 10},
                   instances=12_345, seconds=100.0)  # fmt: skip
    builder.record(R2, state="running", updated_at=ago(5), finished_at=None, counts={"ok": 40}, seconds=4.0,
                   manifest={"images": 80, "complete": False})  # fmt: skip
    code, out, _ = masklake("runs", builder.uri)
    assert code == 0
    _, _, newer, older = out.splitlines()
    assert newer.split() == [R2, "running", "demo@0123456789ab", "40", "/", "80+", "0", "0", "10.0", "2026-11-22",
                             "23:54:16", "4", "s"]  # fmt: skip
    assert older.split() == [R1, "complete", "demo@0123456789ab", "1,500", "/", "1,500", "10", "12,345", "15.0",
                             "2026-11-22", "23:54:16", "1", "min", "40", "s"]  # fmt: skip


def test_a_narrow_terminal_shows_the_states(
    builder: LakeBuilder, masklake: Masklake, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder.record(R1, manifest={"images": 1500, "complete": True}, counts={"ok": 1490, "unreadable": 10},
                   instances=12_345, seconds=100.0)  # fmt: skip
    terminal(monkeypatch, 60)
    heading, _, row, missing = lines_without_styles(masklake("runs", builder.uri)[1])
    assert heading.split() == ["run", "state", "images", "failures"]
    assert row.split() == [R1, "complete", "1,500", "/", "1,500", "10"]
    assert missing == "(too narrow for: started (UTC), images/s, took, model, instances; --json has all)"


def test_a_run_without_signs_of_life_is_doubted(builder: LakeBuilder, masklake: Masklake) -> None:
    builder.record(R1, state="running", updated_at=ago(3 * 3600 + 60), finished_at=None)
    builder.record(R2, state="running", updated_at=ago(60), finished_at=None)
    builder.record(R3, state="stopped", updated_at=ago(9999))
    _, out, _ = masklake("runs", builder.uri)
    states = {line.split()[0]: line.split()[1] for line in out.splitlines()[2:5]}
    assert states == {R1: "running?", R2: "running", R3: "stopped"}
    assert out.splitlines()[5] == f"{R1}: no sign of life for 3 h 01 min"
    _, out, _ = masklake("run", "show", builder.uri, R1)
    assert "no sign of life for 3 h 01 min" in out
    assert f"masklake segment s3://photos/ {builder.uri} --resume {R1}" in out
    _, out, _ = masklake("run", "show", builder.uri, R2)
    assert "--resume" not in out


@pytest.mark.parametrize(("seconds", "silent"), [(119.0, None), (121.0, 121.0)])
def test_two_minutes_make_the_difference(seconds: float, silent: float | None) -> None:
    run = Run(id=R1, record=record(R1, "lake", state="running"))
    now = moment(run.record.updated_at) + datetime.timedelta(seconds=seconds)  # type: ignore[union-attr, operator]  # both are given
    assert RunSummary.of(run, now).silent_s == silent


def test_json_lists_what_the_table_shows(builder: LakeBuilder, masklake: Masklake) -> None:
    builder.record(
        R1, manifest={"images": 4, "complete": True}, counts={"ok": 3, "missing": 1}, instances=7, seconds=2.0
    )
    builder.raw_record(R2, counts=None)
    code, out, _ = masklake("runs", builder.uri, "--json")
    assert code == 0
    broken, good = json.loads(out)
    assert (broken["run"], broken["state"], broken["images"]) == (R2, "unreadable", None)
    assert "counts is NoneType" in broken["problem"]
    assert good == {
        "run": R1, "kind": "segment", "state": "complete", "silent_seconds": None, "model": "demo@0123456789ab",
        "images": 4, "listed": True,
        "done": 4, "ok": 3, "failures": 1, "instances": 7, "images_per_second": 2.0, "seconds": 2.0, "problem": None,
        "created_at": "2026-11-22T23:54:16+00:00", "updated_at": "2026-11-22T23:55:16+00:00",
    }  # fmt: skip


def test_a_broken_record_is_named_and_the_others_are_listed(builder: LakeBuilder, masklake: Masklake) -> None:
    builder.record(R1)
    builder.storage.write(f"{builder.uri}/runs/{R2}/run.json", b"\x1b[31m{")
    builder.part(R3, {"s3://p/a": []})
    code, out, _ = masklake("runs", builder.uri)
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()[2:5]] == [
        [R3, "unreadable"],
        [R2, "unreadable"],
        [R1, "complete"],
    ]
    assert f"{R3}: it has no run.json" in out
    assert f"{R2}: {builder.uri}/runs/{R2}/run.json: is not JSON" in out
    code, out, _ = masklake("run", "show", builder.uri, R2)
    assert (code, "is not JSON" in out.replace("\n", " ")) == (0, True)


def test_a_run_is_shown_in_full(builder: LakeBuilder, masklake: Masklake) -> None:
    builder.part(R1, [
        (image("s3://p/a"), [instance("dog", 0.9)]),
        (image("s3://p/b", status="unreadable", error="truncated"), []),
        (image("s3://p/\x1b[31mc", status="unreadable", error="truncated"), []),
        (image("s3://p/d", status="missing", error="[bold]gone"), []),
    ])  # fmt: skip
    builder.part(R2, [(image("s3://p/a", status="failed", error="another run's"), [])])
    builder.record(R1, state="incomplete", manifest={"images": 5, "complete": True, "covered": 1234, "ignored": 3},
                   counts={"ok": 1, "unreadable": 2, "missing": 1}, instances=1, seconds=4.0, stages=STAGES,
                   verification={"missing": 1, "doubled": 0, "whole": False}, error="a row is missing",
                   options={"score": 0.05, "classes": ["dog"]}, selection={"limit": 5, "redo_all": False},
                   versions={"torch": "2.15.0"}, attempt=2)  # fmt: skip
    code, out, _ = masklake("run", "show", builder.uri, R1)
    assert code == 0
    facts = dict(
        line.split(maxsplit=1) for line in out.split("\n\n")[0].splitlines() if not line.startswith(" ")
    )
    assert facts["state"].strip() == "incomplete"
    assert facts["because"].strip() == "a row is missing"
    assert facts["options"].strip() == "score=0.05, classes=['dog']"
    assert facts["selection"].strip() == "limit=5"
    assert facts["versions"].strip() == "torch=2.15.0"
    assert facts["where"].strip() == "worker-1, process 4711, attempt 2"
    assert facts["took"].strip() == "4 s (1.0 images/s)"
    assert facts["images"].strip() == "4 / 5"
    assert "1,234 covered by earlier runs" in out
    assert "3 did not look like images" in out
    assert facts["by"].strip() == "status  ok 1, unreadable 2, missing 1"
    assert facts["proof"].strip() == "missing=1, doubled=0, whole=False"
    lines = [line.split() for line in out.splitlines()]
    assert ["fetch", "200", "2.0", "20%", "0.5", "-", "10.0", "5.0"] in lines
    assert ["infer", "200", "8.0", "80%", "16.0", "1.2", "40.0", "-"] in lines
    assert ["2", "unreadable", "truncated", "s3://p/\\x1b[31mc"] in lines
    assert ["1", "missing", "[bold]gone", "s3://p/d"] in lines
    assert "another run's" not in out
    assert f"go on with:  masklake segment s3://photos/ {builder.uri} --resume {R1}" in out
    assert f"--lake {builder.uri} --run {R1}" in out
    assert "\x1b" not in out


def test_last_is_the_newest_of_runs_and_trainings(builder: LakeBuilder, masklake: Masklake) -> None:
    builder.record(R2)
    for newest in (R1, R3):  # an older training, then a newer one
        training_record.save(a_record(builder.uri, run=newest, state="complete"), Storage())
        _, out, _ = masklake("runs", "show", builder.uri, "last", "--json")
        assert json.loads(out)["record"]["run"] == max(R2, newest)


def test_only_the_most_frequent_reasons_are_shown(builder: LakeBuilder, masklake: Masklake) -> None:
    failed = [(image(f"s3://p/{i}", status="failed", error=f"reason {i % 14:02d}"), []) for i in range(30)]
    builder.part(R1, failed)
    builder.record(R1, counts={"failed": 30})
    _, out, _ = masklake("run", "show", builder.uri, "last")
    assert [f"reason {i:02d}" in out for i in range(14)] == [True] * 10 + [False] * 4
    assert "… and more reasons" in out


def test_a_complete_run_says_nothing_of_resuming(builder: LakeBuilder, masklake: Masklake) -> None:
    builder.part(R1, {"s3://p/a": []})
    builder.record(R1, counts={"ok": 1})
    _, out, _ = masklake("run", "show", builder.uri, "last")
    assert "resume" not in out
    assert "failures" not in out


def test_a_run_as_json_holds_record_and_failures(builder: LakeBuilder, masklake: Masklake) -> None:
    builder.part(R1, [(image("s3://p/\x9bd", status="missing", error="gone"), [])])
    written = builder.record(R1, counts={"missing": 1}, stages=STAGES)
    _, out, _ = masklake("run", "show", builder.uri, R1, "--json")
    assert out.isascii()
    facts = json.loads(out)
    assert facts["failures"] == [
        {"status": "missing", "error": "gone", "images": 1, "example": "s3://p/\x9bd"}
    ]
    assert facts["record"]["stages"] == written.stages
    assert facts["summary"]["failures"] == 1


@pytest.mark.parametrize("strange", [
    {"stages": {"fetch": None, "infer": {"seconds": "many"}}}, {"counts": {"ok": "many"}}, {"model": {}},
    {"manifest": {"images": "many", "complete": 1}}, {"created_at": "yesterday", "updated_at": "?", "state": "running"},
    {"options": {"a": {"b": [None]}}, "command": []}, {"seconds": -1}, {"verification": {}},
])  # fmt: skip
def test_a_record_with_strange_values_is_still_shown(
    builder: LakeBuilder, masklake: Masklake, strange: dict[str, object]
) -> None:
    builder.raw_record(R1, **strange)
    for command in (["runs", builder.uri], ["run", "show", builder.uri, R1]):
        for extra in ([], ["--json"]):
            code, out, err = masklake(*command, *extra)
            assert (code, err) == (0, "")
            assert R1 in out


def test_mistakes_get_one_line(builder: LakeBuilder, masklake: Masklake, tmp_path: Path) -> None:
    builder.record(R1)
    for args, answer in {
        ("runs", str(tmp_path / "nothing")): "there is no such directory",
        ("runs", str(tmp_path)): "is not a lake",
        ("run", "show", builder.uri, "x"): f"has no run 'x'; its newest run is {R1}",
    }.items():
        code, out, err = masklake(*args)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert answer in err


def test_a_lake_with_labels_only_has_no_runs(builder: LakeBuilder, masklake: Masklake) -> None:
    builder.labels([])
    assert masklake("runs", builder.uri)[1].splitlines()[-1] == "no runs yet"
    code, _, err = masklake("run", "show", builder.uri, "last")
    assert (code, "has no run 'last'" in err) == (2, True)


def test_a_newer_record_stops_with_the_remedy(builder: LakeBuilder, masklake: Masklake) -> None:
    builder.raw_record(R1, schema_version=2)
    code, _, err = masklake("runs", builder.uri)
    assert (code, "upgrade Masklake" in err) == (2, True)


def test_the_summary_of_a_run_divides_nothing_by_zero() -> None:
    summary = RunSummary.of(Run(id=R1, record=record(R1, "lake", seconds=0.0, counts={"ok": 3})))
    assert (summary.rate, summary.done) == (None, 3)
    assert Lake("x", Storage()).uri.endswith("/x")
