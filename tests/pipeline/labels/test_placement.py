"""From names in files to the lake's images: found, told as missing, or told as ambiguous, and never guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from masklake.pipeline.errors import UserError
from masklake.pipeline.labels.placement import Placement, place, read_mapping
from masklake.pipeline.labels.sets import LabelledImage
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.storage.store import Storage

from tests.helpers.lakes import LakeBuilder, image

R1, R2 = "20261101T000000-aaaaaa", "20261102T000000-bbbbbb"
URIS = (
    "s3://p/a.jpg",
    "s3://p/x/b.jpg",
    "s3://p/y/b.jpg",
    "s3://p/y/z/b.jpg",
    "s3://p/q'\n%41/../c.jpg",
    "/d/ü.jpg",
)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    builder = LakeBuilder(str(tmp_path / "lake"))
    builder.part(R1, {uri: [] for uri in URIS})
    builder.part(R2, [(image("s3://p/a.jpg", width=640, height=480), []), (image("s3://p/gone.jpg", width=None, height=None), [])])  # fmt: skip
    return Lake(builder.uri, Storage())


def named(name: str, width: int | None = 64, height: int | None = 48, **given: Any) -> LabelledImage:
    return LabelledImage(name=name, width=width, height=height, **given)


def outcome(found: Placement) -> list[str]:
    return [uri for _, uri in found.placed] + [f"{one.name} {one.reason}" for one in found.unplaced]


@pytest.mark.parametrize(("name", "expected"), [
    ("x/b.jpg", "s3://p/x/b.jpg"),
    ("./x/b.jpg", "s3://p/x/b.jpg"),
    ("p/x/b.jpg", "s3://p/x/b.jpg"),
    ("s3://p/x/b.jpg", "s3://p/x/b.jpg"),
    ("ü.jpg", "/d/ü.jpg"),
    ("/d/ü.jpg", "/d/ü.jpg"),
    ("gone.jpg", "s3://p/gone.jpg"),
    ("q'\n%41/../c.jpg", "s3://p/q'\n%41/../c.jpg"),
    ("../c.jpg", "s3://p/q'\n%41/../c.jpg"),
    ("qA/c.jpg", "qA/c.jpg is not in the lake's images"),
    ("b.jpg", "b.jpg could be 3 images: s3://p/x/b.jpg, s3://p/y/b.jpg, s3://p/y/z/b.jpg"),
    ("/b.jpg", "/b.jpg could be 3 images: s3://p/x/b.jpg, s3://p/y/b.jpg, s3://p/y/z/b.jpg"),
    ("train/a.jpg", "train/a.jpg is not in the lake's images"),
    ("A.jpg", "A.jpg is not in the lake's images"),
    ("pa.jpg", "pa.jpg is not in the lake's images"),
    ("a.jpg", "a.jpg is 64×48 in the file and 640×480 in the lake (s3://p/a.jpg)"),
])  # fmt: skip
def test_a_name_is_the_whole_end_of_one_uri(lake: Lake, name: str, expected: str) -> None:
    assert outcome(place([named(name)], lake)) == [expected]


def test_folders_may_be_left_out(lake: Lake) -> None:
    assert outcome(place([named("train/a.jpg", 640, 480)], lake, by_basename=True)) == ["s3://p/a.jpg"]


def test_two_names_of_one_image_are_told(lake: Lake) -> None:
    found = place([named("ü.jpg"), named("d/ü.jpg")], lake)
    assert outcome(found) == ["/d/ü.jpg", "d/ü.jpg is /d/ü.jpg, and so is 'ü.jpg'"]


def test_what_the_mapping_the_file_and_the_prefix_say_comes_first(lake: Lake) -> None:
    images = [
        named("b.jpg"),
        named("x/b.jpg", uri="s3://p/y/b.jpg"),
        named("new/../n'.jpg"),
        named("s3://else/x.jpg"),
    ]
    found = place(images, lake, mapping={"b.jpg": "s3://p/x/b.jpg"}, prefix="s3://q")
    assert outcome(found) == [
        "s3://p/x/b.jpg", "s3://p/y/b.jpg", "s3://q/new/../n'.jpg", "s3://else/x.jpg is not in the lake's images",
    ]  # fmt: skip
    assert outcome(place([named("s3://q/a b")], lake, prefix="s3://q/")) == ["s3://q/a b"]
    assert outcome(place([named("a.jpg")], lake, prefix="s3://p"))[0].endswith(
        "640×480 in the lake (s3://p/a.jpg)"
    )


def test_aliases_are_tried_after_the_name(lake: Lake) -> None:
    images = [named("/data/upload/1/0a1b2c3d-ü.jpg", None, None, aliases=("0a1b2c3d-ü.jpg", "ü.jpg"))]
    found = place(images, lake)
    assert outcome(found) == ["/d/ü.jpg"]
    assert found.sizes["/d/ü.jpg"] == (64, 48)
    assert outcome(place(images, lake, prefix="s3://q")) == ["s3://q/ü.jpg"]


def test_mappings_are_csv_or_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"a'b": "s3://p/a", "c\nd": "/x/%41/../y"}
    assert read_mapping(b'{"a\'b": "s3://p/a", "c\\nd": "/x/%41/../y"}', "m.json") == names
    csv = '\ufeffname,uri,reason\r\na\'b,s3://p/a,\r\n"c\nd",/x/%41/../y,"why, so"\r\nnone,,later\r\n'
    assert read_mapping(csv.encode(), "m.csv") == names
    assert read_mapping(b"name,uri\na,x.jpg\n", "m.csv") == {"a": str(tmp_path / "x.jpg")}


@pytest.mark.parametrize(("data", "problem"), [
    (b"", "it lacks the column name or uri"),
    (b"file,uri\na,b\n", "it lacks the column name or uri"),
    (b"\xff\xfe", "is no mapping"),
    (b'{"a": 3}', "a is a number, not a text"),
    (b'name,uri\n"a,b', "is no mapping"),
    (b'{"a": ', "is not JSON"),
])  # fmt: skip
def test_what_is_no_mapping_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        read_mapping(data, "m")
