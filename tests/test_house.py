"""The house: what may know what, how large a module may be, and where its test is."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

FLOORS = ("model", "pipeline", "jobs")
"""From the ground: each may import from those before it, and from itself."""
LINES = 350
TABLES: set[str] = set()
"""Modules that are tables and may be longer."""
SAY_NOTHING = {"found", "told", "at", "of", "made", "one"}
"""Words that do not say what a value is: no floor binds them."""


def modules() -> dict[str, Path]:
    """Every module by its dotted name without `masklake.`."""
    by_name = {}
    for floor in FLOORS:
        for path in (ROOT / floor).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            by_name[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return by_name


MODULES = modules()


def imports(path: Path) -> set[str]:
    """The modules of Masklake that a module imports, wherever it does."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("masklake."):
            module = node.module.removeprefix("masklake.")
            for alias in node.names:
                names.add(f"{module}.{alias.name}" if f"{module}.{alias.name}" in MODULES else module)
        elif isinstance(node, ast.Import):
            names |= {a.name.removeprefix("masklake.") for a in node.names if a.name.startswith("masklake.")}
    return names


GRAPH = {name: imports(path) - {name} for name, path in MODULES.items()}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one node (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    components = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for to in graph.get(node, ()):
            if to not in index:
                visit(to)
                low[node] = min(low[node], low[to])
            elif to in stack:
                low[node] = min(low[node], index[to])
        if low[node] == index[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(component) > 1:
                components.append(sorted(component))

    for node in graph:
        if node not in index:
            visit(node)
    return components


def room(module: str) -> str:
    """The room of a module: the folder below its floor, or the module itself where it stands on the floor."""
    return ".".join(module.split(".")[:2])


def test_no_module_imports_itself_through_others() -> None:
    assert circles(GRAPH) == []


def test_no_room_imports_itself_through_others() -> None:
    rooms: dict[str, set[str]] = defaultdict(set)
    for module, names in GRAPH.items():
        if module not in FLOORS:
            rooms[room(module)] |= {room(name) for name in names} - {room(module)}
    assert circles(rooms) == []


def test_a_floor_knows_only_those_below_it() -> None:
    upward = [
        (module, name)
        for module, names in GRAPH.items()
        for name in names
        if FLOORS.index(name.split(".")[0]) > FLOORS.index(module.split(".")[0])
    ]
    assert upward == []


def third_parties(path: Path) -> Iterable[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_are_of_the_package(floor: str) -> None:
    """`import pipeline` works where the repository is the working folder, and nowhere else."""
    strangers = {
        (name, top)
        for name, path in MODULES.items()
        if name.split(".")[0] == floor
        for top in third_parties(path)
        if top in FLOORS
    }
    assert strangers == set()


def test_the_model_knows_neither_ray_nor_storage() -> None:
    known = {(n, t) for n, path in MODULES.items() if n.startswith("model") for t in third_parties(path)}
    assert {(n, t) for n, t in known if t in ("ray", "fsspec", "s3fs", "pyarrow", "argparse")} == set()


def test_modules_fit_in_the_head() -> None:
    long = {name: len(path.read_text().splitlines()) for name, path in MODULES.items() if name not in TABLES}
    assert {name: lines for name, lines in long.items() if lines > LINES} == {}


def test_every_room_says_what_it_is() -> None:
    packages = [path for path in MODULES.values() if path.name == "__init__.py"]
    assert [str(p) for p in packages if not ast.get_docstring(ast.parse(p.read_text()))] == []


def test_tests_stand_as_the_modules_do() -> None:
    """A test of a room is in the folder of that room."""
    rooms = {path.parent.relative_to(ROOT) for path in MODULES.values()}
    strays = [
        path.relative_to(ROOT)
        for floor in FLOORS
        for path in (ROOT / "tests" / floor).rglob("test_*.py")
        if path.parent.relative_to(ROOT / "tests") not in rooms
    ]
    assert strays == []


def test_no_two_classes_share_a_name() -> None:
    homes: dict[str, list[str]] = defaultdict(list)
    for name, path in MODULES.items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(name)
    assert {name: modules for name, modules in homes.items() if len(modules) > 1} == {}


def bindings(path: Path) -> Iterable[tuple[str, int]]:
    """The names that a module binds (assignments, loops, parameters, functions, attributes, imports), with their lines.

    But for class methods: `Summary.of(run)` is an alternative constructor, and reads as one.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.FunctionDef(args=ast.arguments(args=[ast.arg(arg="cls"), *_])):
                pass
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name, node.lineno
            case ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.ExceptHandler(name=str(name)):
                yield name, node.lineno
            case ast.alias(asname=str(name)):
                yield name, node.lineno


@pytest.mark.parametrize("floor", FLOORS)
def test_names_say_the_thing(floor: str) -> None:
    """`rows`, `record`, `version`."""
    silent = [
        f"{name}:{line}: {word}"
        for name, path in MODULES.items()
        if name.split(".")[0] == floor
        for word, line in bindings(path)
        if word.lstrip("_") in SAY_NOTHING
    ]
    assert silent == []
