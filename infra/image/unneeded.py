"""Print the installed packages that a package does not need, one a line: `python unneeded.py masklake`.

requirements.lock is one for development and for the image. Run in the environment that was installed from it, this
names what the image can do without: linters, test tools, the installer.
"""

import sys
from collections.abc import Iterator
from importlib.metadata import distribution, distributions

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def needed(name: str) -> set[str]:
    """The package, what it requires here, what those require, and so on."""
    seen: set[tuple[str, str]] = set()
    todo = [(canonicalize_name(name), "")]
    while todo:
        package = todo.pop()
        if package not in seen:
            seen.add(package)
            todo.extend(_required(*package))
    return {name for name, _ in seen}


def _required(name: str, extra: str) -> Iterator[tuple[str, str]]:
    """The packages, with their extras, that a package requires on this machine; `extra` "" is the package itself."""
    for line in distribution(name).requires or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            for also in {"", *requirement.extras}:
                yield canonicalize_name(requirement.name), also


def main() -> None:
    """The command."""
    keep = needed(sys.argv[1])
    installed = {canonicalize_name(found.name) for found in distributions()}
    print("\n".join(sorted(installed - keep)))  # noqa: T201


if __name__ == "__main__":
    main()
