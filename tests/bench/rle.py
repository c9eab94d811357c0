"""Mask probabilities to COCO RLE: ours against torchvision's paste and pycocotools' encode, one thread.

    python -m tests.bench.rle

100 instances of an image. Box sides are log-uniform between 1.5 % and 64 % of the frame's, the 5th and 95th percentile
of COCO's instances (mean 17 %, as there). Masks are smooth blobs with noise, as a trained mask head gives them.

Every round has instances of its own, so that neither side's branches are learnt by heart, and both sides in turn: ours,
torchvision's, ours. The ratio is the median of the rounds' ratios. The results are compared byte for byte.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from masklake.model.masks.rle import encode_masks
from masklake.model.masks.rle_text import Rle
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torchvision.models.detection.roi_heads import paste_masks_in_image

SIZES = ((480, 640), (1080, 1920), (3000, 4000))
INSTANCES = 100
GOALS = (30, 300, 800)
ROUNDS = (15, 15, 5)


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
    rles: list[Rle] = []
    for start in range(0, len(probs), 10):
        part = slice(start, start + 10)
        pasted = paste_masks_in_image(
            torch.from_numpy(probs[part])[:, None], torch.from_numpy(boxes[part]), size
        )
        masks = (pasted[:, 0] > 0.5).numpy().astype(np.uint8)
        rles += coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0)))
    return rles


def timed(call: Callable[..., list[Rle]], *arguments: object) -> tuple[float, list[Rle]]:
    """Seconds of a call, and what it gave."""
    start = time.perf_counter()
    rles = call(*arguments)
    return time.perf_counter() - start, rles


def main() -> None:
    torch.set_num_threads(1)
    for size, goal, rounds in zip(SIZES, GOALS, ROUNDS, strict=True):
        seconds, same = [], True
        for seed in range(rounds + 1):
            arguments = (*instances(np.random.default_rng(seed), INSTANCES, size), size)
            before, ours = timed(encode_masks, *arguments)
            theirs, expected = timed(reference, *arguments)
            after, _ = timed(encode_masks, *arguments)
            seconds.append((theirs, (before + after) / 2))
            same &= ours == expected
        theirs_ours = np.asarray(seconds[1:])  # the first round warms up
        theirs, ours = np.median(theirs_ours, axis=0)
        ratios = theirs_ours[:, 0] / theirs_ours[:, 1]
        print(
            f"{size[1]:>5} x {size[0]:<5} paste + encode {theirs * 1e3:9.1f} ms   masklake {ours * 1e3:6.2f} ms   "
            f"{np.median(ratios):6.1f} times (from {ratios.min():.1f} to {ratios.max():.1f}, goal {goal})   "
            f"{'same bytes' if same else 'DIFFERENT BYTES'}",
            flush=True,
        )


if __name__ == "__main__":
    main()
