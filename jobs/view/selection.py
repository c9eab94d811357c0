"""Which images a gallery shows, in which order, and which rows of them."""

from __future__ import annotations

from dataclasses import dataclass

from masklake.jobs.terminal.suggestions import did_you_mean
from masklake.pipeline.errors import UserError

LABELS = "labels"
"""The name of the labels where a run is named otherwise."""
NEWEST = ""
"""The newest run of each image."""
ANY_CLASS = "*"
SORTS = ("newest", "doubt", "count")
SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 2**62)}
"""COCO's sizes of instances: areas in pixels, from and below."""
SPLITS = ("train", "val", "none")
DOUBTED = (0.3, 0.7)
"""An instance with a score between these is in doubt."""


@dataclass(frozen=True, kw_only=True)
class GalleryFilter:
    """What a user chose. An image counts for `label` or `size` if one of its instances has that class, that size and at
    least `score`.

    source: NEWEST, a run, or LABELS. label: "" for every image, ANY_CLASS for those with an instance, or a class.
    """

    source: str = NEWEST
    label: str = ""
    score: float = 0.0
    size: str = ""
    status: str = ""
    split: str = ""
    sort: str = "newest"

    def __post_init__(self) -> None:
        """Raises UserError for words that do not exist."""
        from masklake.pipeline.schema import Status  # it imports Arrow, which help does not need

        if not 0 <= self.score <= 1:
            raise UserError(f"score: {self.score} is not a number from 0 to 1")
        known = {
            "size": ("", *SIZES),
            "status": ("", *map(str, Status)),
            "split": ("", *SPLITS),
            "sort": SORTS,
        }
        for name, words in known.items():
            word = getattr(self, name)
            if word not in words:
                listed = ", ".join(filter(None, words))
                raise UserError(
                    f"{name}: {word!r} is not one of {listed}{did_you_mean(word, filter(None, words))}"
                )

    @property
    def by_instance(self) -> bool:
        """Whether images are chosen by their instances."""
        return bool(self.label or self.size)
