"""Where a pasted mask crosses 0.5, as torch's bilinear upsampling has it. Free of torch; serves `model.masks.rle`.

Between four points of its grid a pasted mask is linear along every column of pixels, and along the upper and the
lower edge. So two divisions say in which columns it crosses 0.5 between two rows of the grid, and one more for each
of them between which pixels. Only pixels within rounding error of 0.5 are computed, and those as torch computes
them, operation for operation.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from masklake.model.masks.pasted import Bools, Crops, Floats, Ints, above_half
from numpy.typing import NDArray

Places = NDArray[Any]
"""int32, or int64 where that is too narrow."""

# How far torch and we can be from the real value of a pixel: by float32 sums, and by float32 positions on the grid,
# whose error grows with the lines of the grid (6e-6 for torch and 1e-6 for us at 30 lines).
_VALUE_ERROR = np.float32(1e-6)
_PLACE_ERROR = np.float32(7e-7)
_HALF = np.float32(0.5)
_LOW, _HIGH = _HALF - _VALUE_ERROR, _HALF + _VALUE_ERROR
_TINY = np.float32(1e-30)

_BATCH_CROSSINGS = 1 << 16  # worked on at a time, so that they stay in the processor's cache
_BATCH_PIXELS = 1 << 18


def find_changes(grid: Floats, crops: Crops, frame: tuple[int, int]) -> Places:
    """Where the pixels of the instances change between 0 and 1, each place once, ascending.

    grid: (R, M, M) mask probabilities within a border of zeros, column by column; frame: height and width, pixels.
    The place of instance r, column x, row y of the frame is r * (height * width + 1) + x * height + y; a mask that
    goes to the end of the frame changes one past its last pixel.
    """
    height, width = frame
    stride = height * width + 1
    largest = max(len(grid) * stride, int(crops.width.max()), int(crops.height.max()))
    kind = np.dtype(np.int32 if largest < 1 << 31 else np.int64)
    origin = np.arange(len(grid)) * stride + crops.left * height  # where each crop's first column begins
    spans, unsure = _spans(grid, crops)
    parts = [
        _crossings(spans, some, grid.shape[1], crops, origin, height, kind) for some in _batches(spans.length)
    ]
    place, r, column, row, on, flat = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    place.sort()

    # A change with another one beside it may have changed places with it.
    pixel = (origin[r] + column * height + crops.top[r] + row).astype(kind)
    beside = np.searchsorted(place, pixel + 1, "right") - np.searchsorted(place, pixel - 1) > 1
    wrong = flat | beside | _is_wrong(grid, crops, r, column, row, on)
    unsure_r, unsure_column = np.concatenate([unsure, np.stack([r[wrong], column[wrong]])], axis=1)
    start, first = np.unique(origin[unsure_r] + unsure_column * height, return_index=True)
    if len(start):
        start = start.astype(kind)
        # The end of one column and the first row of the next are the same place. Every column has an even number of
        # changes, so their number says to which of the two columns a change there belongs.
        bounds = np.stack([np.searchsorted(place, start), np.searchsorted(place, start + height)])
        bounds += bounds & 1
        old = place[_count_up(bounds[1] - bounds[0]) + np.repeat(bounds[0], bounds[1] - bounds[0])]
        changes = [
            _changes_by_pixel(grid, crops, unsure_r[some], unsure_column[some], origin, height)
            for some in np.split(first, range(0, len(first), max(1, _BATCH_PIXELS // height))[1:])
        ]
        more = np.sort(np.concatenate([old, *changes]).astype(kind))  # a place that occurs twice is no change
        place = np.insert(place, np.searchsorted(place, more), more)
    return _odd(place)


@dataclass(frozen=True)
class _Spans:
    """Runs of columns in which an instance crosses 0.5 once between the same two rows of the grid. (S,) arrays.

    In the column t from `column` on, the crossing is (distance + t * distance_gain) / (step + t * step_gain) pixels
    below `row`, both of the crop. step: what a column of pixels gains from one pixel to the next.
    """

    r: Ints
    column: Ints
    length: Ints
    row: Ints
    lines: Floats  # (4, S): distance, distance_gain, step, step_gain


def _spans(grid: Floats, crops: Crops) -> tuple[_Spans, Ints]:
    """The spans; and the columns, (2, C) instances and columns of the crops, in which the value at a row of the grid
    is within error of 0.5."""
    side = grid.shape[1]
    value = grid.reshape(-1)
    # In the flat array the cell at i has the corners i, i + 1, i + side, i + side + 1. Those that wrap around lie
    # in the border of zeros and never count.
    cells = np.flatnonzero(_any_corner(value > _LOW, side) & _any_corner(value <= _HIGH, side))
    strip = cells // side
    r = strip // side
    left, right = np.empty((2, 2, len(cells)), np.float32)  # of the upper edge, of the lower edge
    left[0], left[1] = value.take(cells), value[1:].take(cells)
    right[0], right[1] = value[side:].take(cells), value[side + 1 :].take(cells)

    # Where the lines of the grid lie, in pixels of the crop, and the first of the visible columns right of each.
    pace_R, tall_R = crops.width / side, crops.height / side
    lines_M = np.arange(side) + 0.5
    line_RM, row_RM = lines_M * pace_R[:, None] - 0.5, lines_M * tall_R[:, None] - 0.5
    first_RM = np.ceil(line_RM)
    first_RM[:, 0] = 0
    np.maximum(first_RM, (crops.first_col - crops.left)[:, None], out=first_RM)
    np.minimum(first_RM, (crops.last_col - crops.left)[:, None], out=first_RM)
    count_RM = np.zeros(first_RM.shape, np.float32)
    count_RM[:, :-1] = first_RM[:, 1:] - first_RM[:, :-1]
    pace = pace_R.astype(np.float32).take(r)
    line = (line_RM - first_RM).astype(np.float32).take(strip)
    count = count_RM.take(strip)

    # After how many columns each edge passes 0.5.
    gain = right - left
    gain[gain == 0] = _TINY
    error = _PLACE_ERROR * np.float32(side) * pace
    pace_per_gain = pace / gain
    turn = (_HALF - left) * pace_per_gain
    turn += line
    slack = np.abs(_VALUE_ERROR * pace_per_gain)
    slack += error
    low, high = np.ceil(np.maximum(turn - slack, line - error)), turn + slack
    high = np.floor(np.minimum(high, line + pace + error, out=high), out=high)
    near = np.flatnonzero(low <= high)
    near_cell = near % max(1, len(cells))
    first = first_RM.astype(np.int64).reshape(-1)
    unsure = _columns(
        r[near_cell],
        first[strip[near_cell]] + low.take(near).astype(np.int64),
        (high - low).take(near).astype(np.int64) + 1,
        crops,
    )

    # Columns in which one of the two edges is above 0.5: between their turns if they start alike, else outside.
    # Sums of products choose faster than np.where, whose branches are hard to predict.
    above = left > _HALF
    np.ceil(turn, out=turn)
    np.maximum(turn, 0, out=turn)
    np.minimum(turn, count, out=turn)
    turn -= count
    turn *= above != (right > _HALF)
    turn += count
    first_turn, last_turn = np.minimum(turn[0], turn[1]), np.maximum(turn[0], turn[1])
    alike = above[0] == above[1]
    start, stop = first_turn * alike, first_turn + (last_turn - first_turn) * alike
    some, twice = np.flatnonzero(start < stop), np.flatnonzero((last_turn < count) & ~alike)
    start = np.concatenate([start.take(some), last_turn.take(twice)])
    length = np.concatenate([stop.take(some), count.take(twice)]) - start
    some = np.concatenate([some, twice])

    r, strip, pace = r.take(some), strip.take(some), pace.take(some)
    grid_row = cells.take(some)
    grid_row -= (strip - r) * side  # r * side + row of the grid
    upper, upper_gain = left[0].take(some), gain[0].take(some) / pace
    drop, drop_gain = left[1].take(some) - upper, gain[1].take(some) / pace - upper_gain
    from_line = start - line.take(some)
    rows_RM = np.floor(row_RM)
    offset = (row_RM - rows_RM).astype(np.float32).take(grid_row)
    per_row = (1 / tall_R).astype(np.float32).take(r)
    lines = np.empty((4, len(some)), np.float32)
    lines[2] = (drop + drop_gain * from_line) * per_row
    lines[3] = drop_gain * per_row
    lines[0] = (_HALF - upper) - upper_gain * from_line + offset * lines[2]
    lines[1] = offset * lines[3] - upper_gain
    column = first.take(strip) + start.astype(np.int64)
    row = rows_RM.astype(np.int64).take(grid_row)
    return _Spans(r, column, length.astype(np.int64), row, lines), unsure


def _columns(r: Ints, first: Ints, count: Ints, crops: Crops) -> Ints:
    """(2, C): instances, and the visible ones of `count` columns of their crops from `first` on."""
    r, column = np.repeat(r, count), np.repeat(first, count) + _count_up(count)
    frame_column = crops.left[r] + column
    return np.stack([r, column])[:, (frame_column >= crops.first_col[r]) & (frame_column < crops.last_col[r])]


def _any_corner(flags: Bools, side: int) -> Bools:
    pair = flags[:-1] | flags[1:]
    return pair[:-side] | pair[side:]


def _batches(counts: Ints) -> Iterator[slice]:
    """Parts of the spans with about as many crossings; at least one, which may be empty."""
    ends = np.cumsum(counts)
    start = 0
    while True:
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _BATCH_CROSSINGS, "right")))
        yield slice(start, stop)
        start = stop
        if start >= len(ends):
            return


def _crossings(
    spans: _Spans, some: slice, side: int, crops: Crops, origin: Ints, frame_height: int, kind: np.dtype[Any]
) -> tuple[Places, Ints, Ints, Ints, Bools, Bools]:
    """The places of the changes in some spans, not in order.

    Then those that must be compared with torch's value at the two pixels beside them: instance, column and row of the
    crop, whether the change is to 1, and whether more than one pixel a side may be within error.
    """
    r, column, length, row = spans.r[some], spans.column[some], spans.length[some], spans.row[some]
    ends = np.cumsum(length)
    begins = ends - length
    # The span of each column. np.repeat takes twice as long: it loops over spans, whose lengths cannot be predicted.
    span = np.zeros(ends[-1] if len(ends) else 0, np.int64)
    span[begins[1:]] = 1
    np.cumsum(span, out=span)
    crossing, distance_gain, step, step_gain = (line[some].take(span) for line in spans.lines)
    t = np.arange(len(span), dtype=kind)
    t -= begins.astype(kind).take(span)
    along = t.astype(np.float32)
    distance_gain *= along
    crossing += distance_gain
    step_gain *= along
    step += step_gain
    with np.errstate(divide="ignore", invalid="ignore"):  # of steps of 0, which are flat
        crossing /= step
        after = np.ceil(crossing)
        place = after.astype(kind)
        after -= crossing
        np.minimum(after, 1 - after, out=after)
        np.abs(step, out=crossing)
        after *= crossing
    error = _PLACE_ERROR * np.float32(side)
    near = np.flatnonzero(~(after >= error))
    near_span = span[near]
    on, flat = step[near] > 0, crossing[near] < error
    place[near[flat]] = 1  # anywhere in the column
    near_row = row[near_span] + place[near]

    # Rows outside the frame.
    top = crops.top[r] + row
    reach = np.ceil(crops.height / side).astype(np.int64)[r] + 1
    cut = np.flatnonzero((top < crops.first_row[r]) | (top + reach > crops.last_row[r]))
    if len(cut):
        cut_span = np.repeat(cut, length[cut])
        cut_place, cut_crop = _count_up(length[cut]) + begins[cut_span], r[cut_span]
        first, last = crops.first_row[cut_crop] - top[cut_span], crops.last_row[cut_crop] - top[cut_span]
        place[cut_place] = np.clip(place[cut_place], first, last)
    t *= frame_height
    place += t
    place += (origin[r] + column * frame_height + top).astype(kind).take(span)
    return place, r[near_span], column[near_span] + near - begins[near_span], near_row, on, flat


def _count_up(counts: Ints) -> Ints:
    """0 … counts[0] - 1, 0 … counts[1] - 1, and so on."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)


