"""Counts with their nouns."""

from __future__ import annotations

from masklake.pipeline.words import counted


def test_one_is_singular() -> None:
    assert [counted(n, "images") for n in (0, 1, 2, 3000)] == [
        "0 images",
        "1 image",
        "2 images",
        "3,000 images",
    ]
    assert counted(1, "classes") == "1 class"
    assert counted(1, "instances without a mask") == "1 instance without a mask"
    assert counted(2, "instances of 'x'") == "2 instances of 'x'"
    assert counted(1, "label sets", "label set") == "1 label set"
