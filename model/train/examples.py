"""What a training step is fed: images at the network's size with their truth, and the bytes that carry them.

Examples travel from the processes that load images to those that train. The bytes are those of safetensors: no pickle
is opened, and the tensors are views of them.

Shapes: H, W pixels of the network's input; G instances of an image; K keypoints; B crowds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from safetensors.torch import load, save
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Example:
    """One image as the network sees it. Boxes and keypoints are in pixels of that frame.

    image: uint8 (3, H, W). boxes: float32 (G, 4) xyxy. outputs: int64 (G,), the box head's output of each class.
    crops: for each instance uint8 (h, w), the pixels of its mask from `corners` (G, 2: x, y, int64) on, 0 or 1; (0, 0)
    where no mask is labelled. keypoints: float32 (G, K, 3) x, y, visibility; all 0 where none is labelled.
    crowds: float32 (B, 4) xyxy; regions in them count neither as objects nor as background.
    unsearched: int64 (U,), outputs of classes of which the image may hold objects that nobody labelled.
    """

    image: Tensor
    boxes: Tensor
    outputs: Tensor
    crops: Sequence[Tensor]
    corners: Tensor
    keypoints: Tensor
    crowds: Tensor
    unsearched: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))


_TENSORS = ("image", "boxes", "outputs", "corners", "keypoints", "crowds", "unsearched")


def pack(examples: Sequence[Example]) -> bytes:
    """The examples as the bytes of a safetensors file, for `unpack`."""
    tensors = {"n": torch.tensor(len(examples))}
    for i, example in enumerate(examples):
        for name in _TENSORS:
            tensors[f"{i}.{name}"] = getattr(example, name).contiguous()
        tensors[f"{i}.shapes"] = torch.tensor([list(crop.shape) for crop in example.crops]).reshape(-1, 2)
        flat = [crop.flatten() for crop in example.crops]
        tensors[f"{i}.crops"] = torch.cat(flat) if flat else torch.zeros(0, dtype=torch.uint8)
    return save(tensors)


def unpack(data: bytes) -> list[Example]:
    """The examples that `pack` has written. Raises SafetensorError for other bytes."""
    tensors = load(data)
    return [_unpacked(tensors, f"{i}.") for i in range(int(tensors["n"]))]


def _unpacked(tensors: dict[str, Tensor], prefix: str) -> Example:
    shapes = tensors[f"{prefix}shapes"].long().tolist()
    flat = tensors[f"{prefix}crops"].split([h * w for h, w in shapes]) if shapes else ()
    crops = [part.view(h, w) for part, (h, w) in zip(flat, shapes, strict=True)]
    return Example(crops=crops, **{name: tensors[prefix + name] for name in _TENSORS})
