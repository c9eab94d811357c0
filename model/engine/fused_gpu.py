"""Layers with what follows them in one pass over memory, on NVIDIA's GPUs: cuDNN's and cuBLAS' epilogues.

torch adds a bias in a pass of its own, another adds a shortcut, a third is the activation: on an H100 they take as long as the
convolutions of a ResNet in bfloat16. The operators here are torch's own, but none of its modules calls them.
"""

from typing import Any

import torch
import torch.nn.functional as F
from masklake.model.engine.fuse import keeps_size
from torch import Tensor, nn


def supported(dtype: torch.dtype) -> bool:
    """bfloat16 alone: in float32 convolutions take many times as long as what could be saved."""
    return dtype == torch.bfloat16 and torch.backends.cudnn.is_available()


def layer(module: nn.Module, activation: str, scalars: list[Any], adds: bool) -> nn.Module | None:
    """What `model.engine.fuse` puts in the place of a convolution or linear layer; None where nothing is gained."""
    if activation not in ("none", "relu") or (adds and activation == "none"):
        return None
    if isinstance(module, nn.Linear):
        return None if module.bias is None else CublasLinear(module, activation == "relu")
    if not isinstance(module, nn.Conv2d) or module.bias is None or module.groups > 1:
        return None
    if not adds and keeps_size(module):
        return CublasLinear(module, activation == "relu")
    return CudnnConv(module) if activation == "relu" else None


class CudnnConv(nn.Module):
    """A convolution, plus an optional second input of its output's shape, then a ReLU."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self._weight, self._bias = conv.weight.detach(), _bias(conv)
        self._stride, self._padding = list(conv.stride), [int(pad) for pad in conv.padding]
        self._dilation, self._groups = list(conv.dilation), conv.groups

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """(N, C, H, W) channels last in, the same out."""
        shape = self._stride, self._padding, self._dilation, self._groups
        if not x.numel():  # cuDNN takes no empty batch
            return F.conv2d(x, self._weight, self._bias, *shape)
        if other is None:
            return torch.cudnn_convolution_relu(x, self._weight, self._bias, *shape)
        return torch.cudnn_convolution_add_relu(x, self._weight, other, 1.0, self._bias, *shape)


class CublasLinear(nn.Module):
    """A linear layer or a 1 x 1 convolution, then perhaps a ReLU."""

    def __init__(self, module: nn.Conv2d | nn.Linear, relu: bool) -> None:
        super().__init__()
        self._weight_IO = module.weight.detach().flatten(1).T
        self._bias, self._relu, self._is_conv = _bias(module), relu, isinstance(module, nn.Conv2d)

    def forward(self, x: Tensor) -> Tensor:
        """(R, inputs) in, (R, outputs) out; of a convolution (N, C, H, W) channels last in, the same out."""
        rows = x.permute(0, 2, 3, 1).flatten(0, 2) if self._is_conv else x
        if self._relu:
            result = torch._addmm_activation(self._bias, rows, self._weight_IO)
        else:
            result = torch.addmm(self._bias, rows, self._weight_IO)
        if not self._is_conv:
            return result
        n, _, height, width = x.shape
        return result.view(n, height, width, result.shape[1]).permute(0, 3, 1, 2)


def _bias(module: nn.Conv2d | nn.Linear) -> Tensor:
    return module.get_parameter("bias").detach()
