"""Which rows are candidates, and the figures of their images."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.review import candidates as review_rows
from masklake.pipeline.review import score as review_score
from masklake.pipeline.review.candidates import Candidates
from masklake.pipeline.review.score import Figures
from masklake.pipeline.storage.store import Storage

from tests.helpers.lakes import WHEN, LakeBuilder, empty_label_row, image, instance, label_row
from tests.helpers.review_lakes import dogs

OLD, MIDDLE, NEW = "20260101T000000-aaaaaa", "20260201T000000-aaaaaa", "20260301T000000-aaaaaa"
OTHER = "other@ba9876543210"


@pytest.fixture
def builder(tmp_path: Path) -> LakeBuilder:
    return LakeBuilder(str(tmp_path / "lake"))


def by_other(builder: LakeBuilder, run: str, images: Any, **record: Any) -> None:
    """A run of another model than the builder's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.helpers.lakes.MODEL", OTHER)
        builder.part(run, images)
    builder.record(run, **record)


def chosen(builder: LakeBuilder, **options: Any) -> Candidates:
    lake = Lake(builder.uri, Storage())
    return review_rows.candidates(lake, review_rows.labelled(lake), **options)


def scored(builder: LakeBuilder, **options: Any) -> tuple[dict[str, int], Figures]:
    """The position of each candidate, and their figures."""
    lake = Lake(builder.uri, Storage())
    known = review_rows.labelled(lake)
    candidates = review_rows.candidates(lake, known, **options)
    places = {uri: i for i, uri in enumerate(candidates.uris.to_pylist())}
    return places, review_score.figures(lake, candidates, known.counts)


def test_the_newest_row_decides(builder: LakeBuilder) -> None:
    builder.part(OLD, {"s3://p/a": [], "s3://p/b": [], "s3://p/c": []})
    builder.part(NEW, [(image("s3://p/a"), dogs(0.9)), (image("s3://p/b", status="failed", error="no"), [])])
    builder.labels([label_row("s3://p/l", "dog")])
    candidates = chosen(builder)
    assert dict(zip(candidates.uris.to_pylist(), [candidates.runs[i] for i in candidates.run], strict=True)) == {
        "s3://p/a": NEW, "s3://p/c": OLD,
    }  # fmt: skip
    assert (candidates.failed, candidates.labelled, candidates.other_run.tolist()) == (1, 0, [-1, -1])
    assert chosen(builder, run=OLD).uris.to_pylist() == ["s3://p/a", "s3://p/b", "s3://p/c"]
    assert len(chosen(builder, model="demo@0123456789ab")) == 2
    assert len(chosen(builder, model=OTHER)) == 0


def test_labelled_images_are_left_out_unless_asked_for(builder: LakeBuilder) -> None:
    builder.part(OLD, {"s3://p/a": [], "s3://p/b": [], "s3://p/c": []})
    builder.labels([label_row("s3://p/a", "dog"), empty_label_row("s3://p/b"), label_row("s3://q/x", "cat")])
    candidates = chosen(builder)
    assert (candidates.uris.to_pylist(), candidates.labelled) == (["s3://p/c"], 2)
    assert candidates.labelled_objects == {("etag-s3://p/a", 1000), ("etag-s3://p/b", 1000)}
    again = chosen(builder, again=True)
    assert (len(again), again.labelled, again.labelled_objects) == (3, 0, frozenset())


def test_only_the_newest_labels_are_counted(builder: LakeBuilder) -> None:
    later = WHEN + datetime.timedelta(days=1)
    builder.labels([label_row("s3://p/a", "dog"), label_row("s3://p/a", "dog", instance=1)])
    builder.labels([label_row("s3://p/a", "cat", labelled_at=later), label_row("s3://p/b", "cat")])
    builder.labels([empty_label_row("s3://p/c")])
    known = review_rows.labelled(Lake(builder.uri, Storage()))
    assert (sorted(known.uris.to_pylist()), known.counts) == (
        ["s3://p/a", "s3://p/b", "s3://p/c"],
        {"cat": 2},
    )


def test_doubt_is_of_scores_between_noise_and_certainty(builder: LakeBuilder) -> None:
    builder.record(OLD)
    builder.part(
        OLD,
        {
            "s3://p/sure": dogs(0.99),
            "s3://p/half": dogs(0.5),
            "s3://p/noise": dogs(0.05),
            "s3://p/many": dogs(0.5, 0.5, 0.5),
            "s3://p/none": [],
        },
    )
    places, figures = scored(builder)
    doubt = {uri.rpartition("/")[2]: figures.doubt[i] for uri, i in places.items()}
    assert doubt == pytest.approx(
        {"sure": 0.02 / 3.02, "half": 0.25, "noise": 0, "many": 0.5, "none": 0}, abs=1e-6
    )
    assert figures.rarest[places["s3://p/none"]] == -1


