"""Reading annotation JSON, which anyone may have written: values of the expected kind, or one line that says where not.

Numbers that are written as text ("996.0000") and whole numbers that are written as fractions (7.0) are what they say.
"""

from __future__ import annotations

import re
from typing import Any

from masklake.pipeline.errors import UserError
from masklake.pipeline.labels.masks import MAX_PIXELS
from masklake.pipeline.labels.sets import Skipped

_MAX_COORDINATE = 1e7
"""Pixels. Beyond it single precision no longer tells neighbouring pixels apart."""

_NUMBER = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?\s*", re.ASCII)
_LONGEST_NUMBER = 40


class UnreadableError(UserError):
    """Something in a file that cannot be read; `where` and `problem` are the parts of its message."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}")
        self.where, self.problem = where, problem

    @property
    def skipped(self) -> Skipped:
        """What is told where the rest of the file is read without it."""
        return Skipped(self.where, self.problem)


class Node:
    """A JSON object, and where it stands in which file, for messages."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise UnreadableError(where, f"is {kind(value)}, not an object")
        self.value: dict[str, Any] = value
        self.where = where

    def fail(self, problem: str) -> UnreadableError:
        """The error that says `problem` of this object."""
        return UnreadableError(self.where, problem)

    def __contains__(self, key: str) -> bool:
        return self.value.get(key) is not None

    def text(self, key: str) -> str:
        """A text that is not empty and that UTF-8 can hold."""
        found = self.value.get(key)
        if not isinstance(found, str) or not found:
            raise self.fail(f"{key} is {'empty' if found == '' else kind(found)}, not a text")
        return self.check_text(found, key)

    def check_text(self, found: str, key: str) -> str:
        """`found`. Raises UserError where no file could hold it."""
        if not found.isascii():
            try:
                found.encode()
            except UnicodeEncodeError:
                raise self.fail(f"{key} {found!r} holds half of a character (a lone surrogate)") from None
        return found

    def identity(self, key: str) -> int | str:
        """A whole number or a text; 7.0 is 7."""
        found = self.value.get(key)
        if isinstance(found, float) and found.is_integer():
            found = int(found)
        if not isinstance(found, int | str) or isinstance(found, bool):
            raise self.fail(f"{key} is {kind(found)}, not a number or a text")
        return found

    def whole(self, key: str, low: int, high: int = MAX_PIXELS) -> int:
        """A whole number from `low` to `high`."""
        found = plain_number(self.value.get(key))
        if not isinstance(found, int) or isinstance(found, bool) or not low <= found <= high:
            shown = found if isinstance(found, int | float) else kind(found)
            raise self.fail(f"{key} is {shown}, not a whole number from {low} to {high}")
        return found

    def flag(self, key: str) -> bool:
        """True or false, also as 1 or 0; false where it is missing."""
        found = plain_number(self.value.get(key) or False)
        if isinstance(found, str) and found.lower() in ("true", "false"):
            found = found.lower() == "true"
        if found not in (False, True):
            raise self.fail(
                f"{key} is {found if isinstance(found, int | float) else kind(found)}, not 0 or 1"
            )
        return bool(found)

    def number(self, key: str) -> float:
        """A finite number of at most ten million."""
        return self.numbers(key, [self.value.get(key)])[0]

    def area(self, key: str) -> float | None:
        """A number of pixels that an object can have; None where it is missing. Raises UnreadableError for any other."""
        found = plain_number(self.value.get(key))
        if found is None:
            return None
        if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found <= MAX_PIXELS:
            shown = found if isinstance(found, int | float) else kind(found)
            raise self.fail(f"{key} is {shown}, which no object can have")
        return float(found)

    def numbers(self, key: str, given: Any = None, count: int | None = None) -> list[float]:
        """`given`, or the value of `key`: a list of finite numbers, `count` of them."""
        found = self.value.get(key) if given is None else given
        if not isinstance(found, list) or (count is not None and len(found) != count):
            many = "numbers" if count is None else f"{count} numbers"
            shown = f"a list of {len(found)}" if isinstance(found, list) else kind(found)
            raise self.fail(f"{key} is {shown}, not a list of {many}")
        if set(map(type, found)) <= {int, float} and all(map(_MAX_COORDINATE.__ge__, map(abs, found))):
            return found  # most lists: nothing is done for each number in Python
        values = [plain_number(value) for value in found]
        for value in values:
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise self.fail(f"{key} holds {kind(value)} where a number belongs")
            if not abs(value) <= _MAX_COORDINATE:  # NaN neither
                raise self.fail(f"{key} holds {value!r}, which is no position in an image")
        return values

    def items(self, key: str, default: list[Any] | None = None) -> list[Any]:
        """A list, of anything."""
        found = self.value.get(key, default)
        if not isinstance(found, list):
            raise self.fail(f"{key} is {kind(found)}, not a list")
        return found

    def texts(self, key: str) -> list[str]:
        """A list of texts that are not empty, no two the same."""
        found = self.items(key)
        if not all(isinstance(name, str) and name for name in found) or len(set(found)) < len(found):
            raise self.fail(f"{key} is not a list of different names")
        return [self.check_text(name, key) for name in found]


def kind(value: Any) -> str:
    """What JSON calls a value's type."""
    if value is None:
        return "missing or null"
    names: dict[type, str] = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return names.get(type(value), "a number")


def plain_number(value: Any) -> Any:
    """The number that a text is, whole where it is; any other value as it is."""
    if isinstance(value, str) and len(value) <= _LONGEST_NUMBER and _NUMBER.fullmatch(value):
        value = float(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
