"""`masklake compact` from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from masklake.jobs.exit_codes import ExitCode
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.lake.lock import Lock
from masklake.pipeline.storage.store import Storage
from masklake.pipeline.tend.work import LOCK

from tests.conftest import Bucket
from tests.helpers.tended_lakes import EXACT, R1, R2, STOPPED, by_read_table, covered, small_parts

Run = Callable[..., tuple[int, str, str]]


def test_it_says_what_it_does(lake: str, masklake: Run) -> None:
    code, out, _ = masklake("compact", lake, "--dry-run")
    lines = [
        f"left alone: run {STOPPED}: is stopped: only complete runs are compacted",
        "27 files would become 5; 4 others are right as they are, or left alone",
    ]
    assert (code, out.splitlines()) == (0, lines)
    assert not Path(lake, "locks").exists()
    code, out, _ = masklake("compact", lake, "--grace-minutes", "0")
    assert (code, out.splitlines()) == (0, [lines[0], lines[1].replace("would become", "are now")])
    assert by_read_table(lake, Storage()) == (56, 55)
    assert (
        masklake("compact", lake, "--grace-minutes", "0")[1].splitlines()[1]
        == "nothing to compact in 9 files"
    )


def test_what_is_left_to_the_next_call(lake: str, masklake: Run) -> None:
    code, out, _ = masklake("compact", lake, "--no-wait", "--json")
    facts = json.loads(out)
    assert (code, facts["replaced"], facts["new"], facts["waits_s"] > 590) == (0, 27, 5, True)
    code, out, err = masklake("compact", lake, "--no-wait")
    assert (code, "can be removed in" in out, "finishing `masklake compact`" in err) == (0, True, True)
    assert len(list(Path(lake, "images", f"run={R1}").iterdir())) == 6


def test_a_second_one_is_refused(lake: str, masklake: Run) -> None:
    with Lock(lake, LOCK, Storage(), what="masklake forget"):
        code, _, err = masklake("compact", lake)
    assert (code, "refused: " in err) == (ExitCode.REFUSED, True)


def test_no_lake_and_wrong_values(tmp_path: Path, masklake: Run) -> None:
    code, _, err = masklake("compact", tmp_path / "none")
    assert (code, "there is no such directory" in err) == (2, True)
    assert not (tmp_path / "none").exists()
    code, _, err = masklake("compact", tmp_path)
    assert (code, "is not a lake" in err) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize("s3_bucket", ["moto", pytest.param("rgw", marks=pytest.mark.rgw)], indirect=True)
def test_in_s3(s3_bucket: Bucket, masklake: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digests of what is covered, the packed records and the listing in pages agree with the new parts."""
    monkeypatch.setattr("masklake.pipeline.lake.record_pack.WORTH_IT", 2)
    lake = f"{s3_bucket.uri}/lake"
    small_parts(lake)
    packing = Lake(lake, Storage())
    packing.runs()
    packing.pack_records()
    code, out, err = masklake("compact", lake, "--grace-minutes", "0")
    assert (code, "27 files are now 5" in out) == (0, True), err
    assert {read(lake, Storage()) for read in EXACT.values()} == {(56, 55)}
    assert not [key for key in s3_bucket.all_keys() if "replacing" in key]
    opened = Lake(lake, Storage())
    assert set(opened.summaries()) == {R1, R2}
    opened.pack_records()
    assert set(Lake(lake, Storage()).summaries()) == {R1, R2}  # as they are packed now
    assert covered(lake, Storage()) == 48
    listed = {
        f"lake/{part.path}" for table in ("images", "instances", "labels") for part in opened.parts(table)
    }
    assert listed == {key for key in s3_bucket.all_keys() if "/part-" in key and "lake/runs/" not in key}