def _changes_by_pixel(
    grid: Floats, crops: Crops, r: Ints, column: Ints, origin: Ints, frame_height: int
) -> Ints:
    """The changes in some columns of the crops, with every pixel computed; not in order of place."""
    first, rows = crops.first_row[r], (crops.last_row - crops.first_row)[r]
    c = np.repeat(np.arange(len(r)), rows)
    row = _count_up(rows) + first[c]
    state = above_half(grid, crops, r[c], row - crops.top[r][c], column[c])
    ends = np.cumsum(rows)
    before = np.concatenate([[False], state[:-1]])
    before[ends - rows] = False
    inside = np.flatnonzero(state != before)
    closing = np.flatnonzero(state[ends - 1])
    place = origin[r] + column * frame_height
    return np.concatenate([place[c[inside]] + row[inside], place[closing] + (first + rows)[closing]])


def _is_wrong(grid: Floats, crops: Crops, r: Ints, column: Ints, row: Ints, on: Bools) -> Bools:
    """Whether `row` is not the first pixel of the state `on`, or the pixel above it is."""
    rows = np.stack([row, row - 1])
    exists = (rows >= 0) & (rows < crops.height[r])
    np.clip(rows, 0, crops.height[r] - 1, out=rows)
    state = above_half(grid, crops, np.tile(r, 2), rows.reshape(-1), np.tile(column, 2)).reshape(2, -1)
    wrong: Bools = (exists & (state != np.stack([on, ~on]))).any(axis=0)
    return wrong


def _odd(places: Ints) -> Ints:
    """The places that occur an odd number of times, once each: two changes are none."""
    same = np.flatnonzero(places[1:] == places[:-1])
    if not len(same):
        return places
    new = np.diff(same, prepend=-2) != 1
    if not new.all():  # of a place that occurs more often every second pair goes
        same = same[(same - same[new][np.cumsum(new) - 1]) % 2 == 0]
    keep = np.ones(len(places), np.bool_)
    keep[same] = keep[same + 1] = False
    return places[keep]
