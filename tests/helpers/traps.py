"""A folder full of somebody else's modules: whoever imports one of them is written down, and fails."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

_PACKAGES = ("model", "jobs", "infra", "tests")
_TRAP = """\
import sys
with open({diary!r}, "a") as diary:
    print(__name__, sys.argv, sys.path[:3], file=diary)
raise ImportError("somebody else's " + __name__)
"""


class Traps:
    """In `folder`: a module of every name that what is installed has, and the `standard` library; packages as ours are
    called, and an empty folder `pipeline/`."""

    def __init__(self, folder: Path, *, standard: bool = True) -> None:
        self.folder = folder
        self._diary = folder.parent / f"{folder.name}.diary"
        folder.mkdir()
        trap = _TRAP.format(diary=str(self._diary))
        names = importlib.metadata.packages_distributions().keys() | (
            sys.stdlib_module_names if standard else set()
        )
        for name in filter(str.isidentifier, names - {*_PACKAGES, "pipeline", "masklake"}):
            (folder / f"{name}.py").write_text(trap)
        for name in _PACKAGES:
            (folder / name).mkdir()
            (folder / name / "__init__.py").write_text(trap)
        (folder / "pipeline").mkdir()

    def sprung(self) -> str:
        """What was imported from there, and by whom."""
        return self._diary.read_text() if self._diary.exists() else ""
