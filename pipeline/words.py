"""Words for people."""

from __future__ import annotations


def counted(count: int, plural: str, singular: str | None = None) -> str:
    """`count` with its noun: 1 image, 3,000 images; 1 instance without a mask.

    `plural` begins with the noun, whose singular is without its s (of classes: class); another `singular` can be given.
    """
    if count != 1:
        return f"{count:,} {plural}"
    if singular is None:
        noun, space, rest = plural.partition(" ")
        singular = noun.removesuffix("es" if noun.endswith("sses") else "s") + space + rest
    return f"1 {singular}"
