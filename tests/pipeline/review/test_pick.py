"""Choosing: in the order of the scores, at random, without copies, and with images that are no longer what they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.review import candidates as review_rows
from masklake.pipeline.review import score as review_score
from masklake.pipeline.review.pick import RANDOM, READS_PER_PICK, REST, Picks, pick
from masklake.pipeline.storage.store import Storage

from tests.helpers.lakes import LakeBuilder, image, label_row
from tests.helpers.review_lakes import dogs, on_disk, picture, row_of

RUN = "20260101T000000-aaaaaa"
MD5 = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def builder(tmp_path: Path) -> LakeBuilder:
    builder = LakeBuilder(str(tmp_path / "lake"))
    builder.record(RUN)
    return builder


def pictures(folder: Path, n: int) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """n unlike pictures, the later the more doubtful."""
    return [(on_disk(folder, f"{i:03d}.png", i), dogs(1 - i / (2 * n))) for i in range(n)]


def picked(
    builder: LakeBuilder, budget: int, *, random: float = 0.0, **options: Any
) -> tuple[list[str], Picks]:
    """File names in the order of choice."""
    lake = Lake(builder.uri, Storage())
    known = review_rows.labelled(lake)
    candidates = review_rows.candidates(lake, known)
    figures = review_score.figures(lake, candidates, known.counts)
    picks = pick(candidates, figures, known, Storage(), budget=budget, random_share=random, **options)
    return [candidates.uris[pick_.image].as_py().rpartition("/")[2] for pick_ in picks.chosen], picks


def test_the_highest_scores_are_chosen(builder: LakeBuilder, tmp_path: Path) -> None:
    builder.part(RUN, pictures(tmp_path / "p", 8))
    names, picks = picked(builder, 3)
    assert names == ["007.png", "006.png", "005.png"]
    assert not picks.passed
    assert picks.read < 8
    assert picked(builder, 3, compare=False)[0] == names


def test_a_share_is_drawn_at_random_and_always_the_same(builder: LakeBuilder, tmp_path: Path) -> None:
    builder.part(RUN, pictures(tmp_path / "p", 40))
    names, picks = picked(builder, 10, random=0.4)
    assert [pick_.kind for pick_ in picks.chosen].count(RANDOM) == 4
    assert [pick_.kind for pick_ in picks.chosen[-4:]] == [RANDOM] * 4
    assert len(set(names)) == 10
    assert picked(builder, 10, random=0.4)[0] == names
    drawn, _ = picked(builder, 10, random=1.0)
    assert drawn[:4] == names[-4:]  # by the hash alone, whatever the scores
    assert drawn != sorted(drawn)


def test_the_draw_is_not_that_of_the_splits(builder: LakeBuilder) -> None:
    """Else all that is drawn would be in val."""
    from masklake.pipeline.labels.sets import split_of

    uris = [f"s3://p/{i}.jpg" for i in range(300)]
    builder.part(RUN, {uri: [] for uri in uris})
    names, _ = picked(builder, 30, random=1.0, compare=False)
    assert sum(split_of(f"s3://p/{name}") == "val" for name in names) < 15


def test_what_looks_like_a_chosen_image_is_left_out(builder: LakeBuilder, tmp_path: Path) -> None:
    rows = pictures(tmp_path / "p", 3)
    for name, data in {
        "half.png": picture(2, (32, 24)),
        "paler.jpg": picture(2, format_="JPEG", quality=50),
    }.items():
        (tmp_path / "p" / name).write_bytes(data)
        rows.append((row_of(str(tmp_path / "p" / name)), dogs(0.5)))
    builder.part(RUN, rows)
    names, picks = picked(builder, 5)
    assert len(names) == 3
    assert picks.passed == {"similar": 2}
    assert len(picked(builder, 5, compare=False)[0]) == 5


def test_what_looks_like_a_labelled_image_beside_it_is_left_out(builder: LakeBuilder, tmp_path: Path) -> None:
    rows = pictures(tmp_path / "p", 3)
    labelled = on_disk(tmp_path / "p", "001b.png", 1)
    builder.part(RUN, [*rows, (labelled, [])])
    builder.labels([label_row(labelled["uri"], "dog")])
    names, picks = picked(builder, 5)
    assert (sorted(names), picks.passed) == (["000.png", "002.png"], {"similar": 1})


def test_copies_of_one_object_are_not_read(builder: LakeBuilder) -> None:
    names = ("a", "b", "c")
    builder.part(RUN, [(image(f"s3://p/{n}", etag=MD5, size_bytes=7), dogs(0.5)) for n in names])
    chosen, picks = picked(builder, 3, compare=False)
    assert (chosen, picks.passed) == (["a"], {"identical": 2})
    builder.labels([label_row("s3://p/c", "dog")])
    assert picked(builder, 3)[1].passed == {"identical": 2}


def test_files_of_one_time_and_size_are_no_copies(builder: LakeBuilder) -> None:
    builder.part(RUN, [(image(f"/p/{n}", etag="18a-7", size_bytes=7), dogs(0.5)) for n in "abc"])
    assert len(picked(builder, 3, compare=False)[0]) == 3


def test_images_that_are_not_what_they_were_are_passed_over(builder: LakeBuilder, tmp_path: Path) -> None:
    builder.part(RUN, pictures(tmp_path / "p", 6))
    (tmp_path / "p" / "005.png").unlink()
    (tmp_path / "p" / "004.png").write_bytes(picture(77))
    broken = tmp_path / "p" / "broken.png"
    broken.write_bytes(b"garbage")
    builder.part(RUN, [(row_of(str(broken)), dogs(0.5)), (image("nosuch://x/y"), dogs(0.5))])
    names, picks = picked(builder, 2)
    assert names == ["003.png", "002.png"]
    assert picks.passed == {"unreadable": 3, "changed": 1}
    causes = {uri.rpartition("/")[2]: cause for uri, cause in picks.problems}
    assert "gone since" in causes["005.png"]
    assert "changed since the run" in causes["004.png"]
    assert "not an image format" in causes["broken.png"]
    assert "cannot open nosuch://" in causes["y"]


def test_reading_ends(builder: LakeBuilder, tmp_path: Path) -> None:
    """Of a film of one scene not every frame is read."""
    rows = [(on_disk(tmp_path / "p", f"{i:03d}.png", 1), dogs(0.5)) for i in range(60)]
    builder.part(RUN, rows)
    names, picks = picked(builder, 4)
    assert (len(names), picks.stopped) == (1, True)
    assert picks.read <= 4 * READS_PER_PICK + 5


def test_a_budget_that_is_not_used_up_takes_the_rest(builder: LakeBuilder, tmp_path: Path) -> None:
    builder.part(
        RUN, [(on_disk(tmp_path / "p", "a.png", 1), dogs(0.5)), (on_disk(tmp_path / "p", "b.png", 2), [])]
    )
    names, picks = picked(builder, 10)
    assert (names, [pick_.kind for pick_ in picks.chosen][1]) == (["a.png", "b.png"], REST)
    assert not picks.stopped
