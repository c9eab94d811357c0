"""Mask probabilities and boxes to COCO RLE on the device where they are: only where runs change crosses the bus.

The bytes are those of `model.masks.rle.encode_masks`. A GPU has arithmetic to spare and a narrow way to the host, so that
here every pixel of a box is computed, as torch's upsampling on CPUs computes it, and compared with the one above it.
"""

from collections.abc import Iterator

import numpy as np
import torch
from masklake.model.errors import ModelError
from masklake.model.masks.crossings import count_up, odd
from masklake.model.masks.pasted import SMALL_SUM, Crops, Ints, crop
from masklake.model.masks.rle import Rle, compress
from torch import Tensor

_PIXELS = 1 << 24
"""Worked on at a time: about 2 GB of a GPU's memory."""


def encode_masks(probs: Tensor, boxes: Tensor, size: tuple[int, int]) -> list[Rle]:
    """COCO RLE of the masks where they exceed 0.5, pasted into their boxes.

    probs: (N, M, M) float32 mask probabilities; boxes: (N, 4) float32, x1 y1 x2 y2 in pixels of the frame; both on
    one device. size: height and width of the frame, pixels.
    Raises ModelError for shapes that do not fit and values that are not finite.
    """
    height, width = size
    n = len(probs)
    if probs.ndim != 3 or probs.shape[1] != probs.shape[2] or boxes.shape != (n, 4):
        raise ModelError(
            f"masks have shape {tuple(probs.shape)} and boxes {tuple(boxes.shape)}, not (N, M, M), (N, 4)"
        )
    if not n:
        return []
    boxes_N4 = boxes.float().cpu().numpy()
    if not np.isfinite(boxes_N4).all() or not bool(probs.isfinite().all()):
        raise ModelError("masks or boxes have values that are not finite")
    crops = crop(boxes_N4, probs.shape[1], height, width)
    padded = torch.nn.functional.pad(probs.float(), (1, 1, 1, 1))
    places = [_changes(padded, crops, rows, height, height * width + 1) for rows in _parts(crops)]
    changes = np.concatenate(places) if places else np.zeros(0, np.int64)
    return compress(odd(np.sort(changes)), n, height, width)


def _parts(crops: Crops) -> Iterator[tuple[Ints, Ints]]:
    """Columns of the crops, as instance and column of the frame, in batches of about as many pixels."""
    visible = crops.last_col - crops.first_col
    instance = np.repeat(np.arange(len(visible)), visible)
    column = count_up(visible) + np.repeat(crops.first_col, visible)
    ends = np.cumsum((crops.last_row - crops.first_row)[instance])
    start = 0
    while start < len(instance):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _PIXELS, "right")))
        yield instance[start:stop], column[start:stop]
        start = stop


def _changes(
    padded: Tensor, crops: Crops, columns: tuple[Ints, Ints], frame_height: int, stride: int
) -> Ints:
    """Where pixels change along some columns: instance * stride + column * frame_height + row, not sorted."""
    device = padded.device
    r_C, column_C = (torch.from_numpy(of).to(device) for of in columns)
    first_C, last_C, top_C, left_C, height_C, width_C = (
        torch.from_numpy(of).to(device)[r_C]
        for of in (crops.first_row, crops.last_row, crops.top, crops.left, crops.height, crops.width)
    )
    place_C = r_C * stride + column_C * frame_height
    small_C = height_C + width_C <= SMALL_SUM
    side = padded.shape[1]
    low_C, right_C = _position(column_C - left_C, width_C, side, small_C)

    count_C = last_C - first_C
    ends_C = count_C.cumsum(0)
    c = torch.arange(len(r_C), device=device).repeat_interleave(count_C)
    row = torch.arange(len(c), device=device) - (ends_C - count_C - first_C)[c]
    small = small_C[c]
    above, down = _position(row - top_C[c], height_C[c], side, small)
    value = _bilinear(padded, r_C[c], above, down, low_C[c], right_C[c], small)
    on = value > 0.5
    before = torch.cat([on.new_zeros(1), on[:-1]])
    some = count_C > 0
    before[(ends_C - count_C)[some]] = False
    inside = torch.where(on != before)[0]
    closing = torch.where(some)[0]
    closing = closing[on[ends_C[closing] - 1]]
    return torch.cat([place_C[c[inside]] + row[inside], place_C[closing] + last_C[closing]]).cpu().numpy()


def _bilinear(
    padded: Tensor, r: Tensor, above: Tensor, down: Tensor, before: Tensor, right: Tensor, small: Tensor
) -> Tensor:
    """`model.masks.crossings._above_half`'s sums: torch has two orders of operations, by the size of the output."""
    last = padded.shape[1] - 1
    below, after = (above + 1).clamp(max=last), (before + 1).clamp(max=last)
    up, left = 1 - down, 1 - right
    a, b, c, d = (
        padded[r, above, before],
        padded[r, above, after],
        padded[r, below, before],
        padded[r, below, after],
    )
    of_small = _fma(down * right, d, _fma(down * left, c, _fma(up * left, a, (up * right) * b)))
    of_large = _fma(_fma(a, left, b * right), up, _fma(c, left, d * right) * down)
    return torch.where(small, of_small, of_large)


def _position(at: Tensor, size: Tensor, side: int, small: Tensor) -> tuple[Tensor, Tensor]:
    """Along one axis: the line of the grid before each pixel, the share of the next (`model.masks.crossings._position`)."""
    scale, centre = torch.tensor(float(side), device=at.device) / size.float(), at.float() + 0.5
    source = torch.where(small, _fma(scale, centre, torch.full_like(centre, -0.5)), scale * centre - 0.5)
    source = source.clamp(min=0)
    low = source.to(torch.int64).clamp(max=side - 1)
    return low, (source - low).clamp(max=1)


def _fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a * b + c rounded once; the product is exact in float64."""
    return (a.double() * b.double() + c.double()).float()
