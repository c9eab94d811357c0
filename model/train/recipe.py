"""How a network is trained: the numbers of a recipe, and the learning rate that follows from them. Free of torch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from masklake.model.errors import ModelError

SCHEDULES = ("cosine", "step", "constant")
PRECISIONS = ("auto", "float32", "bfloat16")

_MILESTONES = (2 / 3, 8 / 9)
"""Where the step schedule divides the rate by ten: the 60k and 80k of Mask R-CNN's 90k iterations (section 4)."""

_COSINE_END = 0.01


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides a training besides its data and its length. Raises ModelError for numbers that make no sense.

    batch: images a step, over all workers.
    learning_rate: of AdamW, at its peak; the backbone's is `backbone_rate` times that.
    warm_up: steps over which the rate rises from nothing (Goyal et al. 2017, section 2.2).
    clip: gradients are scaled down to this norm.
    average: decay of the running average of the weights that is kept as the result (Polyak averaging); 0 for none.
    precision: of the convolutions; losses and weights are float32. "auto" is bfloat16 where the device has it, else float32.
    jitter: the short side of an image is min_size times something between these two.
    flip: share of the images that are mirrored. colour: strength of the changes of light and colour, 0 for none.
    proposals: kept of an image for the second stage; anchors, rois: of an image that count in the losses of the two
        stages; positives: share of the rois that are to hold something.
    min_box: pixels of the network's input; what has a shorter side is left out of the truth.
    """

    batch: int = 8
    learning_rate: float = 5e-4
    backbone_rate: float = 1.0
    weight_decay: float = 0.02
    schedule: str = "cosine"
    warm_up: int = 100
    clip: float = 5.0
    average: float = 0.998
    precision: str = "auto"
    jitter: tuple[float, float] = (0.8, 1.2)
    flip: float = 0.5
    colour: float = 0.3
    proposals: int = 500
    anchors: int = 256
    rois: int = 128
    positives: float = 0.25
    min_box: float = 2.0
    keypoint_weight: float = 0.5
    """Of the keypoints' loss: a cross-entropy over 56 x 56 cells, many times the other losses at first."""
    seed: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "jitter", tuple(self.jitter))
        for name, low in (("batch", 1), ("proposals", 1), ("anchors", 2), ("rois", 2), ("warm_up", 0)):
            if getattr(self, name) < low:
                raise ModelError(f"recipe: {name} {getattr(self, name)} is below {low}")
        for name in ("learning_rate", "clip", "min_box"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ModelError(f"recipe: {name} {getattr(self, name)} is not a number above 0")
        for name in ("flip", "average", "backbone_rate", "weight_decay", "positives"):
            if not 0 <= getattr(self, name) <= 1:
                raise ModelError(f"recipe: {name} {getattr(self, name)} is not between 0 and 1")
        for name, known in (("schedule", SCHEDULES), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise ModelError(f"recipe: {name} {getattr(self, name)!r} is not one of {', '.join(known)}")
        if not 0 < self.jitter[0] <= self.jitter[1]:
            raise ModelError(f"recipe: jitter {self.jitter} is not two factors, the smaller first")

    def to_dict(self) -> dict[str, Any]:
        """All numbers, for a training's record; `from_dict` reads it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Recipe:
        """The recipe that a record holds; keys that are not known any more are left out."""
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in body.items() if key in known})

    def rate(self, step: int, progress: float) -> float:
        """The learning rate of step `step` (from 0), when `progress` of the training, 0 to 1, is done."""
        return self.learning_rate * min(1.0, (step + 1) / (self.warm_up + 1)) * self._shape(progress)

    def _shape(self, progress: float) -> float:
        if self.schedule == "cosine":
            return _COSINE_END + (1 - _COSINE_END) * (1 + math.cos(math.pi * min(1.0, progress))) / 2
        if self.schedule == "step":
            return float(0.1 ** sum(progress >= milestone for milestone in _MILESTONES))
        return 1.0
