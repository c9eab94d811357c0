"""`masklake forget` from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from masklake.jobs.exit_codes import ExitCode
from masklake.pipeline.lake.record import now
from masklake.pipeline.lake.replacements import Replacements
from masklake.pipeline.lake.run_record import RunFolder
from masklake.pipeline.storage.crash_points import on_reach
from masklake.pipeline.storage.store import Storage

from tests.conftest import Bucket
from tests.helpers.tended_lakes import (
    EXACT,
    R1,
    STOPPED,
    all_bytes,
    by_dataset,
    by_read_table,
    small_parts,
    uri_of,
)

Run = Callable[..., tuple[int, str, str]]


def test_images_by_their_names(lake: str, masklake: Run) -> None:
    given = ["--uri", uri_of(2), "--uri", uri_of(25), "--grace-minutes", "0"]
    code, out, _ = masklake("forget", lake, *given, "--dry-run")
    assert (code, out.splitlines()[0]) == (
        0,
        "would be forgotten: 2 rows of images, 3 of instances, 3 of labels, in 7 files",
    )
    code, out, _ = masklake("forget", lake, *given)
    assert (code, out.splitlines()[0]) == (
        0,
        "forgotten: 2 rows of images, 3 of instances, 3 of labels, in 7 files",
    )
    assert by_read_table(lake, Storage()) == (54, 52)
    code, _, err = masklake("forget", lake, *given)
    assert (code, "holds nothing of these images; nothing was changed" in err) == (2, True)


def test_images_by_a_condition(lake: str, masklake: Run) -> None:
    condition = "n_instances = 2 and uri like '%/a/%' -- and no more"
    code, out, _ = masklake("forget", lake, "--where", condition, "--grace-minutes", "0", "--json")
    facts = json.loads(out)
    assert (code, facts["image_rows"], facts["instance_rows"]) == (0, 9, 18)
    assert by_read_table(lake, Storage()) == (47, 37)
    code, _, err = masklake("forget", lake, "--where", condition)
    assert (code, "no image fits --where" in err) == (2, True)


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("no_such_column = 1", "no_such_column"),
        ("true); drop table images; select (1", "--where 'true); drop"),
        ("", "is no condition"),
        ("uri in (select content from read_text('/etc/passwd'))", "read_text"),
    ],
)
def test_a_condition_only_reads_the_lake(lake: str, masklake: Run, condition: str, words: str) -> None:
    code, _, err = masklake("forget", lake, "--where", condition)
    assert (code, words in err) == (2, True), err
    assert by_read_table(lake, Storage()) == (56, 55)


def test_a_run(lake: str, masklake: Run) -> None:
    code, out, _ = masklake("forget", lake, "--run", R1, "--grace-minutes", "0")
    assert (code, f"forgotten: run {R1}: 24 rows of images" in out) == (0, True)
    assert by_read_table(lake, Storage()) == (32, 31)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "one of --uri, --run and --where"),
        (["--uri", "s3://p/a", "--run", "last"], "one of --uri, --run and --where"),
        (["--uri", "/"], "would forget everything"),
        (["--run", "nothing"], "has no run"),
        (["--uri", "s3://p/never.jpg"], "holds nothing of these images"),
        (["--uri", "s3://p/a", "--grace-minutes", "-1"], "minutes"),
    ],
)
def test_mistakes_are_named(lake: str, masklake: Run, arguments: list[str], words: str) -> None:
    try:
        code, _, err = masklake("forget", lake, *arguments)
    except SystemExit as end:  # argparse's own
        assert end.code == 2
        return
    assert (code, words in err) == (2, True), err
    assert by_read_table(lake, Storage()) == (56, 55)


def test_while_a_run_is_at_work_on_them_it_is_refused(lake: str, masklake: Run) -> None:
    folder = RunFolder(lake, STOPPED, Storage())
    folder.save(replace(folder.load(), state="running", updated_at=now(), host="elsewhere"))
    code, out, err = masklake("forget", lake, "--uri", uri_of(49))
    assert (code, out) == (ExitCode.REFUSED, "")
    assert f"refused: run {STOPPED}: is at work and would write rows of these images again" in err
    assert by_read_table(lake, Storage()) == (56, 55)


def test_what_is_left_to_the_next_calls_is_told(lake: str, masklake: Run) -> None:
    given = ["--uri", uri_of(2), "--no-wait"]
    code, out, _ = masklake("forget", lake, *given)
    assert (code, out.splitlines()[-1].partition(" in ")[0]) == (0, "committed; the old files can be removed")
    code, out, _ = masklake("forget", lake, *given)
    assert (code, "nothing was changed: an earlier `masklake forget` is not finished" in out) == (0, True)
    assert by_dataset(lake, Storage()) == (55, 53)
    state = Replacements.load(lake, Storage())
    assert state.current is not None
    assert replace(state, current=replace(state.current, grace_s=0.0)).save(lake, Storage())
    code, out, _ = masklake("forget", lake, *given, "--grace-minutes", "0", "--json")
    facts = json.loads(out)
    assert (code, facts["earlier"]["forgotten"]["image_rows"], facts["waits_s"]) == (0, 1, 0)
    assert not [name for name, data in all_bytes(Path(lake)).items() if uri_of(2).encode() in data]


@pytest.mark.parametrize(
    "given",
    [
        ["--uri", uri_of(2)],
        pytest.param(["--where", f"uri = '{uri_of(2)}'"], marks=pytest.mark.slow),
        pytest.param(["--run", R1], marks=pytest.mark.slow),
    ],
)
def test_the_next_call_finishes_what_a_killed_one_left(lake: str, masklake: Run, given: list[str]) -> None:
    def kill(point: str) -> None:
        if point == "all in place":
            raise KeyboardInterrupt

    with on_reach(kill):
        assert masklake("forget", lake, *given, "--grace-minutes", "0")[0] == 130
    code, out, err = masklake("forget", lake, *given, "--grace-minutes", "0")
    assert (code, "finished `masklake forget`" in out, "forgotten by it: " in out) == (0, True, True), err
    if "--run" not in given:
        assert not [name for name, data in all_bytes(Path(lake)).items() if uri_of(2).encode() in data]
    assert not [name for name in all_bytes(Path(lake)) if name.startswith("replacing")]


@pytest.mark.slow
@pytest.mark.parametrize("s3_bucket", ["moto", pytest.param("rgw", marks=pytest.mark.rgw)], indirect=True)
def test_in_s3(s3_bucket: Bucket, masklake: Run, tmp_path: Path) -> None:
    lake = f"{s3_bucket.uri}/lake"
    small_parts(lake)
    code, _, err = masklake("forget", lake, "--uri", "s3://p/a/", "--grace-minutes", "0")
    assert code == 0, err
    assert {read(lake, Storage()) for read in EXACT.values()} == {(28, 28)}
    for key in s3_bucket.all_keys():
        file = tmp_path / key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(s3_bucket.get(key))
    assert not [name for name, data in all_bytes(tmp_path).items() if b"s3://p/a/" in data]
