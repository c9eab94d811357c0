"""Where a pasted mask crosses 0.5, as torch's bilinear upsampling has it. Free of torch; serves `model.rle`.

Down one column of a pasted mask the value is linear between neighbouring rows of the mask's grid, so that between
two grid rows it crosses 0.5 once or never, at a place that one division finds. Only pixels within rounding error
of 0.5 are computed, and those as torch computes them, operation for operation.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

# How far torch and we can be from the real value of a pixel: by float32 sums, and by float32 positions on the grid,
# whose error grows with the lines of the grid (4e-6 for torch and 7e-6 for us at 30 lines).
_VALUE_ERROR = 1e-6
_PLACE_ERROR = np.float32(7e-7)
_HALF = np.float32(0.5)
_LOW, _HIGH = np.float32(0.5 - _VALUE_ERROR), np.float32(0.5 + _VALUE_ERROR)

# torch has another order of operations for outputs of few pixels: `_use_vectorized_kernel_cond_2d` in
# aten/src/ATen/native/cpu/UpSampleKernel.cpp.
SMALL_SUM = 128

_BATCH_COLUMNS = 8192  # worked on at a time, so that they stay in the processor's cache
_BATCH_PIXELS = 1 << 18


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


def find_changes(padded: Floats, crops: Crops, frame_height: int, stride: int) -> Ints:
    """Where the pixels of the instances change between 0 and 1, each place once, ascending.

    padded: (R, M, M) mask probabilities within a border of zeros.
    The place of instance r, column x, row y of the frame is r * stride + x * frame_height + y; a mask that goes
    to the end of the frame changes one past its last pixel.
    """
    visible = crops.last_col - crops.first_col
    r = np.repeat(np.arange(len(visible)), visible)
    if not len(r):
        return np.zeros(0, np.int64)
    column = count_up(visible) + np.repeat(crops.first_col - crops.left, visible)
    place = column * frame_height + np.repeat(
        crops.left * frame_height + np.arange(len(visible)) * stride, visible
    )
    cells = _mixed_cells(padded)
    parts = [
        _crossings(padded, crops, cells, slice(at, at + _BATCH_COLUMNS), r, column)
        for at in range(0, len(r), _BATCH_COLUMNS)
    ]
    c, row, flat, near, near_row, near_on = (np.concatenate(of) for of in zip(*parts, strict=True))
    row += place[c]
    wrong = _is_wrong(padded, crops, r[near], near_row, column[near], near_on)
    swapped = np.flatnonzero(row[1:] < row[:-1])
    unsure = np.unique(np.concatenate([flat, near[wrong], c[swapped], c[swapped + 1]]))
    if len(unsure):
        first, last = np.searchsorted(c, unsure, "left"), np.searchsorted(c, unsure, "right")
        row = np.delete(row, count_up(last - first) + np.repeat(first, last - first))
        found = []
        batch = max(1, _BATCH_PIXELS // frame_height)
        for at in range(0, len(unsure), batch):
            some = unsure[at : at + batch]
            found.append(_changes_by_pixel(padded, crops, r[some], column[some], place[some]))
        more = np.sort(np.concatenate(found))
        row = np.insert(row, np.searchsorted(row, more), more)
    return odd(row)


def _crossings(
    padded: Floats, crops: Crops, cells: "_Cells", batch: slice, r: Ints, column: Ints
) -> tuple[Ints, Ints, Ints, Ints, Ints, Bools]:
    """The changes in a batch of columns: columns c and rows of the frame, down one column after the other.

    Then what float32 cannot tell: columns to be computed pixel by pixel; and changes (column, row of the crop,
    whether it is to 1) that must be compared with torch's value at the two pixels beside them.
    """
    side, r, column = padded.shape[1], r[batch], column[batch]
    low, share = _position(column, crops.width, side, crops, r)
    # Each column against each cell of the strip of cells that it runs through: item i is column c[i], cell[i].
    strip = r * side + low
    count = cells.per_strip.take(strip)
    c = np.repeat(np.arange(len(r)), count)
    cell = np.repeat(cells.first_of_strip.take(strip) - np.cumsum(count) + count, count)
    cell += np.arange(len(c))
    share = np.repeat(share, count)
    corners = cells.corners.take(cell, 0)
    upper = corners[:, 1] * share
    upper += corners[:, 0]
    lower = corners[:, 3] * share
    lower += corners[:, 2]

    upper_on, lower_on = upper > _HIGH, lower > _HIGH
    at_half = np.flatnonzero((upper_on != (upper > _LOW)) | (lower_on != (lower > _LOW)))
    crossed = np.flatnonzero(upper_on != lower_on)
    at_half, c, cell = c.take(at_half), c.take(crossed), cell.take(crossed)
    upper, lower = upper.take(crossed), lower.take(crossed)
    step = lower - upper
    of = r.take(c)
    scale = (crops.height.astype(np.float32) / np.float32(side)).take(
        of
    )  # rows of the frame to a row of cells
    crossing = (_HALF - upper) / step
    crossing += cells.middle.take(cell)
    crossing *= scale
    crossing -= _HALF
    after = np.ceil(crossing)
    row = after.astype(np.int64)
    gap = after - crossing
    np.minimum(gap, 1 - gap, out=gap)
    np.abs(step, out=step)
    scale *= _PLACE_ERROR * np.float32(side)
    near = np.flatnonzero(gap * step < scale)
    is_flat = step[near] < scale[near]  # more than one pixel a side may be near
    flat, near = near[is_flat], near[~is_flat]
    near_row = row[near]

    row += crops.top.take(of)
    cut = (crops.first_row > crops.top) | (crops.last_row < crops.top + crops.height)
    if cut[r].any():
        np.maximum(row, crops.first_row.take(of), out=row)
        np.minimum(row, crops.last_row.take(of), out=row)
    c += batch.start
    at_half += batch.start
    return c, row, np.concatenate([at_half, c[flat]]), c[near], near_row, lower[near] > _HALF


@dataclass(frozen=True)
class _Cells:
    """Squares between four grid points that are not all on one side of 0.5, by strip, from the top.

    Strip r * M + j holds the cells of instance r right of grid column j. corners: for each cell the value at the
    left end of the upper edge and what it gains to the right end, then the same of its lower edge.
    """

    per_strip: Ints
    first_of_strip: Ints
    middle: Floats  # grid rows above the cell, plus a half
    corners: Floats


def _mixed_cells(padded: Floats) -> _Cells:
    side = padded.shape[1]
    value = np.ascontiguousarray(padded.transpose(0, 2, 1)).reshape(-1)  # down the columns
    # In the flat array the cell at i has the corners i, i + 1, i + side, i + side + 1. Those that wrap around lie
    # in the border of zeros and never count.
    some = _any_corner(value > _LOW, side)
    others = _any_corner(value <= _HIGH, side)
    at = np.flatnonzero(some & others)
    strip = at // side
    per_strip = np.bincount(strip, minlength=len(value) // side)
    upper, lower = value[at], value[at + 1]
    return _Cells(
        per_strip=per_strip,
        first_of_strip=np.cumsum(per_strip) - per_strip,
        middle=(at - strip * side).astype(np.float32) + _HALF,
        corners=np.stack([upper, value[at + side] - upper, lower, value[at + side + 1] - lower], axis=1),
    )


def _any_corner(of: Bools, side: int) -> Bools:
    pair = of[:-1] | of[1:]
    return pair[:-side] | pair[side:]


def count_up(counts: Ints) -> Ints:
    """0 … counts[0] - 1, 0 … counts[1] - 1, and so on."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)


