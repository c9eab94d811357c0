"""Which metrics and labels a PromQL expression names."""

from __future__ import annotations

import re
from dataclasses import dataclass

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r"\b((?:ray|masklake|kuberay)_\w+|up)\b\s*(?:\{([^}]*)\})?")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")


@dataclass(frozen=True)
class Named:
    """`selectors`: metrics and the labels that they are chosen by. `grouping`: labels that results keep or match by."""

    selectors: list[tuple[str, frozenset[str]]]
    grouping: frozenset[str]


def named(expr: str) -> Named:
    """What `expr` names; metrics of Masklake, Ray and KubeRay begin with their names, and `up` is Prometheus' own."""
    plain = _STRING.sub('""', expr)
    groups = {label.strip() for group in _GROUPING.findall(plain) for label in group.split(",")}
    selectors = [
        (m[1], frozenset(_MATCHER.findall(m[2] or ""))) for m in _SELECTOR.finditer(_GROUPING.sub("", plain))
    ]
    return Named(selectors, frozenset(groups - {""}))
