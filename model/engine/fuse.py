"""Convolutions and linear layers with what follows them in one pass over memory, on CPUs: oneDNN's post-operations.

A residual network in eager mode writes each convolution's output, reads it again to add the shortcut, and once
more for the activation. oneDNN does all three while the result is still in registers, and takes weights that are
laid out for the processor once instead of at every call. The operators are those that torch's own compiler emits
(`torch/_inductor/fx_passes/mkldnn_fusion.py`); called directly they need no compiler and no warm-up.
"""

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

_ADDS = (operator.add, operator.iadd, torch.add)
_RELUS = (F.relu, torch.relu)


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


def fuse(module: nn.Module) -> nn.Module:
    """`module`, traced, its convolutions and linear layers fused with activations and additions that follow them.

    module: on the CPU, in evaluation mode, normalisation folded (`model.engine.fold`), of a dtype that is `supported` (biases,
        see `with_bias`, may be float32), its forward traceable by torch.fx. Weights are shared with it, not copied, until
        the first call.
    The results differ from the module's by rounding: sums are rounded once, after the activation.
    """
    traced = fx.symbolic_trace(module)
    modules = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        if node.op == "call_module" and isinstance(modules[node.target], nn.Identity):
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)
    for node in list(traced.graph.nodes):
        if node.op == "call_module" and _keeps_size(modules[node.target]):
            _ask_the_input_for_its_size(node)
    for node in list(traced.graph.nodes):
        if node.op != "call_module":
            continue
        conv = modules[node.target]
        is_conv = _fusable(conv)
        if not is_conv and not isinstance(conv, nn.Linear):
            continue
        other, last = None, node
        follower = _only_user(node) if is_conv else None
        if follower is not None and follower.op == "call_function" and follower.target in _ADDS:
            other = _other_operand(follower, node)
            # The sum must come after both operands in the graph, and must not broadcast.
            if other is not None:
                last = follower
        activation = _only_user(last)
        attr: tuple[str, list[Any]] | None = None
        if activation is not None and (attr := _activation(activation, traced)) is not None:
            last = activation
        kind = FusedConv if is_conv else FusedLinear
        fused = kind(conv, "none" if attr is None else attr[0], [] if attr is None else attr[1])
        name = f"fused_{node.name}"
        traced.add_submodule(name, fused)
        with traced.graph.inserting_before(last):
            fused_node = traced.graph.call_module(
                name, (node.args[0],) if other is None else (node.args[0], other)
            )
        last.replace_all_uses_with(fused_node)
        for old in _chain(last, node):
            traced.graph.erase_node(old)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


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


def with_bias(module: nn.Module) -> bool:
    """Whether it is a layer that `fuse` makes another of, and has a bias."""
    return (isinstance(module, nn.Linear) or _fusable(module)) and module.bias is not None


def _keeps_size(module: nn.Module) -> bool:
    return _fusable(module) and module.kernel_size == module.stride == (1, 1) and module.padding == (0, 0)


def _ask_the_input_for_its_size(conv: fx.Node) -> None:
    """Height and width of a 1 x 1 convolution's output are those of its input: then only the sum reads the output.

    A feature pyramid asks for them to enlarge the level above, before it adds the two.
    """
    for shape in list(conv.users):
        if shape.op == "call_function" and shape.target is getattr and shape.args[1:] == ("shape",):
            users = list(shape.users)
            if all(u.target is operator.getitem and u.args[1] == slice(-2, None, None) for u in users):
                shape.args = (conv.args[0], "shape")


def _fusable(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _other_operand(add: fx.Node, conv: fx.Node) -> fx.Node | None:
    others = [arg for arg in add.args if isinstance(arg, fx.Node) and arg is not conv]
    return others[0] if len(others) == 1 and len(add.args) == 2 and not add.kwargs else None


def _activation(node: fx.Node, traced: fx.GraphModule) -> tuple[str, list[Any]] | None:
    """Its name and numbers in oneDNN; None for a node that is none."""
    if node.op == "call_function" and node.target in _RELUS:
        return "relu", []
    if node.op != "call_module":
        return None
    module = traced.get_submodule(str(node.target))
    if isinstance(module, nn.ReLU6):  # before Hardtanh, which it is a kind of
        return "hardtanh", [0.0, 6.0]
    if isinstance(module, nn.ReLU):
        return "relu", []
    if isinstance(module, nn.Hardswish):
        return "hardswish", []
    return None


def _chain(last: fx.Node, first: fx.Node) -> list[fx.Node]:
    """The nodes from `last` back to `first`, through their only users."""
    nodes, node = [], first
    while node is not last:
        nodes.append(node)
        node = next(iter(node.users))
    return [last, *reversed(nodes)]
