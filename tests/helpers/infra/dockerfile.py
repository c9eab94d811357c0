"""Reads a Dockerfile as stages of instructions."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Stage:
    """From one FROM to the next."""

    base: str
    name: str
    instructions: list[tuple[str, str]] = field(default_factory=list)
    """(instruction, its arguments on one line)"""

    def all(self, instruction: str) -> list[str]:
        """The arguments of every such instruction."""
        return [arguments for name, arguments in self.instructions if name == instruction]


def stages(path: Path) -> list[Stage]:
    """The stages; what stands before the first FROM is left out."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    stages_read: list[Stage] = []
    for logical in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        if not logical.strip():
            continue
        instruction, _, arguments = logical.partition(" ")
        if instruction == "FROM":
            base, _, name = arguments.partition(" AS ")
            stages_read.append(Stage(base.strip(), name.strip()))
        elif stages_read:
            stages_read[-1].instructions.append((instruction, arguments.strip()))
    return stages_read
