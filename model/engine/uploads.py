"""Images on their way to the device: uint8 as they were decoded, 3 bytes a pixel, and the host does not wait for them.

On a GPU they go from pinned memory through a stream of their own, beside what the GPU computes. torch's allocator keeps
pinned memory for the next batch once a copy is done: two buffers in turn, where two threads send.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Sent:
    """N images. sizes: height and width of each. `parts` is to be called in the thread and stream that computes."""

    sizes: list[tuple[int, int]]
    _pixels: list[tuple[Tensor, list[int]]]
    _done: "torch.cuda.Event | None"

    def parts(self) -> Iterator[tuple[Tensor, list[int]]]:
        """(n, 3, H, W) uint8 images of one size, and their positions among the N."""
        for pixels_NCHW, members in self._pixels:
            if self._done is not None:
                stream = torch.cuda.current_stream(pixels_NCHW.device)
                stream.wait_event(self._done)
                pixels_NCHW.record_stream(stream)
            yield pixels_NCHW.contiguous(), members


class Uploads:
    """To one device. On a GPU images of one size are processed together, on a CPU one by one, which suits its caches better."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.together = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def send(self, images: Sequence[NDArray[np.uint8]]) -> Sent:
        """RGB images (H, W, 3), which may be read-only."""
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        if not self.together:
            # torch has no read-only tensors (arrays from shared memory are read-only) and no negative strides.
            planes = [np.require(image.transpose(2, 0, 1), requirements=["C", "W"]) for image in images]
            return Sent(
                sizes, [(torch.from_numpy(plane)[None], [index]) for index, plane in enumerate(planes)], None
            )
        by_size: dict[tuple[int, int], list[int]] = {}
        for index, size in enumerate(sizes):
            by_size.setdefault(size, []).append(index)
        pixels = []
        with torch.cuda.stream(self._stream):
            for (height, width), members in by_size.items():
                shape = (len(members), height, width, 3)
                staged = torch.empty(shape, dtype=torch.uint8, pin_memory=self._stream is not None)
                np.stack([images[index] for index in members], out=staged.numpy())
                pixels.append((staged.to(self._device, non_blocking=True).permute(0, 3, 1, 2), members))
        return Sent(sizes, pixels, None if self._stream is None else self._stream.record_event())
