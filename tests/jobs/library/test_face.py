"""`import masklake`: instant, complete, and explained."""

from __future__ import annotations

import inspect
import subprocess
import sys

import masklake
import pytest

_HEAVY = ("torch", "ray", "duckdb", "pyarrow", "numpy")


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import masklake; dir(masklake); masklake.__version__", ""),
        ("import masklake; masklake.decode_mask({'size': [1, 1], 'counts': b'01'})", "numpy"),
        ("import masklake; masklake.Detections, masklake.load_model, masklake.UserError", "numpy"),
        (
            "from masklake.jobs.query import database; import masklake; masklake.open_lake",
            "numpy duckdb pyarrow",
        ),
    ],
)
def test_nothing_is_imported_before_it_is_needed(code: str, allowed: str) -> None:
    show = f"print(*({{name.partition('.')[0] for name in sys.modules}} & set({_HEAVY})))"
    printed = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; {show}"], capture_output=True, text=True, check=True
    ).stdout
    assert set(printed.split()) <= set(allowed.split())


def test_every_name_is_there_and_says_what_it_is() -> None:
    assert sorted(masklake.__all__) == masklake.__all__ == sorted(masklake._HOMES)
    assert set(masklake.__all__) <= set(dir(masklake))
    for name in masklake.__all__:
        thing = getattr(masklake, name)
        assert thing.__name__ == name
        assert inspect.getdoc(thing), name
        for method, function in inspect.getmembers(thing, inspect.isfunction):
            assert method.startswith("_") or inspect.getdoc(function), f"{name}.{method}"


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="open_lake"):
        masklake.open_the_lake  # noqa: B018
