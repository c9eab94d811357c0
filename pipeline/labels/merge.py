"""The instances of one image, put together from several files: a mask from one, keypoints from another.

Annotations are of one instance when they have the same id, class and box (within a pixel). Ids of files that were not
made together mean nothing, so what is left is joined by its boxes: the pairs of one class that overlap most, down to an
IoU of a half. What fits nothing is an instance of its own. Annotations of one file are never joined.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from masklake.model.boxes import iou_xywh
from masklake.pipeline.labels.sets import Instance
from numpy.typing import NDArray

_SAME_BOX = 1.0
_OVERLAP = 0.5


@dataclass
class Merged:
    """The instances of one image so far, and their positions by annotation id."""

    instances: list[Instance] = field(default_factory=list)
    by_id: dict[Hashable, int] = field(default_factory=dict)

    def add(self, annotations: Sequence[tuple[Hashable, Instance]]) -> int:
        """Add the annotations of one more file. Returns how many were joined by their boxes alone."""
        before, free = len(self.instances), set(range(len(self.instances)))
        left: list[tuple[Hashable, Instance]] = []
        for id_, instance in annotations:
            position = self.by_id.get(id_)
            if position in free and position is not None and _same(self.instances[position], instance):
                self._join(position, instance)
                free.remove(position)
            else:
                left.append((id_, instance))
        pairs = self._overlapping(sorted(free), [instance for _, instance in left])
        for i, (id_, instance) in enumerate(left):
            if i in pairs:
                self._join(pairs[i], instance)
            else:
                self.instances.append(instance)
            self.by_id[id_] = pairs.get(i, len(self.instances) - 1)
        assert len(self.instances) == before + len(left) - len(pairs)  # noqa: S101  # none lost
        return len(pairs)

    def _join(self, position: int, instance: Instance) -> None:
        known = self.instances[position]
        self.instances[position] = replace(
            known,
            mask=known.mask or instance.mask,
            keypoints=known.keypoints or instance.keypoints,
            iscrowd=known.iscrowd or instance.iscrowd,
            ignore=known.ignore or instance.ignore,
            given_area=known.given_area or instance.given_area,
            num_keypoints=instance.num_keypoints if known.num_keypoints is None else known.num_keypoints,
        )

    def _overlapping(self, free: list[int], left: list[Instance]) -> dict[int, int]:
        """Pairs of the same object, by falling IoU: from a position in `left` to one of the positions `free`."""
        if not free or not left:
            return {}
        overlaps = iou_xywh(_boxes(left)[:, None], _boxes([self.instances[i] for i in free]))
        pairs: dict[int, int] = {}
        for flat in np.argsort(-overlaps, axis=None, kind="stable").tolist():
            i, j = divmod(flat, len(free))
            if overlaps[i, j] < _OVERLAP:
                break
            if i not in pairs and free[j] not in pairs.values() and _fit(self.instances[free[j]], left[i]):
                pairs[i] = free[j]
        return pairs


def _same(first: Instance, second: Instance) -> bool:
    apart = max(abs(a - b) for a, b in zip(first.box, second.box, strict=True))
    return apart <= _SAME_BOX and _fit(first, second)


def _fit(first: Instance, second: Instance) -> bool:
    """Whether both can be one object; if both have keypoints, only when these are equal."""
    keypoints = not (first.keypoints and second.keypoints) or first.keypoints == second.keypoints
    return first.label == second.label and first.iscrowd == second.iscrowd and keypoints


def _boxes(instances: Sequence[Instance]) -> NDArray[np.float64]:
    return np.array([instance.box for instance in instances])
