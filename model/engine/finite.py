"""Which images of a batch have values that are not finite: a network that overflows finds nothing, or anything."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def all_finite(parts: Iterable[Tensor]) -> Tensor:
    """(N,) for each of the N rows that every one of `parts`, (N, ...), has: whether its values there are finite.

    By their sum, which is infinite or NaN where one of them is.
    """
    return torch.stack([part.flatten(1).sum(1, dtype=torch.float32).isfinite() for part in parts]).all(0)


def of_images(finite_R: Tensor, counts: Sequence[int]) -> Tensor:
    """(N,) whether all RoIs of an image are finite; `counts` RoIs are an image's, one image after the other."""
    return torch.stack([finite.all() for finite in finite_R.split(list(counts))])
