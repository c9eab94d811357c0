"""Networks without weights, for weights that are read from a file at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_RANDOM = ("normal_", "uniform_", "trunc_normal_")


class _NoRandomWeights(TorchFunctionMode):
    """Tensors keep what they hold where random values would be drawn into them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in _RANDOM:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def without_weights() -> Iterator[None]:
    """In the block, modules are built on "meta".

    (`torch.device("meta")` alone also draws the random weights there, by code that imports torch's compiler: a second.)
    """
    with torch.device("meta"), _NoRandomWeights():
        yield
