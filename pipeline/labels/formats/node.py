"""Reading annotation JSON, which anyone may have written: values of the expected kind, or one line that says where not."""

from __future__ import annotations

import json
from typing import Any

from masklake.pipeline.errors import UserError
from masklake.pipeline.labels.masks import MAX_PIXELS

_MAX_COORDINATE = 1e7
"""Pixels. Beyond it single precision no longer tells neighbouring pixels apart."""


def parse(data: bytes, file: str) -> Any:
    """The JSON in `data`. Raises UserError when it is none."""
    if not data.strip():
        raise UserError(f"{file}: is empty; export the labels again")
    try:
        return json.loads(data)
    except RecursionError:
        raise UserError(f"{file}: is nested too deeply for a file of labels") from None
    except ValueError as error:  # undecodable bytes too
        raise UserError(f"{file}: is not JSON ({error}); export the labels again") from error


def detect(content: Any, file: str) -> str:
    """`coco`, `cvat` or `label-studio`. Raises UserError for JSON of another shape."""
    if isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys():
        annotations = content["annotations"]
        if isinstance(annotations, list) and any(map(_by_cvat, annotations)):
            return "cvat"
        return "coco"
    if isinstance(content, list) and all(isinstance(task, dict) and "data" in task for task in content):
        return "label-studio"
    raise UserError(
        f"{file}: is neither COCO (an object with images, annotations and categories) nor Label Studio's JSON "
        "(a list of tasks with data; JSON-MIN is not read); export the labels in one of these"
    )


def _by_cvat(annotation: Any) -> bool:
    attributes = annotation.get("attributes") if isinstance(annotation, dict) else None
    return isinstance(attributes, dict) and "occluded" in attributes


class Node:
    """A JSON object, and where it stands in which file, for messages."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise UserError(f"{where}: is {kind(value)}, not an object")
        self.value: dict[str, Any] = value
        self.where = where

    def fail(self, problem: str) -> UserError:
        """The error that says `problem` of this object."""
        return UserError(f"{self.where}: {problem}")

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
        """A whole number or a text."""
        found = self.value.get(key)
        if not isinstance(found, int | str) or isinstance(found, bool):
            raise self.fail(f"{key} is {kind(found)}, not a number or a text")
        return found

    def whole(self, key: str, low: int, high: int = MAX_PIXELS) -> int:
        """A whole number from `low` to `high`; 1.0 is one."""
        found = self.value.get(key)
        if isinstance(found, float) and found.is_integer():
            found = int(found)
        if not isinstance(found, int) or isinstance(found, bool) or not low <= found <= high:
            shown = found if isinstance(found, int | float) else kind(found)
            raise self.fail(f"{key} is {shown}, not a whole number from {low} to {high}")
        return found

    def flag(self, key: str) -> bool:
        """True or false, also as 1 or 0; false where it is missing."""
        found = self.value.get(key, False)
        if found not in (False, True) or isinstance(found, float):
            raise self.fail(
                f"{key} is {found if isinstance(found, int | float) else kind(found)}, not 0 or 1"
            )
        return bool(found)

    def number(self, key: str) -> float:
        """A finite number of at most ten million."""
        return self.numbers(key, [self.value.get(key)])[0]

    def numbers(self, key: str, given: Any = None, count: int | None = None) -> list[float]:
        """`given`, or the value of `key`: a list of finite numbers, `count` of them."""
        found = self.value.get(key) if given is None else given
        if not isinstance(found, list) or (count is not None and len(found) != count):
            many = "numbers" if count is None else f"{count} numbers"
            shown = f"a list of {len(found)}" if isinstance(found, list) else kind(found)
            raise self.fail(f"{key} is {shown}, not a list of {many}")
        for value in found:
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise self.fail(f"{key} holds {kind(value)} where a number belongs")
            if not abs(value) <= _MAX_COORDINATE:  # NaN neither
                raise self.fail(f"{key} holds {value!r}, which is no position in an image")
        return found

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