def _changes_by_pixel(padded: Floats, crops: Crops, r: Ints, column: Ints, places: Ints) -> Ints:
    """The changes in some columns, with every pixel computed; not in order of place."""
    first, rows = crops.first_row[r], (crops.last_row - crops.first_row)[r]
    c = np.repeat(np.arange(len(r)), rows)
    row = count_up(rows) + first[c]
    state = _above_half(padded, crops, r[c], row - crops.top[r][c], column[c])
    ends = np.cumsum(rows)
    before = np.concatenate([[False], state[:-1]])
    before[ends - rows] = False
    inside = np.flatnonzero(state != before)
    closing = np.flatnonzero(state[ends - 1])
    return np.concatenate([places[c[inside]] + row[inside], places[closing] + (first + rows)[closing]])


def _is_wrong(padded: Floats, crops: Crops, r: Ints, row: Ints, column: Ints, on: Bools) -> Bools:
    """Whether `row` is not the first pixel of the state `on`, or the pixel above it is."""
    at = np.stack([row, row - 1])
    exists = (at >= 0) & (at < crops.height[r])
    np.clip(at, 0, crops.height[r] - 1, out=at)
    state = _above_half(padded, crops, np.tile(r, 2), at.reshape(-1), np.tile(column, 2)).reshape(2, -1)
    wrong: Bools = (exists & (state != np.stack([on, ~on]))).any(axis=0)
    return wrong


