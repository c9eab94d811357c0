"""The folder of an export: whole or not there, never over what no export wrote, names that stay inside."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from masklake.pipeline.errors import UserError
from masklake.pipeline.export.folder import MANIFEST, writing
from masklake.pipeline.export.formats import FORMATS
from masklake.pipeline.export.json_file import JsonArray, JsonArrays
from masklake.pipeline.export.names import file_of, is_plain, stem_of
from masklake.pipeline.export.remote import writing_at
from masklake.pipeline.storage.store import Storage

from tests.helpers.exports import HOSTILE, all_files, detected, ring_instance, written
from tests.helpers.label_sets import an_instance, label_set


def test_it_is_there_when_it_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with writing(str(out), overwrite=False) as folder:
        folder.open("a/b.txt").close()
        folder.manifest = {"x": 1}
        assert not out.exists()
    assert all_files(out) == ["a/b.txt", MANIFEST]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_after_an_error_nothing_has_changed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with writing(str(out), overwrite=False) as folder:
        folder.manifest = {"number": 1}
    with pytest.raises(ZeroDivisionError), writing(str(out), overwrite=True) as folder:
        folder.manifest = {"number": 2}
        raise ZeroDivisionError
    assert json.loads((out / MANIFEST).read_text()) == {"number": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_earlier_export_is_replaced_when_asked(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for number in (1, 2):
        with writing(str(out), overwrite=number == 2) as folder:
            folder.open(f"{number}.txt").close()
            folder.manifest = {}
    assert all_files(out) == ["2.txt", MANIFEST]
    with (
        pytest.raises(UserError, match="holds an export already; --overwrite"),
        writing(str(out), overwrite=False),
    ):
        pass


def test_what_no_export_wrote_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with (
        pytest.raises(UserError, match="holds files that no export wrote"),
        writing(str(tmp_path), overwrite=True),
    ):
        pass
    with pytest.raises(UserError, match="is a file"), writing(str(tmp_path / "thesis.tex"), overwrite=True):
        pass
    assert all_files(tmp_path) == ["thesis.tex"]
    (tmp_path / "empty").mkdir()
    with writing(str(tmp_path / "empty"), overwrite=False) as folder:
        folder.manifest = {}
    assert all_files(tmp_path / "empty") == [MANIFEST]


@pytest.mark.parametrize("scheme", ["file://", "file:"])
def test_a_path_may_be_written_as_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.chdir(tmp_path)
    with writing_at(f"{scheme}{tmp_path}/out/", Storage(), overwrite=False):
        pass
    assert all_files(tmp_path) == [f"out/{MANIFEST}"]


@given(st.text(max_size=80))
def test_a_name_is_one_plain_part(key: str) -> None:
    uri = f"s3://p/{key}"
    for name in (stem_of(uri), file_of(uri)):
        assert PurePosixPath(name).parts == (name,)
        assert name.isascii()
        assert name.isprintable()
        assert len(name) < 90
        assert not set(name) & set("/\\:*?\"<>|'=; \t")
        assert name[0] not in ".-"


def test_two_images_never_share_a_name() -> None:
    uris = ["s3://p/a.jpg", "s3://p/A.jpg", "s3://q/a.jpg", "s3://p/a.png", "s3://p/a .jpg", "/p/a.jpg"]
    assert len({stem_of(uri) for uri in uris}) == len(uris)
    assert file_of("s3://p/x/Photo 1.JPG").startswith("Photo_1-")
    assert file_of("s3://p/x/Photo 1.JPG").endswith(".jpg")


@pytest.mark.parametrize("path", ["../a", "a/../b", "/a", "a//b", "./a", "a\\b", "c:a", "a\x00", "a\n", ""])
def test_such_paths_are_not_plain(path: str) -> None:
    assert not is_plain(path)
    assert is_plain("2026/a b é.jpg")


@pytest.mark.parametrize("format_", FORMATS)
def test_hostile_keys_and_classes_stay_text(tmp_path: Path, format_: str) -> None:
    """Nothing is written outside the folder, no file has a name of a key, and images.csv says which is which."""
    label = "a\n- b: '\"</Label>\x1b[0m"
    person = replace(an_instance("person", keypoints=True), label=label, label_id=99)
    images = [detected(label_set(uri, ring_instance(), person), 0.9, 0.5) for uri in HOSTILE]
    folder = tmp_path / "deep" / "er" / "out"
    written(folder, format_, images)
    assert {path.name for path in tmp_path.iterdir()} == {"deep"}
    assert [path.name for path in folder.parent.iterdir()] == ["out"]
    for file in all_files(folder):
        assert file.isascii()
        assert ".." not in file
        assert "passwd/" not in file
    with (folder / "images.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert [row["uri"] for row in rows] == HOSTILE
    assert len({row["file"] for row in rows}) == len(HOSTILE)
    assert all(is_plain(row["file"]) for row in rows)


def test_json_of_any_length(tmp_path: Path) -> None:
    with writing(str(tmp_path / "out"), overwrite=False) as folder:
        arrays = JsonArrays(folder, "x.json", {"info": {"a": "é"}, "n": 1}, ("images", "annotations", "none"))
        for i in range(1000):
            arrays.add("images", {"id": i})
            arrays.add("annotations", i)
        arrays.finish()
        for count in range(3):
            array = JsonArray(folder, f"{count}.json")
            for i in range(count):
                array.add({"i": i})
            array.finish()
        for name in all_files(folder.path):
            assert name in ("x.json", "0.json", "1.json", "2.json")  # nothing that waits is left behind
    content = json.loads((tmp_path / "out" / "x.json").read_text())
    assert content == {
        "info": {"a": "é"}, "n": 1,
        "images": [{"id": i} for i in range(1000)], "annotations": list(range(1000)), "none": [],
    }  # fmt: skip
    for count in range(3):
        array_content = json.loads((tmp_path / "out" / f"{count}.json").read_text())
        assert array_content == [{"i": i} for i in range(count)]
