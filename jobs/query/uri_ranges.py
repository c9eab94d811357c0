"""Which runs may share an image, going by the smallest and the largest URI of each."""

from __future__ import annotations

UriRange = tuple[str, str | None, str | None]
"""A run, and the smallest and the largest URI of its images; None where they are not known."""


def overlapping(ranges: list[UriRange]) -> list[str]:
    """The runs whose range of URIs overlaps another one's; one without ends overlaps all."""
    if any(first is None or last is None for _, first, last in ranges):
        return [run for run, *_ in ranges] if len(ranges) > 1 else []
    runs = set()
    furthest, furthest_run = "", ""
    for run, first, last in sorted(ranges, key=lambda uri_range: uri_range[1] or ""):
        if furthest_run and (first or "") <= furthest:
            runs |= {run, furthest_run}
        if not furthest_run or (last or "") > furthest:
            furthest, furthest_run = last or "", run
    return sorted(runs)
