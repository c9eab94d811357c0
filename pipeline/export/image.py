"""What a format is given: one image with its instances, and what the whole export holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from masklake.pipeline.labels.sets import Instance, LabelSet


@dataclass(frozen=True, kw_only=True)
class ExportImage:
    """An image with its instances: what a model detected, or what somebody labelled."""

    labels: LabelSet
    """Of results, the instances by falling score; their keypoints are visible (2) where their logit is above 0, else 0."""
    scores: tuple[float, ...] | None = None
    """0 to 1, an instance each; None for labels."""
    detected_keypoints: tuple[Sequence[Mapping[str, Any]], ...] = ()
    """Of results: name, x, y and score (a logit) of every keypoint, an instance each; pixels."""
    etag: str | None = None
    """The version of the object that the model saw."""
    model: str = ""
    """name@fingerprint of the model that made results."""
    photo: bytes | None = None
    """The object itself, where the images are part of the export."""

    @property
    def uri(self) -> str:
        return self.labels.uri

    @property
    def split(self) -> str:
        """train or val"""
        return self.labels.split

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height in pixels; None where nobody told."""
        if self.labels.width is None or self.labels.height is None:
            return None
        return self.labels.width, self.labels.height

    @property
    def instances(self) -> tuple[Instance, ...]:
        return self.labels.instances

    def keypoints_of(self, i: int) -> Iterator[tuple[str, float, float, float]]:
        """Of instance `i`: name, x and y in pixels, and the logit of results, or the visibility of labels."""
        if self.scores is None:
            yield from self.instances[i].keypoints
        elif self.detected_keypoints:
            for keypoint in self.detected_keypoints[i]:
                yield keypoint["name"], keypoint["x"], keypoint["y"], keypoint["score"]


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What is known of an export before its first image."""

    ids: Mapping[str, int]
    """The id of every class, from 1; different classes have different ids."""
    keypoints: Mapping[str, tuple[str, ...]]
    """The keypoints of each class that has any."""
    folder: str = ""
    """The beginning that all URIs share, up to a slash."""
    detected: bool = True
    """Whether they are a model's results; else labels."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes by id."""
        return tuple(sorted(self.ids, key=self.ids.__getitem__))
