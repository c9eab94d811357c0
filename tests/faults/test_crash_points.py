"""A process that ends at every step of its work on a lake: the user's next command makes of it what an undisturbed one makes.

The steps are before, within and after each change of the storage (pipeline/storage/crash_points.py), so that none is forgotten.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from masklake.pipeline.labels import store as label_store
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.lake.record import new_run_id
from masklake.pipeline.lake.registry import Registry
from masklake.pipeline.lake.run_record import RunFolder
from masklake.pipeline.segment.write import part_name
from masklake.pipeline.storage.parquet import read_table, write_table
from masklake.pipeline.storage.store import Storage, join

from tests.conftest import Bucket
from tests.helpers.faults.commands import (
    assert_readable,
    import_labels,
    names,
    pack,
    promote,
    rows,
    segment,
    tend,
)
from tests.helpers.faults.crashes import crashed, paused, steps
from tests.helpers.faults.table import counted
from tests.helpers.images import solid
from tests.helpers.lakes import LakeBuilder
from tests.helpers.runs import colour, fill, part_names
from tests.helpers.tended_lakes import small_parts

ON_MOTO = pytest.mark.parametrize("s3_bucket", ["moto"], indirect=True)

N = 20
V1, V2 = "0123456789ab", "ba9876543210"


@pytest.fixture
def photos(tmp_path: Path) -> str:
    fill(tmp_path / "photos", N)
    return str(tmp_path / "photos")


class Places:
    """Lakes that begin alike: folders, each a copy of `before`."""

    def __init__(self, before: Path) -> None:
        self.before = before
        self.before.mkdir()
        self._count = 0

    def __call__(self) -> str:
        self._count += 1
        return str(shutil.copytree(self.before, self.before.with_name(f"lake-{self._count}")))


def what(step: str, lake: str) -> str:
    """A step without what is another in each lake or run: `written images/run=…/part-….parquet`."""
    return re.sub(r"[0-9a-f]{12}\b|\d{8}T\d{6}\w*-?[0-9a-f]*", "…", step.replace(join(lake, ""), ""))


def attempted(seen: int, done: int, unit: str) -> None:
    """Each step was a crash, and each crash was recovered from."""
    counted(seen, done, lost=seen - done, doubled=0, unit=unit)
    assert done == seen


@pytest.mark.slow
def test_a_run_that_ends_at_any_step(photos: str, tmp_path: Path) -> None:
    run, lake = new_run_id(), Places(tmp_path / "before")
    undisturbed = lake()
    reached = steps(segment, photos, undisturbed, run)
    expected, files = rows(undisturbed), names(undisturbed)
    print(*(what(step, undisturbed) for step in reached), sep="\n")
    for at in range(len(reached)):
        disturbed = lake()
        crashed(segment, photos, disturbed, run, at=at)
        assert_readable(disturbed)
        segment(photos, disturbed, run)
        assert_readable(disturbed)
        assert rows(disturbed) == expected, reached[at]
        assert [name for name in names(disturbed) if name not in files and not is_later(name)] == [], reached[
            at
        ]
        shutil.rmtree(disturbed)
    attempted(len(reached), at + 1, "steps of a run")


def is_later(name: str) -> bool:
    """Whether a file is of a second attempt, which an undisturbed run does not have."""
    return bool(re.search(r"/attempts/00000[2-9]|/part-00[2-9]-", name))


@pytest.mark.slow
def test_a_resume_that_mends_ends_at_any_step(photos: str, tmp_path: Path) -> None:
    """A worker has outlived its attempt, and committed what the next attempt did as well; then the mending is cut off."""
    run, lake = new_run_id(), Places(tmp_path / "before")
    crash = next(i for i, step in enumerate(steps(segment, photos, lake(), run)) if "/covered/" in step)
    crashed(segment, photos, str(lake.before), run, at=crash)
    folder = RunFolder(str(lake.before), run, Storage())
    for doubled in ([0, 1, 2, 9], [16, 17]):
        for name in ("images", "instances"):
            whole = pa.concat_tables(
                read_table(uri, Storage()) for uri in Storage().list(folder.table_uri(name))
            )
            again = whole.filter(pc.is_in(whole["image_id"], pa.array(doubled)))
            write_table(again, join(folder.table_uri(name), part_name(1, np.array(doubled))), Storage())
    undisturbed = lake()
    reached = steps(segment, photos, undisturbed, run)
    expected = rows(undisturbed)
    assert len(expected["images"]) == N
    print(*(what(step, undisturbed) for step in reached), sep="\n")
    for at in range(len(reached)):
        disturbed = lake()
        crashed(segment, photos, disturbed, run, at=at)
        segment(photos, disturbed, run)
        assert_readable(disturbed)
        assert rows(disturbed) == expected, reached[at]
        assert not [name for name in names(disturbed) if name.endswith(".tmp")], reached[at]
        shutil.rmtree(disturbed)
    attempted(len(reached), at + 1, "steps of a resume")


def test_an_import_that_ends_at_any_step(tmp_path: Path) -> None:
    lake = Places(tmp_path / "before")
    undisturbed = lake()
    import_labels(undisturbed, 3)
    reached = steps(import_labels, undisturbed, 5)
    expected = label_store.newest(Lake(undisturbed, Storage()))
    assert len(expected) == 5
    for at in range(len(reached)):
        disturbed = lake()
        import_labels(disturbed, 3)
        crashed(import_labels, disturbed, 5, at=at)
        assert len(label_store.newest(Lake(disturbed, Storage()))) in (3, 5)
        import_labels(disturbed, 5)
        assert label_store.newest(Lake(disturbed, Storage())) == expected
        assert len(Lake(disturbed, Storage()).parts("labels")) == 2
    attempted(len(reached), at + 1, "steps of an import")


def test_a_promotion_that_ends_at_any_step(tmp_path: Path) -> None:
    """The same again promotes; another model's either has the alias alone, or is told who has it."""
    lake = Places(tmp_path / "before")
    reached = steps(promote, lake(), "photos", V1)
    for at in range(len(reached)):
        disturbed = lake()
        crashed(promote, disturbed, "photos", V1, at=at)
        registry = Registry(disturbed, Storage())
        took_effect = registry.aliases("photos").version("production") is not None
        rival = str(shutil.copytree(disturbed, f"{disturbed}-rival"))

        promote(disturbed, "photos", V1)
        assert str(registry.find("production")) == f"photos@{V1}"
        assert registry.aliases("photos").versions == {"production": [V1]}
        promote(disturbed, "photos", V2)
        assert registry.rollback("photos", "production", registry.aliases("photos")) == V1

        if took_effect:
            with pytest.raises(AssertionError):
                promote(rival, "cats", V2)
        else:
            promote(rival, "cats", V2)
        winner = f"photos@{V1}" if took_effect else f"cats@{V2}"
        assert str(Registry(rival, Storage()).find("production")) == winner
    attempted(len(reached), at + 1, "steps of a promotion")


