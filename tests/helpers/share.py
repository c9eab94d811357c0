"""A share of long suites: `--seed N` puts the files of tests into an order of its own, `--minutes M` begins none after that.

CI has 90 minutes, and the slow tests may take longer. So each run takes them in another order, says by which seed, and
leaves out what no longer fits; `make test-slow SEED=N` takes the same order again, to its end.
"""

from __future__ import annotations

import random
import time

import pytest

_START = time.monotonic()
_left_out: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    """The two options."""
    group = parser.getgroup("share of the suite")
    group.addoption("--seed", type=int, help="take the files of tests in the order of this seed")
    group.addoption(
        "--minutes", type=float, help="begin no test after so many minutes; those left are skipped"
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files change places, tests of one file stay together: they share what is set up for them."""
    seed = config.getoption("--seed")
    if seed is None:
        return
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(str(item.path), []).append(item)
    groups = [files[path] for path in sorted(files)]
    random.Random(seed).shuffle(groups)  # noqa: S311  # no secret hangs on it
    items[:] = [item for group in groups for item in group]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what begins too late."""
    minutes = item.config.getoption("--minutes")
    if minutes is not None and time.monotonic() - _START > 60 * minutes:
        _left_out.append(item.nodeid)
        pytest.skip(f"does not fit into {minutes:g} minutes: another run's share")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which share it was."""
    seed = config.getoption("--seed")
    if seed is not None:
        terminalreporter.write_line(
            f"share of the suite: seed {seed}, {len(_left_out)} tests left to other runs"
        )
    for name in _left_out:
        terminalreporter.write_line(f"  left out: {name}")
