"""The table of faults: what each case of a session was given and had in the end, printed once, after all tests.

A case says when it strikes (`struck`), and at its end what it has counted (`counted`). Its line is named after its test. A case of tests/faults that failed before it could count has a line as well.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import pytest

_FOLDER, _WIDEST = "tests/faults/", 90
_HEAD = ("fault", "inputs", "rows", "lost", "doubled", "recovered in s", "")


@dataclass
class Case:
    """One line. Inputs and rows are images where the name does not say otherwise."""

    fault: str
    inputs: int | None = None
    rows: int | None = None
    lost: int | None = None
    doubled: int | None = None
    seconds: float | None = None
    """From the last strike to the count."""
    failed: bool = False

    def cells(self) -> list[str]:
        """As text, in the order of the table's head."""
        numbers = (self.inputs, self.rows, self.lost, self.doubled)
        seconds = "" if self.seconds is None else f"{self.seconds:.1f}"
        texts = ["" if number is None else f"{number:,}" for number in numbers]
        fault = self.fault if len(self.fault) <= _WIDEST else f"{self.fault[: _WIDEST - 1]}…"
        return [fault, *texts, seconds, "FAILED" if self.failed else ""]


def _named(test: str) -> str:
    return test.removeprefix("test_").replace("_", " ")


class FaultTable:
    """Of one session of pytest: a plugin of it."""

    def __init__(self) -> None:
        self.cases: dict[str, Case] = {}
        self._test = ""
        self._name = ""
        self._struck: float | None = None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        """Know which case it is that strikes and counts."""
        self._test, self._struck = item.nodeid, None
        self._name = _named(item.name)
        return (yield)

    def struck(self) -> None:
        """Something was just broken."""
        self._struck = time.monotonic()

    def counted(self, inputs: int, rows: int, *, lost: int, doubled: int, unit: str = "") -> None:
        """What was given, and what there is. Of one test's counts the last stands."""
        if self._struck is None and _FOLDER not in self._test:
            return  # an ordinary run of another test
        seconds = None if self._struck is None else time.monotonic() - self._struck
        name = f"{self._name} ({unit})" if unit else self._name
        self.cases[self._test] = Case(name, inputs, rows, lost, doubled, seconds)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Mark what failed."""
        if report.failed and _FOLDER in report.nodeid:
            self.cases.setdefault(report.nodeid, Case(_named(report.nodeid.rpartition("::")[2])))
        if report.failed and report.nodeid in self.cases:
            self.cases[report.nodeid].failed = True

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """A worker of pytest-xdist hands its cases to the session that prints."""
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["faults"] = {test: asdict(case) for test, case in self.cases.items()}

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take the cases of a worker of pytest-xdist. One that died gives none; what failed on it is told here."""
        for test, case in getattr(node, "workeroutput", {}).get("faults", {}).items():
            failed = test in self.cases and self.cases[test].failed
            self.cases[test] = replace(Case(**case), failed=failed or case["failed"])

    def lines(self) -> list[str]:
        """The table, its columns aligned; nothing where no case ran."""
        if not self.cases:
            return []
        rows = [list(_HEAD), *(case.cells() for case in self.cases.values())]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
            for row in rows
        ]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print it."""
        if lines := self.lines():
            terminalreporter.section("faults")
            for line in lines:
                terminalreporter.write_line(line)


table = FaultTable()
"""That of this session."""
struck, counted = table.struck, table.counted
