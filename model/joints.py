"""From heat maps to joints: torchvision's heatmaps_to_keypoints, computed only where the maximum can be."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# Share of the largest logit by which two ways to sum sixteen float32 products can differ, with room.
_ROUNDING = 1e-5

# Bicubic weights (torch's a = -0.75) along one axis sum to 1; the negative ones to no less than -0.1875.
_NEGATIVE = 0.1875


def place_joints(maps: Tensor, boxes: Tensor) -> Tensor:
    """Where each heat map is highest, once it is enlarged to its box with bicubic weights: (R, K, 3) float32.

    maps: (R, K, M, M) float32 logits; boxes: (R, 4), x1 y1 x2 y2 in pixels of the resized image.
    The last axis is x, y (pixels of the resized image) and the logit there.

    The same places as `heatmaps_to_keypoints` in torchvision's roi_heads.py, which enlarges whole maps. A bound on
    what the weights can make of the sixteen cells around a pixel says where the maximum can be; there, two matrix
    products enlarge. Where another pixel comes within rounding of the highest, torch's own interpolation decides.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    whole = sides.ceil()
    rounding_RK = _ROUNDING * maps.abs().amax((2, 3))
    bound_RKCC = _upper_bound(maps)
    at = torch.empty(*maps.shape[:2], 2, dtype=torch.int64, device=maps.device)  # column, row
    logits_RK = maps.new_empty(maps.shape[:2])
    weights: dict[int, Tensor] = {}
    for r, (width, height) in enumerate(whole.to(torch.int64).tolist()):
        for size in (width, height):
            if size not in weights:
                weights[size] = _bicubic(maps.shape[-1], size, maps)
        least_K = _sample(maps[r], weights[height], weights[width]) - rounding_RK[r]
        possible_KCC = bound_RKCC[r] >= least_K[:, None, None]
        row_K, rows_KSM = _window(possible_KCC.any(2), weights[height])
        column_K, columns_KSM = _window(possible_KCC.any(1), weights[width])
        enlarged_KSS = rows_KSM @ maps[r] @ columns_KSM.mT
        logits_RK[r], best_K = enlarged_KSS.flatten(1).max(1)
        at[r, :, 0] = column_K + best_K % enlarged_KSS.shape[2]
        at[r, :, 1] = row_K + best_K // enlarged_KSS.shape[2]
        unclear = (enlarged_KSS >= (logits_RK[r] - rounding_RK[r])[:, None, None]).sum((1, 2)) > 1
        if unclear.any():
            some = maps[r][unclear][:, None]
            enlarged = F.interpolate(some, (height, width), mode="bicubic", align_corners=False)
            logits_RK[r, unclear], best = enlarged.flatten(1).max(1)
            at[r, unclear] = torch.stack([best % width, best // width], dim=1)
    places_RK2 = (at + 0.5) * (sides / whole)[:, None] + boxes[:, None, :2]
    return torch.cat([places_RK2, logits_RK[..., None]], dim=2)


def _upper_bound(maps: Tensor) -> Tensor:
    """(R, K, M + 1, M + 1): what no pixel between four neighbouring cells, the edge's repeated, can exceed."""
    around = F.pad(maps, (2, 2, 2, 2), mode="replicate")
    high, low = _of_four(torch.maximum, around), _of_four(torch.minimum, around)
    negative = 2 * _NEGATIVE * (1 + _NEGATIVE)  # sum of the sixteen products below 0
    return high + negative * (high - low)


def _of_four(best: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> Tensor:
    """Over windows of 4 x 4. torch's max_pool2d, which also looks for the places, takes forty times as long."""
    x = best(x[..., 1:, :], x[..., :-1, :])
    x = best(x[..., 2:, :], x[..., :-2, :])
    x = best(x[..., 1:], x[..., :-1])
    return best(x[..., 2:], x[..., :-2])


def _sample(maps_KMM: Tensor, rows_HM: Tensor, columns_WM: Tensor) -> Tensor:
    """(K,) the value of each enlarged map at the pixel next to its highest cell."""
    k, m, _ = maps_KMM.shape
    cell = maps_KMM.flatten(1).argmax(1)
    row = ((cell // m + 0.5) * (len(rows_HM) / m)).to(torch.int64).clamp(max=len(rows_HM) - 1)
    column = ((cell % m + 0.5) * (len(columns_WM) / m)).to(torch.int64).clamp(max=len(columns_WM) - 1)
    return (rows_HM[row][:, None] @ maps_KMM @ columns_WM[column][:, :, None]).view(k)


def _window(possible_KC: Tensor, weights_PM: Tensor) -> tuple[Tensor, Tensor]:
    """Along one axis: (K,) first pixels and (K, S, M) weights of windows that cover the possible cells."""
    pixels, m = weights_PM.shape
    cells = torch.arange(m + 1, device=possible_KC.device)
    first = torch.where(possible_KC, cells, m).amin(1) - 1
    last = torch.where(possible_KC, cells, 0).amax(1)
    # A pixel between grid lines c - 1 and c is in cell c; a pixel more on either side for rounding.
    start = ((first + 0.5) * (pixels / m) - 0.5).floor().to(torch.int64).clamp(min=0)
    stop = ((last + 0.5) * (pixels / m) - 0.5).ceil().to(torch.int64).clamp(max=pixels - 1) + 1
    size = int((stop - start).amax())
    start = start.clamp(max=pixels - size)
    return start, weights_PM[start[:, None] + torch.arange(size, device=start.device)]


def _bicubic(cells: int, pixels: int, like: Tensor) -> Tensor:
    """(pixels, cells) weights of torch's bicubic interpolation along one axis."""
    unit = torch.eye(cells, dtype=like.dtype, device=like.device)[None, :, :, None]
    return F.interpolate(unit, (pixels, 1), mode="bicubic", align_corners=False)[0, :, :, 0].T.contiguous()