def kinds(lake: str) -> list[str]:
    """The files of a lake without what is another in each, and without locks."""
    files = [re.sub(r"-00000\d\.parquet$", "-….parquet", what(name, lake)) for name in names(lake)]
    return sorted(name for name in files if not name.startswith("locks/"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [["compact"], ["forget", "--uri", "s3://p/a/0004.jpg"]], ids=lambda command: command[0]
)
def test_tending_that_ends_at_any_step(command: list[str], tmp_path: Path) -> None:
    """What it reads for others is whole at every step, and the same command again finishes it."""
    lake = Places(tmp_path / "before")
    small_parts(str(lake.before))
    tended = lake()
    reached = steps(tend, tended, *command)
    expected, files = rows(tended), kinds(tended)
    print(*(what(step, tended) for step in reached), sep="\n")
    for at in range(len(reached)):
        disturbed = lake()
        crashed(tend, disturbed, *command, at=at)
        assert_readable(disturbed)
        Path(disturbed, "locks", "tending.json").unlink(missing_ok=True)  # a minute later
        for unfinished in Path(disturbed).rglob("*.tmp"):  # and two hours
            os.utime(unfinished, (time.time() - 7200,) * 2)
        tend(disturbed, *command)
        assert rows(disturbed) == expected, reached[at]
        assert kinds(disturbed) == files, reached[at]
    attempted(len(reached), at + 1, f"steps of {command[0]}")


def test_records_packed_by_a_process_that_ends_at_any_step(tmp_path: Path) -> None:
    """The pack is a copy: whatever becomes of it, the records are read as they are."""
    lake = Places(tmp_path / "before")
    builder = LakeBuilder(str(lake.before))
    for i in range(4):
        builder.record(f"20261128T00000{i}-aaaaaa", instances=i)
    pack(str(lake.before))
    builder.record("20261128T000002-aaaaaa", instances=100)
    expected = [run.record for run in Lake(str(lake.before), Storage()).runs()]
    reached = steps(pack, lake())
    for at in range(len(reached)):
        disturbed = lake()
        crashed(pack, disturbed, at=at)
        assert [run.record for run in Lake(disturbed, Storage()).runs()] == expected
        pack(disturbed)
        assert [run.record for run in Lake(disturbed, Storage()).runs()] == expected
    attempted(len(reached), at + 1, "steps of packing")


@pytest.mark.slow
@ON_MOTO
def test_over_s3_a_run_ends_at_any_step(s3_bucket: Bucket) -> None:
    run = new_run_id()
    for i in range(N):
        s3_bucket.put(f"photos/{i:05d}.png", solid(colour(i), (12, 8)))
    photos, undisturbed = f"{s3_bucket.uri}/photos/", f"{s3_bucket.uri}/undisturbed"
    reached = steps(segment, photos, undisturbed, run)
    expected, files = rows(undisturbed), names(undisturbed)
    for at in range(len(reached)):
        disturbed = f"{s3_bucket.uri}/lake-{at}"
        crashed(segment, photos, disturbed, run, at=at)
        assert_readable(disturbed)
        segment(photos, disturbed, run)
        assert rows(disturbed) == expected, reached[at]
        assert [name for name in names(disturbed) if name not in files and not is_later(name)] == []
    attempted(len(reached), at + 1, "steps of a run")


@pytest.mark.slow
def test_a_run_that_stands_still_at_any_step_and_is_overtaken(photos: str, tmp_path: Path) -> None:
    """For more than a minute, so that another takes it over and finishes it; then the first goes on, and changes nothing.

    Within a compare-and-set of a directory it would hold that directory's lock (flock), and the other would wait for it.
    """
    run, lake = new_run_id(), Places(tmp_path / "before")
    undisturbed = lake()
    reached = steps(segment, photos, undisturbed, run)
    expected = rows(undisturbed)
    wrong = []
    moments = [at for at in range(len(reached)) if at == 0 or not reached[at - 1].startswith("replace ")]
    for at in moments:
        disturbed = lake()
        folder = RunFolder(disturbed, run, Storage())
        with paused(segment, photos, disturbed, run, at=at):
            segment(photos, disturbed, run, after_silence=True)
            assert rows(disturbed) == expected, reached[at]
            finished = folder.load()
        try:
            assert_readable(disturbed)
            assert rows(disturbed) == expected
            assert part_names(disturbed, "images", run) == part_names(disturbed, "instances", run)
            assert folder.load() == finished, folder.load()
            assert not [name for name in names(disturbed) if name.endswith(".tmp")]
        except AssertionError as error:
            wrong.append((what(reached[at], undisturbed), str(error)[:300]))
    print(*wrong, sep="\n")
    attempted(len(moments), len(moments) - len(wrong), "steps of a run")
