"""Kinds of values: how each is read from text, and what must hold for it wherever it comes from."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from masklake.jobs.terminal.suggestions import did_you_mean

T = TypeVar("T")
_MOST_PORT = 65535


@dataclass(frozen=True)
class Kind(Generic[T]):
    """A kind of value. It can be called with text, as argparse calls a type."""

    wanted: str
    """What a value must be: it completes "'x' is not …"."""
    read: Callable[[str], T]
    """Makes the value from text. Raises ValueError where that is not possible."""
    valid: Callable[[T], bool] = lambda _: True
    hint: Callable[[str], str] = lambda _: ""
    """More words for the message about a wrong value, such as did-you-mean."""

    def __call__(self, text: str) -> T:
        """The value that `text` means. Raises ArgumentTypeError, which names the text and what is wanted."""
        try:
            value = self.read(text)
        except ValueError:
            raise argparse.ArgumentTypeError(self.refusal(text)) from None
        if not self.valid(value):
            raise argparse.ArgumentTypeError(self.refusal(text))
        return value

    def holds(self, value: Any) -> bool:
        """Whether `value`, from Python, is of this kind."""
        try:
            return self.valid(value)
        except TypeError:
            return False

    def refusal(self, value: object) -> str:
        return f"{value!r} is not {self.wanted}{self.hint(str(value))}"


def _whole(text: str) -> int:
    return int(text.replace(",", ""))


def _span(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?::(\d+))?", text)
    if not match:
        raise ValueError(text)
    return int(match[1]), int(match[2] or match[1])


def _range(text: str) -> tuple[float, float]:
    low, _, high = text.partition(":")
    return float(low), float(high or low)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _path(text: str) -> str:
    if "://" in text:
        raise ValueError(text)
    return text


positive = Kind("a whole number of at least 1", _whole, lambda value: value >= 1)
"""10_000 and 10,000 are read too."""
zero_or_more = Kind("a whole number of at least 0", _whole, lambda value: value >= 0)
whole = Kind("a whole number", _whole)
fraction = Kind("a number from 0 to 1", float, lambda value: 0 <= value <= 1)
above_zero = Kind("a number above 0", float, lambda value: math.isfinite(value) and value > 0)
span = Kind("MIN:MAX with 1 <= MIN <= MAX", _span, lambda value: 1 <= value[0] <= value[1])
"""`MIN:MAX`, or one number for both."""
factor_range = Kind(
    "LOW:HIGH with 0 < LOW <= HIGH", _range, lambda value: 0 < value[0] <= value[1] < math.inf
)
"""`LOW:HIGH`, or one number for both."""
names = Kind("names with commas between them", _names, lambda value: len(value) > 0)
local_file = Kind("a local file; write one and copy it there", _path)


def port_from(lowest: int) -> Kind[int]:
    """A TCP port; `lowest` is 0 where that means one that is free, else 1."""
    return Kind(f"a port; give {lowest} to {_MOST_PORT}", int, lambda value: lowest <= value <= _MOST_PORT)


def pixels(low: int, high: int) -> Kind[int]:
    """A length of an image, both ends included."""
    return Kind(f"a number of pixels from {low} to {high}", int, lambda value: low <= value <= high)


def one_of(*choices: str) -> Kind[str]:
    """One of a few words."""

    return Kind(
        f"one of {', '.join(choices)}", str, choices.__contains__, lambda text: did_you_mean(text, choices)
    )
