"""Which images of a batch have values that are not finite: a network that overflows finds nothing, or anything."""

from collections.abc import Iterable

import torch
from masklake.model.engine.rois import Rois
from torch import Tensor


def all_finite(parts: Iterable[Tensor]) -> Tensor:
    """(N,) for each of the N rows that every one of `parts`, (N, ...), has: whether its values there are finite.

    By their sum, which is infinite or NaN where one of them is.
    """
    return torch.stack([part.flatten(1).sum(1, dtype=torch.float32).isfinite() for part in parts]).all(0)


def of_images(finite_R: Tensor, rois: Rois) -> Tensor:
    """(N,) whether all regions of an image are finite."""
    broken_R = ~finite_R if rois.present is None else ~finite_R & rois.present
    broken_N = torch.zeros(len(rois.counts), device=finite_R.device)
    return broken_N.index_add_(0, rois.image, broken_R.float()) == 0
