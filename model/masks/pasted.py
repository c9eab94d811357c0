"""Where torchvision pastes a mask into a frame, and what torch makes of single pixels of it. Free of torch.

Serves `model.masks.crossings`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

_HALF = np.float32(0.5)

# torch has another order of operations for outputs of few pixels: `_use_vectorized_kernel_cond_2d` in
# aten/src/ATen/native/cpu/UpSampleKernel.cpp.
_SMALL_SUM = 128


@dataclass(frozen=True)
class Crops:
    """Where R masks are pasted, in whole pixels of the frame. Each field is an (R,) array."""

    left: Ints
    top: Ints
    width: Ints
    height: Ints
    first_col: Ints  # the part inside the frame; ends excluded
    last_col: Ints
    first_row: Ints
    last_row: Ints


def crop(boxes: Floats, side: int, height: int, width: int) -> Crops:
    """torchvision's expand_boxes and the bounds of its paste_mask_in_image, in the same float32 operations.

    boxes: x1 y1 x2 y2 in (R, 4) pixels; side: of the masks, in cells; height, width: of the frame.
    """
    scale, half = np.float32((side + 2) / side), np.float32(0.5)
    ends = []
    for low, high in ((boxes[:, 0], boxes[:, 2]), (boxes[:, 1], boxes[:, 3])):
        centre, reach = (high + low) * half, (high - low) * half * scale
        ends += [(centre - reach).astype(np.int64), (centre + reach).astype(np.int64)]
    left, right, top, bottom = ends
    first_col, first_row = np.maximum(left, 0), np.maximum(top, 0)
    last_col = np.maximum(np.minimum(right + 1, width), first_col)
    last_row = np.maximum(np.minimum(bottom + 1, height), first_row)
    last_col = np.where(first_row == last_row, first_col, last_col)
    width_R, height_R = np.maximum(right - left + 1, 1), np.maximum(bottom - top + 1, 1)
    return Crops(left, top, width_R, height_R, first_col, last_col, first_row, last_row)


def above_half(grid: Floats, crops: Crops, r: Ints, row: Ints, column: Ints) -> Bools:
    """Whether torch's bilinear upsampling gives more than 0.5 at pixels of the crops, to the last bit."""
    side = grid.shape[1]
    row_low, down = _position(row, crops.height, side, crops, r)
    col_low, right = _position(column, crops.width, side, crops, r)
    below, beside = row_low < side - 1, (col_low < side - 1) * side
    corner = (r * side + col_low) * side + row_low
    value = grid.reshape(-1)
    a, b, c, d = value[corner], value[corner + beside], value[corner + below], value[corner + below + beside]
    up, left = np.float32(1) - down, np.float32(1) - right
    result = _fma(_fma(a, left, b * right), up, _fma(c, left, d * right) * down)
    small = _small(crops)[r]
    if small.any():
        small_result = _fma(down * right, d, _fma(down * left, c, _fma(up * left, a, (up * right) * b)))
        result = np.where(small, small_result, result)
    above: Bools = result > _HALF
    return above


def _position(pixel: Ints, size: Ints, side: int, crops: Crops, r: Ints) -> tuple[Ints, Floats]:
    """Along one axis, as torch rounds them: the line of the grid before each pixel, the share of the next.

    at: pixels of the crops r; size: (R,) of the crops along this axis.
    """
    scale = (np.float32(side) / size.astype(np.float32))[r]
    centre = pixel.astype(np.float32) + _HALF
    source = scale * centre
    source -= _HALF
    small = _small(crops)[r]
    if small.any():
        source[small] = _fma(scale[small], centre[small], -_HALF)
    np.maximum(source, 0, out=source)
    whole = np.minimum(np.floor(source), np.float32(side - 1))
    source -= whole
    return whole.astype(np.int64), np.minimum(source, 1, out=source)


def _fma(a: Floats, b: Floats, c: Floats | np.float32) -> Floats:
    """a * b + c rounded once, as compilers contract it. The product is exact in float64."""
    return (np.multiply(a, b, dtype=np.float64) + c).astype(np.float32)


def _small(crops: Crops) -> Bools:
    small: Bools = crops.height + crops.width <= _SMALL_SUM
    return small
