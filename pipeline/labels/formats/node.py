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
"""Pixels. Beyond it, single precision cannot separate neighbouring pixels."""

_NUMBER = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?\s*", re.ASCII)
_LONGEST_NUMBER = 40


class UnreadableError(UserError):
    """Something in a file that cannot be read; `where` and `problem` are the parts of its message."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}")
        self.where, self.problem = where, problem

    @property
    def skipped(self) -> Skipped:
        """The report of it, for when the rest of the file is read without it."""
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
        value = self.value.get(key)
        if not isinstance(value, str) or not value:
            raise self.fail(f"{key} is {'empty' if value == '' else kind(value)}, not a text")
        return self.check_text(value, key)

    def check_text(self, text: str, key: str) -> str:
        """`text`. Raises UnreadableError where no file could hold it."""
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                raise self.fail(f"{key} {text!r} holds half of a character (a lone surrogate)") from None
        return text

    def identity(self, key: str) -> int | str:
        """A whole number or a text; 7.0 is 7."""
        value = self.value.get(key)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int | str) or isinstance(value, bool):
            raise self.fail(f"{key} is {kind(value)}, not a number or a text")
        return value

    def whole(self, key: str, low: int, high: int = MAX_PIXELS) -> int:
        """A whole number from `low` to `high`."""
        value = plain_number(self.value.get(key))
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            shown = value if isinstance(value, int | float) else kind(value)
            raise self.fail(f"{key} is {shown}, not a whole number from {low} to {high}")
        return value

    def flag(self, key: str) -> bool:
        """True or false, also as 1 or 0; false where it is missing."""
        value = plain_number(self.value.get(key) or False)
        if isinstance(value, str) and value.lower() in ("true", "false"):
            value = value.lower() == "true"
        if value not in (False, True):
            raise self.fail(
                f"{key} is {value if isinstance(value, int | float) else kind(value)}, not 0 or 1"
            )
        return bool(value)

    def number(self, key: str) -> float:
        """A finite number of at most ten million."""
        return self.numbers(key, [self.value.get(key)])[0]

    def area(self, key: str) -> float | None:
        """A number of pixels that an object can have; None where it is missing. Raises UnreadableError for any other."""
        value = plain_number(self.value.get(key))
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_PIXELS:
            shown = value if isinstance(value, int | float) else kind(value)
            raise self.fail(f"{key} is {shown}, which no object can have")
        return float(value)

    def numbers(self, key: str, own: Any = None, count: int | None = None) -> list[float]:
        """`own`, or the value of `key`: a list of finite numbers, `count` of them."""
        listed = self.value.get(key) if own is None else own
        if not isinstance(listed, list) or (count is not None and len(listed) != count):
            many = "numbers" if count is None else f"{count} numbers"
            shown = f"a list of {len(listed)}" if isinstance(listed, list) else kind(listed)
            raise self.fail(f"{key} is {shown}, not a list of {many}")
        if set(map(type, listed)) <= {int, float} and all(map(_MAX_COORDINATE.__ge__, map(abs, listed))):
            return listed  # the usual case, without Python code for each number
        values = [plain_number(value) for value in listed]
        for value in values:
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise self.fail(f"{key} holds {kind(value)} where a number belongs")
            if not abs(value) <= _MAX_COORDINATE:  # NaN neither
                raise self.fail(f"{key} holds {value!r}, which is no position in an image")
        return values

    def items(self, key: str, default: list[Any] | None = None) -> list[Any]:
        """A list, of anything."""
        value = self.value.get(key, default)
        if not isinstance(value, list):
            raise self.fail(f"{key} is {kind(value)}, not a list")
        return value

    def texts(self, key: str) -> list[str]:
        """A list of texts that are not empty, no two the same."""
        names = self.items(key)
        if not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
            raise self.fail(f"{key} is not a list of different names")
        return [self.check_text(name, key) for name in names]


def kind(value: Any) -> str:
    """The name of a value's JSON type, for messages."""
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
