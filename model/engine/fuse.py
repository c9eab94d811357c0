"""Convolutions and linear layers fused with what follows them: a pass over a traced network.

A residual network in eager mode writes each convolution's output, reads it again to add the shortcut, and once
more for the activation. Libraries do all three while the result is still in registers: oneDNN on CPUs
(`model.engine.fused_cpu`), cuDNN and cuBLAS on GPUs (`model.engine.fused_gpu`).
"""

import operator
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from masklake.model.engine import fused_cpu
from torch import fx, nn

_ADDS = (operator.add, operator.iadd, torch.add)
_RELUS = (F.relu, torch.relu)


class MakeLayer(Protocol):
    """Fused layers of one kind of device."""

    def __call__(
        self, module: nn.Module, activation: str, scalars: list[Any], adds: bool
    ) -> nn.Module | None:
        """`module` with an activation ("none" and others by oneDNN's names and numbers) in one; None where it has no such.

        adds: its forward takes a second input of its output's shape, which it adds before the activation.
        """


def fuse(module: nn.Module, layer: MakeLayer = fused_cpu.layer) -> fx.GraphModule:
    """`module`, traced, its convolutions and linear layers fused with activations and additions that follow them.

    module: in evaluation mode, normalisation folded (`model.engine.fold`), channels last, its forward traceable by torch.fx.
    The results differ from the module's by rounding: sums are rounded once, after the activation.
    """
    traced = fx.symbolic_trace(module)
    modules = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        if node.op == "call_module" and isinstance(modules[node.target], nn.Identity):
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)
    for node in list(traced.graph.nodes):
        if node.op == "call_module" and keeps_size(modules[node.target]):
            _ask_the_input_for_its_size(node)
    for node in list(traced.graph.nodes):
        if node.op != "call_module":
            continue
        conv = modules[node.target]
        is_conv = _fusable(conv)
        if not is_conv and not isinstance(conv, nn.Linear):
            continue
        follower = _only_user(node) if is_conv else None
        other = None
        if follower is not None and follower.op == "call_function" and follower.target in _ADDS:
            other = _other_operand(follower, node)
        # The sum must come after both operands in the graph, and must not broadcast.
        fused = None
        if other is not None and follower is not None:
            fused, last = _with_activation(conv, follower, True, traced, layer)
        if fused is None:
            other = None
            fused, last = _with_activation(conv, node, False, traced, layer)
        if fused is None:
            continue
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


def _with_activation(
    module: nn.Module, last: fx.Node, adds: bool, traced: fx.GraphModule, layer: MakeLayer
) -> tuple[nn.Module | None, fx.Node]:
    """`module` fused up to the activation after `last`, else up to `last`; and the last node that is in it."""
    user = _only_user(last)
    activation = None if user is None else _activation(user, traced)
    if user is not None and activation is not None:
        fused = layer(module, *activation, adds)
        if fused is not None:
            return fused, user
    return layer(module, "none", [], adds), last


def with_bias(module: nn.Module) -> bool:
    """Whether it is a layer that `fuse` makes another of, and has a bias."""
    return (isinstance(module, nn.Linear) or _fusable(module)) and module.bias is not None


def keeps_size(module: nn.Module) -> bool:
    """Whether it is a 1 x 1 convolution of stride 1 without padding: its output is as large as its input."""
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
