"""Local files as objects: what a directory may hold beside files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from masklake.pipeline.storage.crash_points import on_reach
from masklake.pipeline.storage.files import at_home
from masklake.pipeline.storage.objects import Fetched
from masklake.pipeline.storage.store import Storage, normalise, normalise_folder


def _names(folder: Path) -> list[str]:
    return [info.uri.removeprefix(f"{folder}/") for info in Storage().walk(str(folder))]


def test_a_tree_in_the_order_of_its_keys(tmp_path: Path) -> None:
    for name in ("b/1.jpg", "b/2/x.jpg", "a.jpg", "b-c/y.jpg", "b.jpg", "b0.jpg", "é/z.jpg", "B.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert _names(tmp_path) == sorted(_names(tmp_path))
    assert len(_names(tmp_path)) == 8


def test_homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert at_home("~/photos") == tmp_path / "photos"
    assert at_home("photos/~") == Path("photos/~")
    assert at_home("~nobody-at-all/photos") == Path("~nobody-at-all/photos")


def test_links_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "real" / "deep" / "1.jpg").touch()
    (tmp_path / "real" / "up").symlink_to(tmp_path)
    (tmp_path / "real" / "here").symlink_to(".")
    (tmp_path / "also").symlink_to("real")
    (tmp_path / "one.jpg").symlink_to("real/deep/1.jpg")
    (tmp_path / "broken.jpg").symlink_to("nowhere")
    assert _names(tmp_path) == ["also/deep/1.jpg", "one.jpg", "real/deep/1.jpg"]


def test_what_is_no_file_is_not_listed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "file.jpg").touch()
    assert _names(tmp_path) == ["file.jpg"]


@pytest.mark.timeout(30)
def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    """A list may name anything: a pipe that nobody writes to would be waited for, a device read for ever."""
    os.mkfifo(tmp_path / "pipe")
    answers = Storage().get_many([str(tmp_path / "pipe"), "/dev/zero", str(tmp_path)], 1000)
    assert [isinstance(answer, OSError) for answer in answers] == [True] * 3
    assert "not a regular file" in str(answers[0])


def test_a_file_that_grows_while_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"abc")
    (fetched,) = Storage().get_many([str(file)])
    assert not isinstance(fetched, Exception)
    assert (fetched.data, fetched.size) == (b"abc", 3)


def test_one_file_has_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real/deep")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    wanted = f"{tmp_path}/real/a.jpg"
    for name in (
        "../real/a.jpg",
        "../work/.././real//a.jpg",
        f"file://{tmp_path}/real/deep/../a.jpg",
        "../link/../a.jpg",
    ):
        assert normalise(name) == wanted, name
    assert normalise("../link/a.jpg") == f"{tmp_path}/link/a.jpg", "links keep their names"
    assert normalise("..") == str(tmp_path)
    assert normalise_folder("../real/") == f"{tmp_path}/real"
    assert normalise("s3://b/x/../y") == "s3://b/x/../y", "keys know no .."
    assert normalise("~nobody-here/a.jpg") == f"{Path.cwd()}/~nobody-here/a.jpg", "nobody's home"


def test_a_name_that_is_no_utf8_is_spelled_and_read(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    names = [b"caf\xe9.jpg", b"cafz.jpg", b"caf\xc3\xa9.jpg", b"\xff\xfe/in.jpg", rb"real\xe9.jpg"]
    os.mkdir(folder + b"/\xff\xfe")  # noqa: PTH102  # pathlib takes no bytes
    for name in names:
        with open(folder + b"/" + name, "wb") as file:  # noqa: PTH123  # as above
            file.write(name)
    listed = Storage().list(str(tmp_path))
    assert listed == sorted(listed)
    assert {uri.removeprefix(f"{tmp_path}/") for uri in listed} == {
        r"caf\xe9.jpg", "cafz.jpg", "café.jpg", r"\xff\xfe/in.jpg", r"real\xe9.jpg"
    }  # fmt: skip
    answers = Storage().get_many(listed)
    assert sorted(answer.data for answer in answers if isinstance(answer, Fetched)) == sorted(names)


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    """By the name that a write gives its temporary file; younger ones may have a writer that lives."""
    reached: list[Path] = []
    folder = tmp_path / "lake" / "labels"
    with (
        on_reach(lambda point: reached.extend(folder.glob(".*")) if "aside" in point else None),
    ):
        Storage().write(str(folder / "part-1.parquet"), b"new")
    [temporary] = reached
    others = [folder / name for name in ("part-1.parquet", ".hidden", "part-2.tmp", ".x.0123456789.tmp")]
    for path in (temporary, *others):
        path.touch()
    Storage().clear_unfinished(str(tmp_path), seconds=60)
    assert temporary.exists()
    Storage().clear_unfinished(str(tmp_path))
    assert sorted(folder.iterdir()) == sorted(others)
