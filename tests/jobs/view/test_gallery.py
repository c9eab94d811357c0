"""What a gallery lists, by which filters and in which order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from masklake.jobs.query.database import Database
from masklake.jobs.view import gallery as gallery_module
from masklake.jobs.view.gallery import LakeGallery
from masklake.jobs.view.selection import LABELS, GalleryFilter
from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.storage.store import Storage

from tests.helpers.gallery_lakes import NEW, OLD, gallery_lake
from tests.helpers.lakes import LakeBuilder, image, instance


def opened(lake: LakeBuilder, where: str | None = None) -> LakeGallery:
    return LakeGallery(Database(Lake(lake.uri, Storage())), where)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> LakeBuilder:
    return gallery_lake(tmp_path_factory.mktemp("gallery"))


@pytest.fixture(scope="module", params=["held", "asked"])
def gallery(lake: LakeBuilder, request: pytest.FixtureRequest) -> Iterator[LakeGallery]:
    """Of few images the rows are held in memory; of many they are asked for each time."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "asked":
            patch.setattr(gallery_module, "_HELD", 0)
        gallery = opened(lake)
        assert (gallery._newest == "from newest_listed") == (request.param == "held")
        yield gallery


def names(gallery: LakeGallery, **choice: Any) -> list[str]:
    filter_ = GalleryFilter(**choice)
    images = gallery.page(filter_, 0, 100)
    assert gallery.count(filter_) == len(images)
    return [Path(row["uri"]).stem[:7] for row in images]


def test_the_summary_says_what_there_is(gallery: LakeGallery) -> None:
    summary = gallery.summary
    assert summary["images"] == 10
    assert summary["statuses"] == [["ok", 9], ["unreadable", 1]]
    assert [(label, n) for label, n, _ in summary["classes"]] == [
        ("dog", 9), ("<b>dog</b>", 1), ("horse", 1), ("person", 1),
    ]  # fmt: skip
    assert [(run, n) for run, n, _ in summary["runs"]] == [(NEW, 10), (OLD, 1)]
    assert summary["splits"] == [["train", 1], ["val", 1]]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"label": "person"}, ["a00"]),
        ({"label": "person", "score": 0.85}, []),
        ({"label": "dog", "score": 0.5}, ["a04", "a03", "a01", "a00", "changed", "gone"]),
        ({"label": "*", "score": 0.95}, []),
        ({"size": "small", "label": "dog", "score": 0.91}, []),
        ({"size": "large"}, []),
        ({"status": "unreadable"}, ["broken"]),
        ({"split": "train"}, ["a00"]),
        ({"split": "val"}, ["a01"]),
        ({"source": OLD}, ["a00"]),
        ({"source": LABELS, "label": "horse"}, ["a00"]),
        ({"source": LABELS, "sort": "count"}, ["a00", "a01"]),
    ],
)
def test_filters(gallery: LakeGallery, choice: dict[str, Any], expected: list[str]) -> None:
    assert sorted(names(gallery, **choice)) == sorted(expected)


def test_orders(gallery: LakeGallery) -> None:
    assert names(gallery, sort="newest", status="ok")[:3] == ["<img sr", "a05", "a04"]
    assert names(gallery, sort="count")[0] == "a00"
    doubted = gallery.page(GalleryFilter(sort="doubt", score=0.6), 0, 3)
    assert [row["doubt"] for row in doubted] == [1, 1, 0], (
        "doubt does not depend on the score that is asked for"
    )


def test_pages_go_over_the_ends_of_windows(lake: LakeBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery_module, "WINDOW", 4)
    gallery = opened(lake)
    whole = [row["id"] for row in gallery.page(GalleryFilter(), 0, 100)]
    assert len(set(whole)) == 10
    assert [row["id"] for row in gallery.page(GalleryFilter(), 3, 6)] == whole[3:9]
    assert gallery.page(GalleryFilter(), 50, 6) == []


