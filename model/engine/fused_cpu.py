"""Layers with what follows them in one pass over memory, on CPUs: oneDNN's post-operations.

The operators are those that torch's own compiler emits (`torch/_inductor/fx_passes/mkldnn_fusion.py`); called directly they
need no compiler and no warm-up. oneDNN also takes weights that are laid out for the processor once instead of at every call.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn


def supported(dtype: torch.dtype) -> bool:
    """Whether this torch on this processor has the fused operators in `dtype`."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return False
    if dtype == torch.float32:
        return True
    checks = {
        torch.bfloat16: "_is_mkldnn_bf16_supported",
        torch.float16: "_is_mkldnn_fp16_supported",
    }
    return dtype in checks and bool(getattr(torch.ops.mkldnn, checks[dtype])())


def layer(module: nn.Module, activation: str, scalars: list[Any], adds: bool) -> nn.Module:
    """What `model.engine.fuse` puts in the place of a convolution or linear layer; every activation and addition is fused.

    module: of a dtype that is `supported`; biases may be float32. Weights are shared with it, not copied, until the first call.
    """
    if isinstance(module, nn.Conv2d):
        return FusedConv(module, activation, scalars)
    return FusedLinear(cast(nn.Linear, module), activation, scalars)


class FusedConv(nn.Module):
    """A convolution, plus an optional second input of its output's shape, then an activation."""

    def __init__(self, conv: nn.Conv2d, activation: str, scalars: list[Any]) -> None:
        super().__init__()
        self.activation, self.scalars = activation, scalars
        self.stride, self.dilation, self.groups = list(conv.stride), list(conv.dilation), conv.groups
        self.padding = list(conv.padding)
        self._bias = None if conv.bias is None else conv.bias.detach()
        self._weight = conv.weight.detach()
        self._packed = False

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """(N, C, H, W) channels last in, the same out."""
        op = torch.ops.mkldnn
        shape = (self.padding, self.stride, self.dilation, self.groups)
        if not self._packed:
            # Only speed depends on the size that it is laid out for; images of a source are of similar sizes.
            self._weight = op._reorder_convolution_weight(self._weight, *shape, list(x.shape))
            self._packed = True
            if other is not None and self._bias is not None:
                self._bias = self._bias.to(x.dtype)  # the sum takes no other
        if other is None:
            return op._convolution_pointwise(
                x, self._weight, self._bias, *shape, self.activation, self.scalars, ""
            )
        unary = None if self.activation == "none" else self.activation
        return op._convolution_pointwise.binary(
            x, other, self._weight, self._bias, *shape, "add", 1.0, unary, self.scalars, ""
        )


class FusedLinear(nn.Module):
    """A linear layer, then an activation."""

    def __init__(self, linear: nn.Linear, activation: str, scalars: list[Any]) -> None:
        super().__init__()
        self.activation, self.scalars = activation, scalars
        self._bias = None if linear.bias is None else linear.bias.detach()
        self._weight = linear.weight.detach()
        self._packed = False

    def forward(self, x: Tensor) -> Tensor:
        """(R, inputs) in, (R, outputs) out."""
        op = torch.ops.mkldnn
        if not self._packed:
            self._weight = op._reorder_linear_weight(self._weight, len(x))
            self._packed = True
        return op._linear_pointwise(x, self._weight, self._bias, self.activation, self.scalars, "")
