"""From heat maps to keypoints: torchvision's heatmaps_to_keypoints, computed only where the maximum can be."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# Share of the largest logit by which two ways to sum sixteen float32 products can differ, with room; and by how much
# more, as the places between cells are rounded.
_ROUNDING = 2e-5

# Bicubic weights (torch's a = -0.75) along one axis sum to 1; the negative ones to no less than -0.1875.
_A = -0.75
_NEGATIVE = 0.1875

_CELLS = 1 << 16  # examined in one step
_PIXELS = 1 << 20  # enlarged in one step, at most: 100 MB
_LAST = torch.iinfo(torch.int64).max
_MANY = 4096
"""Pixels of a map from which on torch's own interpolation is faster on a CPU."""


def place_keypoints(maps: Tensor, boxes: Tensor, *, settle: bool = True) -> Tensor:
    """The highest point of each heat map after it is enlarged to its box with bicubic weights: (R, K, 3) float32.

    maps: (R, K, M, M) float32 logits; boxes: (R, 4), x1 y1 x2 y2 in pixels of the resized image.
    The last axis is x, y (pixels of the resized image) and the logit there; NaN where a map has values that are not finite.

    The same places as `heatmaps_to_keypoints` in torchvision's roi_heads.py, which enlarges map after map. Here all maps
    are worked on at once: an upper bound of a pixel, from the sixteen cells around it, says where the maximum can be, and
    only there pixels are computed. Where another pixel is as high as the highest, up to rounding, and `settle` is set,
    torch's own interpolation decides, map by map; on a GPU the host would have to wait for that.
    """
    r, k, m, _ = maps.shape
    sides_R2 = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    whole_R2 = sides_R2.ceil()
    if not r:
        return maps.new_zeros(0, k, 3)
    # From here on the maps of all RoIs are one list of L; cell c lies between the lines c - 1 and c of a map's grid.
    maps_LMM = maps.flatten(0, 1)
    largest_L = maps_LMM.abs().amax((1, 2))
    finite_L = largest_L.isfinite()
    # No bound holds for the others, and one of them must not cost the rest their keypoints.
    maps_LMM = torch.where(finite_L[:, None, None], maps_LMM, 0)
    largest_L = torch.where(finite_L, largest_L, 0)
    size_L2 = whole_R2.to(torch.int64).repeat_interleave(k, 0)  # width, height
    around = F.pad(maps_LMM, (2, 2, 2, 2), mode="replicate")
    rounding_L = _ROUNDING * largest_L
    least_L = _highest_sample(maps_LMM, around, size_L2) - rounding_L
    map_C, row, column = torch.where(_upper_bound(around) >= least_L[:, None, None])
    cells = _narrowed(around, (map_C, row, column), size_L2, least_L)

    unclear_L = torch.zeros(r * k, dtype=torch.bool, device=maps.device)
    if settle:
        pixels = _pixels(cells[2], size_L2[cells[0], 0], m)[1] * _pixels(cells[1], size_L2[cells[0], 1], m)[1]
        unclear_L = torch.zeros(r * k, dtype=torch.int64).scatter_add_(0, cells[0], pixels) > _MANY
        some = ~unclear_L[cells[0]]
        cells = (cells[0][some], cells[1][some], cells[2][some])
    pixel_L, logit_L, alone_L = _highest_pixels(around, cells, size_L2, rounding_L)
    if settle:
        unclear_L |= ~alone_L
        for roi in torch.where(unclear_L.view(r, k).any(1))[0].tolist():
            unclear = torch.where(unclear_L.view(r, k)[roi])[0]
            width, height = size_L2[roi * k].tolist()
            enlarged = F.interpolate(
                maps_LMM[roi * k + unclear][:, None], (height, width), mode="bicubic", align_corners=False
            )
            logit_L[roi * k + unclear], pixel_L[roi * k + unclear] = enlarged.flatten(1).max(1)
    logit_L = logit_L.masked_fill(~finite_L, torch.nan)  # as a maximum of such maps is
    pixel_L2 = torch.stack([pixel_L % size_L2[:, 0], pixel_L // size_L2[:, 0]], dim=1)
    places_RK2 = (pixel_L2.view(r, k, 2) + 0.5) * (sides_R2 / whole_R2)[:, None] + boxes[:, None, :2]
    return torch.cat([places_RK2, logit_L.view(r, k, 1)], dim=2)


Cells = tuple[Tensor, Tensor, Tensor]
"""(C,) each: map, row, column."""


def _upper_bound(around: Tensor) -> Tensor:
    """(L, M + 1, M + 1): what no pixel between four neighbouring cells, the edge's repeated, can exceed.

    Along one axis the value is at most (1 + n) times the higher one of the two inner cells less n times the lower one
    of the outer two, n being what the negative weights sum to at most.
    """
    n = _NEGATIVE
    high, low = _of_four(torch.maximum, around), _of_four(torch.minimum, around)
    inner = torch.maximum(around[:, 1:-2, 1:-1], around[:, 2:-1, 1:-1])
    inner = torch.maximum(inner[..., 1:], inner[..., :-1])
    bound = inner.mul_((1 + n) ** 2)
    return bound.add_(low, alpha=-2 * n * (1 + n)).add_(high, alpha=n * n)


def _of_four(best: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> Tensor:
    """Over windows of 4 x 4. torch's max_pool2d, which also computes the positions, takes forty times as long."""
    x = best(x[..., 1:, :], x[..., :-1, :])
    x = best(x[..., 2:, :], x[..., :-2, :])
    x = best(x[..., 1:], x[..., :-1])
    return best(x[..., 2:], x[..., :-2])


def _highest_sample(maps_LMM: Tensor, around: Tensor, size_L2: Tensor) -> Tensor:
    """(L,) the value of each enlarged map at the pixel next to its highest cell."""
    m = maps_LMM.shape[-1]
    cell_L = maps_LMM.flatten(1).argmax(1)
    cell_L2 = torch.stack([cell_L % m, cell_L // m], 1)
    pixel_L2 = ((cell_L2 + 0.5) * (size_L2 / m)).to(torch.int64)
    source_L2 = _source(torch.minimum(pixel_L2, size_L2 - 1), size_L2, m)
    low_L2 = source_L2.floor()
    column, row = (low_L2.to(torch.int64) + 1).unbind(1)
    across, down = (_weights(t) for t in (source_L2 - low_L2).unbind(1))
    map_L = torch.arange(len(maps_LMM), device=maps_LMM.device)
    return _sum(_patches(around, (map_L, row, column)), down, across)


def _narrowed(around: Tensor, cells: Cells, size_L2: Tensor, least_L: Tensor) -> Cells:
    """The cells with pixels whose surface between four lines of the grid can really reach `least_L`.

    A cubic lies below its control points: along one axis, for the values a b c d, they are b, b + (c - a) / 4,
    c - (d - b) / 4 and c.
    """
    m = around.shape[-1] - 4
    along = around.new_tensor([[0, 1, 0, 0], [-0.25, 1, 0.25, 0], [0, 0.25, 1, -0.25], [0, 0, 1, 0]])
    control = torch.kron(along, along).T.contiguous()
    kept = []
    for start in range(0, len(cells[0]), _CELLS):
        map_C, row, column = (part[start : start + _CELLS] for part in cells)
        highest = (_patches(around, (map_C, row, column)).flatten(1) @ control).amax(1)
        # Rounding is in least_L.
        some = highest >= least_L[map_C]
        some &= (_pixels(column, size_L2[map_C, 0], m)[1] > 0) & (_pixels(row, size_L2[map_C, 1], m)[1] > 0)
        rows = torch.where(some)[0]
        kept.append(torch.stack([map_C, row, column])[:, rows])
    map_C, row, column = torch.cat(kept, 1)
    return map_C, row, column


def _highest_pixels(
    around: Tensor, cells: Cells, size_L2: Tensor, rounding_L: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(L,) the highest of each map's pixels in its cells, row by row; its value; whether none other is as high."""
    maps, m = len(around), around.shape[-1] - 4
    best_L = around.new_full((maps,), -torch.inf)
    pixel_L, rivals_L = torch.zeros((2, maps), dtype=torch.int64, device=around.device)
    width, height = (size_L2.amax(0).tolist()) if maps else (1, 1)
    step = max(1, _PIXELS // ((width // m + 2) * (height // m + 2)))
    for begin in range(0, len(cells[0]), step):
        map_C, row, column = (part[begin : begin + step] for part in cells)
        first_x, count_x = _pixels(column, size_L2[map_C, 0], m)
        first_y, count_y = _pixels(row, size_L2[map_C, 1], m)
        count = count_x * count_y
        cell = torch.arange(len(map_C), device=map_C.device).repeat_interleave(count)
        nth = torch.arange(len(cell), device=map_C.device) - (count.cumsum(0) - count)[cell]
        y, x = first_y[cell] + nth // count_x[cell], first_x[cell] + nth % count_x[cell]
        patch = _patches(around, (map_C, row, column))[cell]
        across = _weights(_source(x, size_L2[map_C, 0][cell], m) - (column[cell] - 1))
        down = _weights(_source(y, size_L2[map_C, 1][cell], m) - (row[cell] - 1))
        value = _sum(patch, down, across)
        map_C = map_C[cell]
        place = y * size_L2[map_C, 0] + x
        higher_L = best_L.scatter_reduce(0, map_C, value, "amax")
        near = value >= (higher_L - rounding_L)[map_C]
        rivals_L = torch.where(best_L >= higher_L - rounding_L, rivals_L, 0).scatter_add_(
            0, map_C, near.long()
        )
        # Among equally high pixels the first one counts.
        pixel_L = torch.where(best_L == higher_L, pixel_L, _LAST)
        pixel_L.scatter_reduce_(0, map_C, torch.where(value == higher_L[map_C], place, _LAST), "amin")
        best_L = higher_L
    return pixel_L, best_L, rivals_L < 2


def _patches(around: Tensor, cells: Cells) -> Tensor:
    """(C, 4, 4) the values that a pixel of each cell is made of."""
    map_C, row, column = cells
    side = around.shape[-1]
    four = torch.arange(4, device=around.device)
    offsets = (four[:, None] * side + four).flatten()
    first = (map_C * side + row) * side + column
    return around.flatten()[first[:, None] + offsets].view(-1, 4, 4)


def _pixels(cell: Tensor, size: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """Along one axis of maps enlarged to `size`: the first pixel of each cell, and how many it has."""
    first, after = (
        ((cell + end) * (size / m) - 0.5).ceil().to(torch.int64).clamp(min=0).minimum(size)
        for end in (-0.5, 0.5)
    )
    return first, after - first


def _source(pixel: Tensor, size: Tensor, m: int) -> Tensor:
    """Along one axis: where pixels lie on the grid, as torch rounds it (area_pixel_compute_source_index)."""
    return (m / size.float()) * (pixel.float() + 0.5) - 0.5


def _weights(t: Tensor) -> Tensor:
    """(C, 4) bicubic weights at `t` of the way from the second value to the third (torch's UpSample.h)."""
    t = t.clamp(0, 1)[:, None]
    near, far = torch.cat([t, 1 - t], 1), torch.cat([t + 1, 2 - t], 1)
    near = ((_A + 2) * near - (_A + 3)) * near * near + 1
    far = ((_A * far - 5 * _A) * far + 8 * _A) * far - 4 * _A
    return torch.cat([far[:, :1], near, far[:, 1:]], 1)


def _sum(patch: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """(C,) values of pixels: 4 x 4 cells by the weights of rows and columns."""
    return ((patch * across[:, None]).sum(2) * down).sum(1)