def test_what_a_killed_attempt_left_twice_counts_once(builder: LakeBuilder) -> None:
    builder.record(OLD)
    builder.part(OLD, {"s3://p/a": dogs(0.5), "s3://p/b": dogs(0.5)})
    builder._ids.clear()
    builder.part(OLD, {"s3://p/a": dogs(0.5)})
    places, figures = scored(builder)
    assert len(places) == 2
    assert figures.doubt.tolist() == [0.25, 0.25]


def test_rare_classes_come_first_but_not_for_ever(builder: LakeBuilder) -> None:
    builder.record(OLD)
    builder.part(
        OLD,
        {f"s3://p/dog{i}": [instance("dog", 1.0)] for i in range(3)}
        | {f"s3://p/cat{i}": [instance("cat", 1.0)] for i in range(3)},
    )
    builder.labels([label_row("s3://p/l", "dog", instance=i) for i in range(20)])
    places, figures = scored(builder)
    dog, *_ = (figures.rarity[places[f"s3://p/dog{i}"]] for i in range(3))
    cats = [figures.rarity[places[f"s3://p/cat{i}"]] for i in range(3)]
    assert dog == 0
    assert cats[0] == 1
    assert cats == sorted(cats, reverse=True)
    assert cats[2] < 0.7
    assert figures.classes[figures.rarest[places["s3://p/cat0"]]] == "cat"


def test_without_labels_detections_tell_what_is_rare(builder: LakeBuilder) -> None:
    builder.record(OLD)
    builder.part(OLD, {"s3://p/a": dogs(*[0.9] * 6), "s3://p/b": [instance("cat", 0.9)]})
    places, figures = scored(builder)
    assert figures.rarity[places["s3://p/b"]] > figures.rarity[places["s3://p/a"]]


def test_the_two_newest_models_dispute(builder: LakeBuilder) -> None:
    everything = {"name": "x", "fingerprint": "y", "classes": ["dog", "cat"]}
    builder.record(OLD, model=everything)
    builder.part(OLD, {"s3://p/same": dogs(0.9), "s3://p/new": [], "s3://p/other": dogs(0.9)})
    builder.record(MIDDLE, model=everything)  # the same model again is no second opinion
    builder.part(MIDDLE, {"s3://p/new": []})
    rows = {"s3://p/same": dogs(0.9), "s3://p/new": dogs(0.9), "s3://p/other": [instance("cat", 0.9)]}
    by_other(builder, NEW, rows, model=everything)
    places, figures = scored(builder)
    dispute = {uri.rpartition("/")[2]: figures.dispute[i] for uri, i in places.items()}
    assert dispute == pytest.approx({"same": 0, "new": 1 - 1 / 1.9, "other": 1 - 1 / 2.8}, abs=1e-6)


def test_no_dispute_about_what_the_other_run_could_not_find(builder: LakeBuilder) -> None:
    builder.record(OLD, model={"classes": ["person"]}, options={"score": 0.6})
    builder.part(OLD, {"s3://p/a": [], "s3://p/b": [], "s3://p/c": []})
    rows = {
        "s3://p/a": dogs(0.9),
        "s3://p/b": [instance("person", 0.5)],
        "s3://p/c": [instance("person", 0.9)],
    }
    by_other(builder, NEW, rows, options={"classes": ["dog", "person"], "score": 0.05})
    places, figures = scored(builder)
    assert [figures.dispute[places[f"s3://p/{name}"]] for name in "ab"] == [0, 0]
    assert figures.dispute[places["s3://p/c"]] > 0.4


def test_no_dispute_about_another_version_of_the_object(builder: LakeBuilder) -> None:
    builder.record(OLD, model={})
    builder.part(OLD, [(image("s3://p/a", etag="before"), dogs(0.9))])
    by_other(builder, NEW, {"s3://p/a": []}, model={})
    assert scored(builder)[1].dispute.tolist() == [0]


def test_a_lake_without_images_is_told(builder: LakeBuilder) -> None:
    builder.labels([label_row("s3://p/a", "dog")])
    with pytest.raises(UserError, match="has no rows of images"):
        review_rows.require_runs(Lake(builder.uri, Storage()))


def test_only_the_parts_of_the_chosen_images_are_opened(builder: LakeBuilder) -> None:
    builder.part(OLD, {"s3://p/a": dogs(0.5), "s3://p/b": []})
    name = builder.part(OLD, {"s3://p/c": dogs(0.5)})
    lake = Lake(builder.uri, Storage())
    lake.parts("instances")
    (Path(builder.uri) / "instances" / f"run={OLD}" / name).write_bytes(b"PAR1 broken PAR1")
    lake._parts["instances"].sort(reverse=True)  # the schema is taken of another one
    images, instances = review_rows.chosen_rows(lake, [OLD], ["s3://p/a"])
    assert (len(images), len(instances)) == (1, 1)
