"""Masklake's own code as one archive for the nodes of a cluster: the packages, the demo model's weights, the version.

The same code makes the same bytes, so it is not sent again to a cluster that has it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import zipfile
from collections.abc import Iterator
from pathlib import Path

from masklake.pipeline.errors import UserError

PACKAGES = ("masklake.jobs", "masklake.model", "masklake.pipeline")
_LONG_AGO = (1980, 1, 1, 0, 0, 0)


def package(folder: Path) -> Path:
    """Write the archive into `folder`; returns its path. Raises UserError when a file cannot be read or written."""
    archive = folder / "masklake.zip"
    try:
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as written:
            for name, data in _files():
                entry = zipfile.ZipInfo(name, _LONG_AGO)
                entry.external_attr = 0o644 << 16
                written.writestr(entry, data, zipfile.ZIP_DEFLATED)
    except OSError as error:
        raise UserError(
            f"{archive}: Masklake's code cannot be packed ({error}); make room, or use --image-has-it"
        ) from error
    return archive


def _files() -> Iterator[tuple[str, bytes]]:
    for path in sorted(_folder("masklake").glob("*.py")):
        yield f"masklake/{path.name}", path.read_bytes()
    for name in PACKAGES:
        root = _folder(name)
        for path in sorted(root.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield f"{name.replace('.', '/')}/{path.relative_to(root).as_posix()}", path.read_bytes()
    version = importlib.metadata.version("masklake")
    # From this file importlib.metadata, and so a run's record, knows the version on the nodes.
    metadata = f"Metadata-Version: 2.1\nName: masklake\nVersion: {version}\n"
    yield f"masklake-{version}.dist-info/METADATA", metadata.encode()


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None  # noqa: S101  # this module is in one of them
    return Path(spec.origin).parent
