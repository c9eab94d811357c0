"""Regions of the images of a batch, one after another; and how tensors cross between host and device without a wait."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor


@dataclass(frozen=True)
class Rois:
    """R regions of N images, image after image.

    boxes: (R, 4) float32, x1 y1 x2 y2 in pixels of the resized image.
    image: (R,) int64, the image of each.
    counts: how many each image has; known to the host.
    present: (R,) bool, which places hold a region; None where all do.
    settled: (N,) bool, whether the regions of each image are certainly the right ones (`model.engine.select`); None where
        all are.
    """

    boxes: Tensor
    image: Tensor
    counts: list[int]
    present: Tensor | None = None
    settled: Tensor | None = None

    @classmethod
    def of_images(cls, boxes: Sequence[Tensor]) -> "Rois":
        """From (R_n, 4) boxes of each image."""
        counts = [len(boxes_R4) for boxes_R4 in boxes]
        return cls(torch.cat(list(boxes)), image_of_each(counts, boxes[0].device), counts)

    def by_image(self) -> list[Tensor]:
        """(R_n, 4) boxes of each image."""
        return list(self.boxes.split(self.counts))


def image_of_each(counts: Sequence[int], device: torch.device) -> Tensor:
    """(R,) int64: 0 as often as the first count says, then 1, …"""
    return to_device(np.repeat(np.arange(len(counts)), counts), device)


def to_device(values: ArrayLike, device: torch.device) -> Tensor:
    """`values` of the host as a tensor on the device; the host does not wait for the copy."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


class Arrival:
    """Tensors on their way to the host: work goes on until they are asked for."""

    def __init__(self, *tensors: Tensor) -> None:
        """`wait` waits for the work that this thread has queued on the tensors' device up to now, and for no later work."""
        self._tensors = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
        self._done: torch.cuda.Event | None = None
        if tensors[0].is_cuda:
            self._done = torch.cuda.current_stream(tensors[0].device).record_event()

    def wait(self) -> list[NDArray[Any]]:
        """The tensors as arrays, in their order."""
        if self._done is not None:
            self._done.synchronize()
        return [tensor.numpy() for tensor in self._tensors]
