"""From names in files to the lake's images: found, told as missing, or told as ambiguous, and never guessed."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from masklake.pipeline.errors import UserError
from masklake.pipeline.labels.placement import Placement, place, read_mapping
from masklake.pipeline.labels.sets import LabelledImage
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.storage.store import Storage

from tests.conftest import Bucket
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


def named(name: str, width: int | None = 64, height: int | None = 48, **fields: Any) -> LabelledImage:
    return LabelledImage(name=name, width=width, height=height, **fields)


def outcome(placement: Placement) -> list[str]:
    return [uri for _, uri in placement.placed] + [
        f"{unplaced_.name} {unplaced_.reason}" for unplaced_ in placement.unplaced
    ]


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
    placement = place([named("ü.jpg"), named("d/ü.jpg")], lake)
    assert outcome(placement) == ["/d/ü.jpg", "d/ü.jpg is /d/ü.jpg, and so is 'ü.jpg'"]


def test_what_the_mapping_the_file_and_the_prefix_say_comes_first(lake: Lake) -> None:
    images = [
        named("b.jpg"),
        named("x/b.jpg", uri="s3://p/y/b.jpg"),
        named("new/../n'.jpg"),
        named("s3://else/x.jpg"),
    ]
    placement = place(images, lake, mapping={"b.jpg": "s3://p/x/b.jpg"}, prefix="s3://q", unchecked=True)
    assert outcome(placement) == [
        "s3://p/x/b.jpg", "s3://p/y/b.jpg", "s3://q/n'.jpg", "s3://else/x.jpg",
    ]  # fmt: skip
    assert outcome(place([named("s3://q/a b")], lake, prefix="s3://q/", unchecked=True)) == ["s3://q/a b"]
    assert outcome(place([named("a.jpg")], lake, prefix="s3://p"))[0].endswith(
        "640×480 in the lake (s3://p/a.jpg)"
    )


def test_aliases_are_tried_after_the_name(lake: Lake) -> None:
    images = [named("/data/upload/1/0a1b2c3d-ü.jpg", None, None, aliases=("0a1b2c3d-ü.jpg", "ü.jpg"))]
    placement = place(images, lake)
    assert outcome(placement) == ["/d/ü.jpg"]
    assert placement.sizes["/d/ü.jpg"] == (64, 48)
    assert outcome(place(images, lake, prefix="s3://q", unchecked=True)) == ["s3://q/ü.jpg"]


SPELLINGS = (
    "images\\a.jpg", "./images/a.jpg", "/images/a.jpg", "..\\images\\a.jpg", "../images/a.jpg", "images//a.jpg", "C:\\images\\a.jpg",
    "x/../images/a.jpg", "images%5Ca.jpg",
)  # fmt: skip


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings_of_one_name_are_one_image(lake: Lake, tmp_path: Path, name: str) -> None:
    file = tmp_path / "p" / "images" / "a.jpg"
    file.parent.mkdir(parents=True)
    file.touch()
    assert outcome(place([named(name)], lake, prefix=f"{tmp_path}/p/")) == [str(file)]
    # and where nobody looks, what is likeliest
    likeliest = "s3://q/images/a.jpg" if "%" not in name else f"s3://q/{name}"
    assert outcome(place([named(name)], lake, prefix="s3://q/", unchecked=True)) == [likeliest]
    # and among the lake's own
    builder = LakeBuilder(str(tmp_path / "other"))
    builder.part(R1, {"s3://p/images/a.jpg": []})
    assert outcome(place([named(name)], Lake(builder.uri, Storage()))) == ["s3://p/images/a.jpg"]


def test_names_that_are_there_as_they_are_written_stay_so(lake: Lake, tmp_path: Path) -> None:
    for name in ("a\\b.jpg", "50%25.jpg", "ö.jpg", "o\u0308.jpg"):
        folder = tmp_path / name.encode().hex()
        folder.mkdir()
        (folder / name).touch()
        [uri] = outcome(place([named(name)], lake, prefix=str(folder)))
        assert uri == str(folder / name)


def test_composed_and_decomposed_letters_are_one_name(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "o\u0308.jpg").touch()
    assert outcome(place([named("ö.jpg")], lake, prefix=str(tmp_path))) == [str(tmp_path / "o\u0308.jpg")]
    assert outcome(place([named("u\u0308.jpg")], lake)) == ["/d/ü.jpg"]


def test_what_is_not_there_is_told(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    images = [named("a.jpg"), named("b.jpg"), named("c\0.jpg")]
    placement = place(images, lake, prefix=str(tmp_path))
    assert outcome(placement) == [
        f"{tmp_path}/a.jpg",
        f"b.jpg is not there: {tmp_path}/b.jpg does not exist (--unchecked takes names as they are)",
        f"c\0.jpg is not there: {tmp_path}/c\0.jpg does not exist (--unchecked takes names as they are)",
    ]
    assert len(place(images, lake, prefix=str(tmp_path), unchecked=True).placed) == 3
    # an image that the lake knows was there
    assert outcome(place([named("x/b.jpg")], lake, prefix="s3://p")) == ["s3://p/x/b.jpg"]


def test_a_bucket_that_cannot_be_asked_is_told(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> bool:
        raise PermissionError("no")

    monkeypatch.setattr(Storage, "exists", refused)
    placement = place([named("new.jpg")], lake, prefix="s3://q")
    assert outcome(placement) == ["s3://q/new.jpg"]
    [note] = placement.notes
    assert note.startswith(
        "images were not looked for, their names are taken as they are (s3://q: cannot look for"
    )


@pytest.mark.parametrize("s3_bucket", ["moto"], indirect=True)
def test_many_images_are_looked_for_in_one_listing(
    lake: Lake, s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(60):
        s3_bucket.put(f"photos/{i}.jpg", b"x")
    monkeypatch.setattr(Storage, "exists", lambda *_: pytest.fail("asked one by one"))
    placement = place([named(f".\\{i}.jpg") for i in range(61)], lake, prefix=f"{s3_bucket.uri}/photos")
    assert len(placement.placed) == 60
    assert placement.unplaced[0].reason.startswith("is not there")


def test_links_of_label_studio_and_signed_urls(lake: Lake) -> None:
    def below(name: str, prefix: str = "s3://q/photos/") -> list[str]:
        from masklake.pipeline.labels.names import aliases

        return outcome(place([named(name, aliases=aliases(name))], lake, prefix=prefix, unchecked=True))

    link = base64.b64encode(b"s3://q/photos/x y.jpg").decode()
    assert below(f"https://studio/tasks/3/presign/?fileuri={link}") == ["s3://q/photos/x y.jpg"]
    assert below("/tasks/3/resolve/?fileuri=s3%3A%2F%2Fz%2Fk.jpg") == ["s3://z/k.jpg"]
    assert below("https://q.s3.amazonaws.com/photos/a%20b.jpg?X-Amz-Signature=1") == ["s3://q/photos/a b.jpg"]
    assert below("https://s3.example/q/photos/a.jpg") == ["s3://q/photos/a.jpg"]
    assert below("/data/upload/vacation-a.jpg") == ["s3://q/photos/vacation-a.jpg"]
    assert below("/data/upload/7/0a1b2c3d-a.jpg") == ["s3://q/photos/a.jpg"]
    assert below("/data/local-files/?d=images%5Ca.jpg") == ["s3://q/photos/images/a.jpg"]
    assert below("s3a://z/k.jpg") == ["s3://z/k.jpg"]
    assert below(f"http://[x/presign/?fileuri={link}#top") == ["s3://q/photos/x y.jpg"], "whatever the host"


def test_mappings_are_csv_or_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"a'b": "s3://p/a", "c\nd": "/x/%41/y"}
    assert read_mapping(b'{"a\'b": "s3://p/a", "c\\nd": "/x/%41/y"}', "m.json") == names
    csv = '\ufeffname,uri,reason\r\na\'b,s3://p/a,\r\n"c\nd",/x/%41/y,"why, so"\r\nnone,,later\r\n'
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
