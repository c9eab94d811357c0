"""`masklake show`: one image, a sheet, a folder of pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.gallery_lakes import HOSTILE, NEW, OLD, gallery_lake
from tests.helpers.lakes import LakeBuilder, image
from tests.jobs.labels.test_command import Masklake

BACKGROUND = (0, 90, 150)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> str:
    return gallery_lake(tmp_path_factory.mktemp("show")).uri


def changed(path: Path) -> int:
    """How many pixels differ from the photo's one colour."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return int((np.abs(pixels - BACKGROUND).max(2) > 12).sum())


def test_one_image_by_its_uri_or_the_end_of_it(masklake: Masklake, lake: str, tmp_path: Path) -> None:
    whole = str(Path(lake).parent / "photos" / "a00.jpg")
    for name, file in ((whole, "a.png"), ("a00.jpg", "b.png"), ("photos/a00.jpg", "c.png")):
        assert masklake("show", lake, name, "--out", tmp_path / file)[0] == 0
    assert (
        (tmp_path / "a.png").read_bytes()
        == (tmp_path / "b.png").read_bytes()
        == (tmp_path / "c.png").read_bytes()
    )
    assert Image.open(tmp_path / "a.png").size == (1280, 960)
    assert changed(tmp_path / "a.png") > 20_000


def test_score_run_labels_and_side(masklake: Masklake, lake: str, tmp_path: Path) -> None:
    drawn = {}
    for name, options in {
        "all": [], "sure": ["--score", "0.85"], "none": ["--score", "1"], "old": ["--run", OLD], "labels": ["--labels"],
    }.items():  # fmt: skip
        assert masklake("show", lake, "a00.jpg", "--out", tmp_path / f"{name}.png", *options)[0] == 0
        drawn[name] = changed(tmp_path / f"{name}.png")
    assert drawn["all"] > drawn["sure"] > drawn["none"] == 0
    assert len({drawn[name] for name in ("all", "old", "labels")}) == 3
    masklake("show", lake, "a00.jpg", "--out", tmp_path / "large.png", "--side", "2560")
    assert Image.open(tmp_path / "large.png").size == (2560, 1920)
    assert changed(tmp_path / "large.png") == pytest.approx(4 * drawn["all"], rel=0.1), (
        "it grows with the picture"
    )


def test_a_query_as_a_sheet_and_as_a_folder(masklake: Masklake, lake: str, tmp_path: Path) -> None:
    where = ("--where", "label in ('dog', '<b>dog</b>')")
    code, printed, _ = masklake("show", lake, *where, "--out", tmp_path / "sheet.png", "--json")
    facts = json.loads(printed)
    assert (code, facts["images"]) == (0, 7)
    assert sorted(Path(uri).name for uri in facts["not_drawn"]) == ["changed.jpg", "gone.jpg"]
    assert Image.open(tmp_path / "sheet.png").width > 2_800
    code, printed, _ = masklake("show", lake, *where, "--out", tmp_path / "folder", "--limit", "20")
    assert code == 0
    assert "gone.jpg: the image is gone since" in printed
    assert "\u202e" not in printed
    names = sorted(path.name for path in (tmp_path / "folder").glob("*.png"))
    assert len(names) == 7
    assert any(name.startswith("img_src_x_onerror") for name in names)
    assert HOSTILE in (tmp_path / "folder" / "images.csv").read_text().replace('""', '"')


def test_what_cannot_be_shown(masklake: Masklake, lake: str, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "x.png")
    for arguments, message in (
        (["a0.jpg"], "is not an image of"),
        (["a0.jpg"], "did you mean 'a0"),
        (["gone.jpg"], "cannot be drawn: the image is gone since"),
        (["changed.jpg"], "has changed since the model saw it"),
        (["broken.jpg"], "cannot be drawn: unreadable: broken JPEG content"),
        (["--where", "label = 'zebra'"], "no image fits --where \"label = 'zebra'\" (classes: dog, "),
        (["--where", "labell = 'dog'"], "--where"),
        (["a00.jpg", "--run", "20251101T000000-aaaaaa"], "has no run"),
        ([], "name an image (URI), or choose some"),
    ):
        code, _, error = masklake("show", lake, *arguments, *out)
        assert (code, message in error) == (2, True), error
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_several_images_share(masklake: Masklake, tmp_path: Path) -> None:
    lake = LakeBuilder(str(tmp_path / "lake"))
    lake.part(NEW, [(image(f"s3://p/{folder}/a.jpg"), []) for folder in "xy"])
    code, _, error = masklake("show", lake.uri, "a.jpg", "--out", tmp_path / "x.png")
    assert code == 2
    assert "several images end so (s3://p/x/a.jpg, s3://p/y/a.jpg" in error