def test_instances_of_a_run_another_and_the_labels(gallery: LakeGallery) -> None:
    (first,) = gallery.page(GalleryFilter(label="person"), 0, 5)

    def labels(source: str, most: int = 10) -> list[str]:
        return [row["label"] for row in gallery.instances([first], source, most).get(first["id"], [])]

    assert (labels(""), labels(OLD), labels(LABELS)) == (["dog", "person"], ["dog", "cat"], ["dog", "horse"])
    assert labels("", most=1) == ["dog"]
    (second,) = gallery.page(GalleryFilter(split="val"), 0, 5)
    (third, *_) = gallery.page(GalleryFilter(split="none"), 0, 1)
    looked_at = [gallery.instances([second, third], source, 10) for source in (LABELS, OLD)]
    assert looked_at == [{second["id"]: []}, {}], (
        "what is labelled and empty differs from what is not labelled"
    )
    dog, person = gallery.instances([first], "", 10)[first["id"]]
    assert dog["box"] == [8.0, 4.0, 16.0, 12.0]
    assert dog["mask"]["size"] == [48, 64]
    assert person["keypoints"][0] == ["nose", pytest.approx(30.59), 24.0, 3.0]


def test_an_image_by_its_id(gallery: LakeGallery) -> None:
    image_row = gallery.image(f"{NEW}~0")
    assert image_row is not None
    assert (image_row["uri"].endswith("a00.jpg"), image_row["split"]) == (True, "train")
    assert gallery.named(image_row["uri"]) == gallery.named("a00.jpg") == image_row
    (labelled,) = gallery.page(GalleryFilter(source=LABELS, split="val"), 0, 5)
    again = gallery.image(labelled["id"])
    assert again is not None
    assert again["uri"].endswith("a01.jpg")
    for id_ in (
        "",
        "x",
        f"{NEW}~99",
        f"{NEW}~1'; select",
        "labels~' or true --",
        f"{NEW}~²",
        f"nine~{'9' * 30}",
    ):
        assert gallery.image(id_) is None, id_


def test_where_speaks_of_instances_with_their_image(lake: LakeBuilder) -> None:
    assert names(opened(lake, "label = 'person' and score > .5")) == ["a00"]
    assert names(opened(lake, "status <> 'ok'")) == ["broken"]


@pytest.mark.parametrize(
    "where",
    [
        "",
        "label = ",
        "true; drop table runs",
        "read_text('/etc/passwd') is null",
        "labell = 'dog'",
    ],
)
def test_where_that_may_not_or_cannot_run(lake: LakeBuilder, where: str) -> None:
    with pytest.raises(UserError, match="--where"):
        opened(lake, where)


def test_words_that_do_not_exist(gallery: LakeGallery) -> None:
    with pytest.raises(UserError, match=r"no class 'perso'; did you mean 'person'\? \(classes: dog, "):
        gallery.check(GalleryFilter(label="perso"))
    with pytest.raises(UserError, match="has no run '20251101T000000-aaaaaa'; its newest run is"):
        gallery.check(GalleryFilter(), "20251101T000000-aaaaaa")
    with pytest.raises(
        UserError, match="size: 'larg' is not one of small, medium, large; did you mean 'large'"
    ):
        GalleryFilter(size="larg")


def test_a_class_that_is_sql(gallery: LakeGallery) -> None:
    assert names(gallery, label="dog' or true --") == []


def test_lakes_of_labels_alone_and_of_failures_alone(tmp_path: Path) -> None:
    failures = LakeBuilder(str(tmp_path / "failures"))
    failures.part(NEW, [(image("s3://p/a", status="missing", error="gone"), [])])
    failures.record(NEW)
    summary = opened(failures).summary
    assert (summary["statuses"], summary["classes"]) == ([["missing", 1]], [])
    assert names(opened(failures), sort="doubt") == ["a"]


def test_many_runs_in_one_list(tmp_path: Path) -> None:
    lake = LakeBuilder(str(tmp_path / "lake"))
    for i in range(30):
        run = f"20261101T0000{i:02}-aaaaaa"
        lake.part(run, [("s3://p/a", [instance("dog", 0.9)]), (f"s3://p/b{i}", [])])
        lake.record(run)
    gallery = opened(lake)
    assert gallery.summary["images"] == 31
    assert gallery.count(GalleryFilter(label="dog")) == 1
    assert len(gallery.summary["runs"]) == 30
