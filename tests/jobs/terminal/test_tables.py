"""Tables in terminals that are too narrow for them."""

from __future__ import annotations

import io

import pytest
from masklake.jobs.terminal.tables import plain_console, print_rows
from rich.console import Console
from rich.text import Text

ROWS = [
    ("20261101T000000-aaaaaa", Text("complete", "green"), "photos@0123456789ab", "1,500"),
    ("20261102T000000-bbbbbb", Text("running?", "red"), "写真@ba9876543210", "7"),
]


def printed(width: int, *, cut: str | None = None) -> list[str]:
    console = Console(file=io.StringIO(), width=width, markup=False, highlight=False)
    left, less = ("run", "state", "model"), ("images", "model", "run")
    print_rows(console, ROWS, left, ("images",), dispensable=less, cut=cut)
    assert isinstance(console.file, io.StringIO)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert all(len(line) <= width for line in lines[:4])
    return lines


def test_what_there_is_room_for_is_all_there() -> None:
    heading, _, first, second = printed(64)
    assert heading.split() == ["run", "state", "model", "images"]
    assert first.split() == ["20261101T000000-aaaaaa", "complete", "photos@0123456789ab", "1,500"]
    assert second.split()[2:] == ["写真@ba9876543210", "7"]


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (63, ["run", "state", "model"]),
        (55, ["run", "state", "model"]),
        (54, ["run", "state"]),
        (20, ["state"]),
    ],
)
def test_what_matters_least_is_left_out_first_and_told(width: int, columns: list[str]) -> None:
    heading, _, first, second, told = printed(width)
    assert heading.split() == columns
    assert ("complete" in first, "running?" in second) == (True, True)
    missing = [name for name in ("images", "model", "run") if name not in columns]
    assert told == f"(too narrow for: {', '.join(missing)}; --json has all)"


def test_a_long_column_is_cut_before_others_go() -> None:
    heading, _, first, _ = printed(60, cut="model")
    assert heading.split() == ["run", "state", "model", "images"]
    assert first.split() == ["20261101T000000-aaaaaa", "complete", "photos@0123456…", "1,500"]


def test_a_file_has_all_of_it() -> None:
    console = plain_console(io.StringIO())
    print_rows(console, [("x" * 500,)], ("a",), dispensable=("a",), cut="a")
    assert isinstance(console.file, io.StringIO)
    assert "x" * 500 in console.file.getvalue()
    print_rows(console, [], ("a",), dispensable=())
