"""What all peers share: the network with its weights, as torchvision runs it, and its answers as rows with COCO RLE.

Free of everything but torch, torchvision, numpy, pycocotools and Pillow, and of Masklake's `model`, which builds the demo
network out of torchvision's `MaskRCNN`. What is done with it is each peer's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from masklake.model import presets
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor, nn

BATCH = 8
SUFFIXES = (".jpg", ".jpeg", ".png")
SCORE = 0.05
"""Masklake's `--score-threshold` in this comparison; torchvision's own default."""


def network() -> nn.Module:
    """The demo network in float32, in eval mode: takes (3, H, W) tensors in 0 to 1, as any model of torchvision."""
    module: nn.Module = presets.load_model("demo").module
    return module.eval()


def files(folder: str) -> list[Path]:
    return sorted(file for file in Path(folder).iterdir() if file.suffix in SUFFIXES)


def pixels(file: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(file).convert("RGB"))


def as_input(image: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)


@torch.inference_mode()
def predict(module: nn.Module, images: Sequence[NDArray[np.uint8]]) -> list[list[dict[str, Any]]]:
    """For each (H, W, 3) image, its instances: label id, score, box xyxy in pixels, mask as COCO RLE text."""
    if len(images) == 0:  # torchvision's models take no empty batch
        return []
    outputs: Sequence[dict[str, Tensor]] = module([as_input(image) for image in images])
    return [instances(output) for output in outputs]


def instances(output: dict[str, Tensor]) -> list[dict[str, Any]]:
    kept = output["scores"] > SCORE
    masks = (output["masks"][kept][:, 0] > 0.5).numpy().astype(np.uint8)
    rles = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0)))
    columns = (output[name][kept].tolist() for name in ("labels", "scores", "boxes"))
    return [
        {"label": label, "score": score, "box": box, "mask": rle["counts"].decode()}
        for label, score, box, rle in zip(*columns, rles, strict=True)
    ]
