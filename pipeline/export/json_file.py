"""JSON files that are larger than memory: an object whose arrays grow one element after the other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from typing import Any

from masklake.pipeline.export.folder import ExportFolder


def dumped(value: Any) -> str:
    """`value` as compact JSON, without the numbers that JSON does not have."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


class JsonArrays:
    """A JSON object with the fields of `head` and then the `arrays`. All arrays but the first wait in temporary files."""

    def __init__(
        self, folder: ExportFolder, name: str, head: Mapping[str, Any], arrays: tuple[str, ...]
    ) -> None:
        self._file = folder.open(name)
        fields = "".join(f"{dumped(key)}:{dumped(value)},\n" for key, value in head.items())
        self._file.write(f"{{{fields}{dumped(arrays[0])}:[")
        self._parts = {array: self._file if i == 0 else folder.spool() for i, array in enumerate(arrays)}
        self._begun: set[str] = set()

    def add(self, array: str, value: Any) -> None:
        """Append `value` to the array."""
        self._parts[array].write((",\n" if array in self._begun else "\n") + dumped(value))
        self._begun.add(array)

    def finish(self) -> None:
        """Write what waits, and close the file."""
        with self._file:
            for array, part in self._parts.items():
                if part is self._file:
                    continue
                self._file.write(f"\n],\n{dumped(array)}:[")
                with part:
                    part.seek(0)
                    shutil.copyfileobj(part, self._file, 1 << 20)
            self._file.write("\n]}\n")


class JsonArray:
    """A JSON array of any length."""

    def __init__(self, folder: ExportFolder, name: str) -> None:
        self._file = folder.open(name)
        self._separator = "[\n"

    def add(self, value: Any) -> None:
        """Append `value`."""
        self._file.write(self._separator + dumped(value))
        self._separator = ",\n"

    def finish(self) -> None:
        """Close the file."""
        with self._file:
            self._file.write("[]\n" if self._separator == "[\n" else "\n]\n")
