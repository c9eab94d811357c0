"""Predictors that need no weights, for tests of what happens around the model."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from masklake.model.detections import Detections
from masklake.pipeline.segment.encode import Vocabulary

VOCABULARY = Vocabulary(
    classes={1: "person", 2: "square"},
    with_keypoints=frozenset({1}),
    keypoint_names=("head", "left foot", "right foot"),
)
POISON = (250, 10, 240)
"""An image whose first pixel has this colour kills the process that predicts on it."""
ENDLESS = (240, 250, 10)
"""With an image whose first pixel has this colour the predictor does not come back, nor lets another thread run."""

HUNGRY = (240, 10, 250)
"""With an image whose first pixel has this colour the predictor takes HUNGER_BYTES, and keeps them for ten seconds."""
HUNGER_BYTES = 5_000_000_000


@dataclass
class ContentPredictor:
    """Finds what the pixels say: as many instances as the first pixel's red value modulo 4, one in two persons.

    Results depend on nothing but the image, so any two runs agree. `seconds` is spent on each image.
    """

    seconds: float = 0.0

    def predict(
        self, images: Sequence[np.ndarray], frames: Sequence[tuple[int, int]] | None = None
    ) -> list[Detections]:
        predictions = []
        for image, (height, width) in zip(images, frames or [i.shape[:2] for i in images], strict=True):
            if tuple(image[0, 0]) == POISON:
                os.kill(os.getpid(), signal.SIGKILL)
            if tuple(image[0, 0]) == ENDLESS:
                ctypes.PyDLL(None).sleep(
                    3600
                )  # with the interpreter's lock, as a loop in native code holds it
            if tuple(image[0, 0]) == HUNGRY:
                taken = np.ones(HUNGER_BYTES, np.uint8)
                time.sleep(10)
                del taken
            time.sleep(self.seconds)
            n = int(image[0, 0, 0]) % 4
            corners = np.linspace(0.1, 0.4, n, dtype=np.float32)[:, None] * np.float32([width, height])
            masks = np.broadcast_to(np.linspace(0, 1, 28, dtype=np.float32), (n, 28, 28)).copy()
            labels = np.arange(n, dtype=np.int32) % 2 + 1
            keypoints = np.tile(corners[:, None, :], (1, 3, 1))
            keypoints = np.concatenate([keypoints, np.ones((n, 3, 1), np.float32)], axis=2)
            keypoints[labels != 1] = np.nan
            predictions.append(
                Detections(
                    boxes=np.concatenate([corners, corners + np.float32([width, height]) / 3], axis=1),
                    labels=labels,
                    scores=np.linspace(0.9, 0.5, n, dtype=np.float32),
                    masks=masks,
                    keypoints=keypoints.astype(np.float32),
                )
            )
        return predictions


class Starved:
    """The demo model, in a process that may take `room` bytes more than the loaded model has."""

    def __init__(self, room: int) -> None:
        import masklake

        self._predictor = masklake.Predictor(masklake.load_model("demo"))
        self._predictor.predict([np.zeros((64, 64, 3), np.uint8)])  # what is loaded late is loaded now
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + room, taken + room))

    def predict(
        self, images: Sequence[np.ndarray], frames: Sequence[tuple[int, int]] | None = None
    ) -> list[Any]:
        detections: list[Any] = self._predictor.predict(images, frames)
        return detections
