"""Mask probabilities to COCO RLE: ours against torchvision's paste and pycocotools' encode, one thread.

    python -m tests.bench.rle

100 instances of an image. Box sides are log-uniform between 1.5 % and 64 % of the frame's, the 5th and 95th percentile
of COCO's instances (mean 17 %, as there). Masks are smooth blobs with noise, as a trained mask head gives them. The
results are compared byte for byte before a ratio is printed.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torchvision.models.detection.roi_heads import paste_masks_in_image

from model.rle import Rle, encode_masks

SIZES = ((480, 640), (1080, 1920), (3000, 4000))
INSTANCES = 100
GOALS = (30, 300, 800)


def instances(
    rng: np.random.Generator, n: int, size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(n, 28, 28) probabilities and (n, 4) boxes inside a frame of `size` (height, width)."""
    frame = np.array([size[1], size[0]])
    side = np.exp(rng.uniform(np.log(0.015), np.log(0.64), (n, 2))) * frame
    corner = rng.uniform(0, 1, (n, 2)) * (frame - side)
    y, x = np.mgrid[:28, :28]
    middle, radius = rng.uniform(11, 16, (2, n, 1, 1)), rng.uniform(8, 14, (2, n, 1, 1))
    logit = 8 * (1 - ((x - middle[0]) / radius[0]) ** 2 - ((y - middle[1]) / radius[1]) ** 2)
    probs = 1 / (1 + np.exp(-logit - rng.normal(0, 0.7, (n, 28, 28))))
    return probs.astype(np.float32), np.concatenate([corner, corner + side], 1).astype(np.float32)


def reference(probs: NDArray[np.float32], boxes: NDArray[np.float32], size: tuple[int, int]) -> list[Rle]:
    """torchvision's paste, then pycocotools; ten instances at a time, so that a large frame fits into memory."""
    found: list[Rle] = []
    for at in range(0, len(probs), 10):
        part = slice(at, at + 10)
        pasted = paste_masks_in_image(
            torch.from_numpy(probs[part])[:, None], torch.from_numpy(boxes[part]), size
        )
        masks = (pasted[:, 0] > 0.5).numpy().astype(np.uint8)
        found += coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0)))
    return found


def best_of(call: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of `repeats` calls."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main() -> None:
    torch.set_num_threads(1)
    for size, goal in zip(SIZES, GOALS, strict=True):
        probs, boxes = instances(np.random.default_rng(0), INSTANCES, size)
        same = reference(probs, boxes, size) == encode_masks(probs, boxes, size)
        theirs = best_of(lambda: reference(probs, boxes, size), 3)  # noqa: B023  # called at once
        ours = best_of(lambda: encode_masks(probs, boxes, size), 20)  # noqa: B023  # called at once
        print(
            f"{size[1]:>5} x {size[0]:<5} paste + encode {theirs * 1e3:9.1f} ms   masklake {ours * 1e3:6.2f} ms   "
            f"{theirs / ours:6.1f} times (goal {goal})   {'same bytes' if same else 'DIFFERENT BYTES'}"
        )


if __name__ == "__main__":
    main()
