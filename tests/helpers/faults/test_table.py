"""The table of faults: a line for each case that struck or counted, and for each that failed before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tests.helpers.faults.table import FaultTable


def _ran(table: FaultTable, nodeid: str, *steps: Any, failed: bool = False) -> None:
    """A test of this id, which takes the steps."""
    call: Any = table.pytest_runtest_call(SimpleNamespace(nodeid=nodeid, name=nodeid.rpartition("::")[2]))  # type: ignore[arg-type]
    next(call)
    for step in steps:
        step()
    table.pytest_runtest_logreport(SimpleNamespace(failed=failed, nodeid=nodeid))  # type: ignore[arg-type]


def test_each_case_has_a_line_and_ordinary_tests_have_none() -> None:
    table = FaultTable()
    assert table.lines() == []

    def counts(rows: int) -> Any:
        return lambda: table.counted(1200, rows, lost=1200 - rows, doubled=0)

    _ran(table, "tests/pipeline/test_a.py::test_an_ordinary_run", counts(1200), failed=True)
    _ran(table, "tests/pipeline/test_a.py::test_a_kill", table.struck, counts(1199), counts(1200))
    _ran(table, "tests/faults/test_b.py::test_lost[rgw]", counts(1199), failed=True)
    _ran(table, "tests/faults/test_b.py::test_died_early", failed=True)
    head, *lines = [line.split() for line in table.lines()]
    assert head[:5] == ["fault", "inputs", "rows", "lost", "doubled"]
    assert lines == [
        ["a", "kill", "1,200", "1,200", "0", "0", "0.0"],
        ["lost[rgw]", "1,200", "1,199", "1", "0", "FAILED"],
        ["died", "early", "FAILED"],
    ]