def _above_half(padded: Floats, crops: Crops, r: Ints, row: Ints, column: Ints) -> Bools:
    """Whether torch's bilinear upsampling gives more than 0.5 at pixels of the crops, to the last bit."""
    side = padded.shape[1]
    row_low, down = _position(row, crops.height, side, crops, r)
    col_low, right = _position(column, crops.width, side, crops, r)
    row_high, col_high = np.minimum(row_low + 1, side - 1), np.minimum(col_low + 1, side - 1)
    up, left = np.float32(1) - down, np.float32(1) - right
    a, b = padded[r, row_low, col_low], padded[r, row_low, col_high]
    c, d = padded[r, row_high, col_low], padded[r, row_high, col_high]
    value = np.where(
        _small(crops)[r],
        _fma(down * right, d, _fma(down * left, c, _fma(up * left, a, (up * right) * b))),
        _fma(_fma(a, left, b * right), up, _fma(c, left, d * right) * down),
    )
    above: Bools = value > _HALF
    return above


def _position(at: Ints, size: Ints, side: int, crops: Crops, r: Ints) -> tuple[Ints, Floats]:
    """Along one axis, as torch rounds them: the line of the grid before each pixel, the share of the next.

    at: pixels of the crops r; size: (R,) of the crops along this axis.
    """
    scale = (np.float32(side) / size.astype(np.float32))[r]
    centre = at.astype(np.float32) + _HALF
    source = scale * centre
    source -= _HALF
    small = _small(crops)
    if small.any():
        small = small[r]
        source[small] = _fma(scale[small], centre[small], -_HALF)
    np.maximum(source, 0, out=source)
    low = np.minimum(source.astype(np.int64), side - 1)
    source -= low
    return low, np.minimum(source, 1, out=source)


def _fma(a: Floats, b: Floats, c: Floats | np.float32) -> Floats:
    """a * b + c rounded once, as compilers contract it. The product is exact in float64."""
    return (np.multiply(a, b, dtype=np.float64) + c).astype(np.float32)


def _small(crops: Crops) -> Bools:
    small: Bools = crops.height + crops.width <= SMALL_SUM
    return small


def odd(places: Ints) -> Ints:
    """The places that occur an odd number of times, once each: two changes are none."""
    same = np.flatnonzero(places[1:] == places[:-1])
    if not len(same):
        return places
    # Of a place that occurs more often every second pair goes.
    new = np.diff(same, prepend=-2) != 1
    pair = same[(same - same[new][np.cumsum(new) - 1]) % 2 == 0]
    return np.delete(places, np.concatenate([pair, pair + 1]))
