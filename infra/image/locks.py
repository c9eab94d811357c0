"""Part requirements.lock into what the image's layers install: `python locks.py requirements.lock pyproject.toml FOLDER`.

A release of Masklake changes none of these files, so the layers that are made of them stay, and nobody pulls them again.
    torch-cuda.lock   torch and the libraries of CUDA that it brings: gigabytes
    torch-cpu.lock    the same version of torch without them; from PyTorch's index, of which requirements.lock has no hashes
    others.lock       the rest that Masklake needs to run; what is for development alone is in none
    build.lock        what makes the wheel
    uv.lock           the installer
"""

import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_NAME = re.compile(r"[A-Za-z0-9._-]+")
_GPU = re.compile(r"(nvidia|cuda)-|triton$")
_TORCH = ("torch", "torchvision")


def blocks(lock: str) -> dict[str, str]:
    """Each package's lines of a lock that `uv pip compile` made, with its hashes and who asks for it, by its name.

    A package may be there several times, in versions for different Pythons.
    """
    blocks_by_name: dict[str, str] = {}
    name = ""
    for line in lock.splitlines(keepends=True):
        if line[0].isalnum():
            name = name_of(line)
        blocks_by_name[name] = blocks_by_name.get(name, "") + line
    return blocks_by_name


def name_of(requirement: str) -> str:
    """The package that a requirement is of, as locks spell it."""
    named = _NAME.match(requirement)
    if named is None:
        raise SystemExit(f"{requirement!r}: is no requirement")
    return re.sub(r"[._-]+", "-", named[0]).lower()


def needed(lock: dict[str, str], roots: Iterable[str]) -> set[str]:
    """These packages, what they ask for, what that asks for, and so on, by the lock's own notes (`# via`)."""
    asks: dict[str, set[str]] = {}
    for name, block in lock.items():
        for parent in re.findall(r"^ +#(?: via)? +([A-Za-z0-9._-]+)", block, re.MULTILINE):
            asks.setdefault(name_of(parent), set()).add(name)
    names: set[str] = set()
    todo = [name_of(root) for root in roots]
    while todo:
        name = todo.pop()
        if name not in names:
            names.add(name)
            todo.extend(asks.get(name, ()))
    return names & lock.keys()


def parted(lock: str, pyproject: dict[str, Any]) -> dict[str, str]:
    """The files' contents by name."""
    packages = blocks(lock)
    project = pyproject["project"]
    # The extra `demo` too: the image is also the S3 server for development.
    runs = needed(packages, [*project["dependencies"], *project["optional-dependencies"]["demo"]])
    torch = {name for name in runs if name in _TORCH or _GPU.match(name)}
    pins = [packages[name].split()[0] for name in _TORCH if name in runs]

    def joined(names: set[str]) -> str:
        return "".join(packages[name] for name in sorted(names))

    return {
        "torch-cuda.lock": joined(torch),
        "torch-cpu.lock": "\n".join(pins) + "\n",
        "others.lock": joined(runs - torch),
        "build.lock": joined(needed(packages, pyproject["build-system"]["requires"])),
        "uv.lock": packages["uv"],
    }


def main() -> None:
    """The command."""
    lock, pyproject, folder = map(Path, sys.argv[1:])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in parted(lock.read_text(), tomllib.loads(pyproject.read_text())).items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    main()
