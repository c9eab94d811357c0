"""Convolutions in 8 bits on CPUs: a pass over a network that is fused already (`model.engine.fuse`).

A convolution's input is in unsigned bytes, its weights in signed ones, a scale for each of its outputs; sums are exact. What a
convolution hands to another stays in bytes, its ReLU and shortcut included; everything else sees floats. Which scale a tensor
has comes of the values that it had while `Observer` looked on.

Without VNNI (instructions that add four products at once) oneDNN adds two products in 16 bits, which overflow: weights then have
7 bits (`LEVELS`).
"""

import json
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from masklake.model.engine.fused_cpu import FusedConv
from masklake.model.errors import ModelError
from torch import Tensor, fx, nn

Ranges = dict[str, tuple[float, float]]
"""The lowest and highest value of each tensor, by the names of its network's part and of its node in the graph."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a network's convolutions in 8 bits are made of besides its weights. Plain values: JSON keeps it whole.

    levels: the largest weight (`LEVELS`). ranges: of each network of the model (two of a composed one), by part and node.
    """

    levels: int
    ranges: tuple[Ranges, ...]

    def of_network(self, number: int) -> Ranges:
        """The ranges of the model's network `number`, from 0. Raises ModelError where it is not of so many networks."""
        if number >= len(self.ranges):
            raise ModelError(
                f"int8: the calibration is of a model of {len(self.ranges)} networks; calibrate this one"
            )
        return self.ranges[number]

    def to_json(self) -> str:
        """A text that `from_json` reads, the same for equal calibrations."""
        return json.dumps({"levels": self.levels, "ranges": self.ranges}, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, source: str) -> "Calibration":
        """Raises ModelError, which names `source`, for another text."""
        try:
            body = json.loads(text)
            levels = int(body["levels"])
            ranges = tuple(
                {str(name): (float(low), float(high)) for name, (low, high) in part.items()}
                for part in body["ranges"]
            )
            if levels not in LEVELS.values():
                raise ValueError(f"levels {levels}")
            for name, (low, high) in (item for part in ranges for item in part.items()):
                if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                    raise ValueError(f"{name} from {low} to {high}")
            return cls(levels=levels, ranges=ranges)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{source}: is no calibration ({error}); remove it, and the next run makes another"
            ) from error


INT8 = "int8"
"""The precision's name."""
LEVELS = {True: 127, False: 63}
"""The largest weight, with and without VNNI: 2 x 255 x 63 is the most that 16 bits hold."""
_VEX, _EVEX = ("avx_vnni",), ("avx512_vnni", "amx_int8")
"""The two encodings that VNNI has. A cap of oneDNN on one does not let it use the other."""
_WITHOUT_VNNI = ("SSE41", "AVX", "AVX2", "AVX512_CORE")
_FEWEST_CHANNELS = 16
"""The first convolution, of three, gains nothing, and its rounding would be in all that follows."""
_BYTE = 255


def has_vnni(capabilities: Mapping[str, object], environment: Mapping[str, str]) -> bool:
    """Whether a processor with these capabilities (`torch.cpu.get_capabilities`) has VNNI and oneDNN may use it."""
    cap = environment.get("ONEDNN_MAX_CPU_ISA", environment.get("DNNL_MAX_CPU_ISA", "ALL")).upper()
    if cap in _WITHOUT_VNNI:
        return False
    names = _VEX if cap.startswith("AVX2") else _EVEX if cap.startswith("AVX512") else _VEX + _EVEX
    return any(bool(capabilities.get(name)) for name in names)


def supported() -> bool:
    """Whether this torch has the operators."""
    return hasattr(torch.ops.onednn, "qconv2d_pointwise") and torch.backends.mkldnn.is_available()


def levels_here() -> int:
    """The largest weight that this machine computes with, without overflow."""
    return LEVELS[has_vnni(torch.cpu.get_capabilities(), os.environ)]


class Observer(fx.Interpreter):
    """Runs a part of a network node by node, and widens `ranges` to the values that it sees. Tensors with values that are not
    finite tell nothing: no bytes reach so far."""

    def __init__(self, module: fx.GraphModule, ranges: Ranges, part: str) -> None:
        super().__init__(module)
        self._ranges, self._part = ranges, part

    def __call__(self, *inputs: Tensor) -> Any:
        return self.run(*inputs)

    def run_node(self, node: fx.Node) -> Any:
        value = super().run_node(node)
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel():
            low, high = (float(end) for end in value.aminmax())
            if math.isfinite(low) and math.isfinite(high):
                name = f"{self._part}.{node.name}"
                before = self._ranges.get(name, (low, high))
                self._ranges[name] = min(before[0], low), max(before[1], high)
        return value


def quantised(module: fx.GraphModule, part: str, ranges: Ranges, levels: int) -> fx.GraphModule:
    """`module`, its convolutions in 8 bits. Raises ModelError where `ranges` lack one of its tensors."""
    # Torch has no other operator that does this in one pass.
    warnings.filterwarnings("ignore", message="torch.quantize_per_tensor", category=UserWarning)
    modules = dict(module.named_modules())
    convs = {
        node
        for node in module.graph.nodes
        if node.op == "call_module"
        and isinstance(modules[node.target], FusedConv)
        and _fits(modules[node.target])
    }

    def scale(node: fx.Node) -> tuple[float, int]:
        name = f"{part}.{node.name}"
        if name not in ranges:
            raise ModelError(f"int8: nothing is known of {name}; calibrate this model anew")
        return _scale(*ranges[name])

    in_bytes: set[fx.Node] = set()
    for node in reversed(list(module.graph.nodes)):
        readers = [user for user in node.users if user.target is not getattr]  # which asks for the shape
        # What is added to a sum must be of the sum's type.
        if node in convs and all(u in convs and (node not in u.args[1:] or u in in_bytes) for u in readers):
            in_bytes.add(node)
    order = {node: position for position, node in enumerate(module.graph.nodes)}
    last_user = {node: max(node.users, key=order.__getitem__) for node in order if node.users}
    converted: dict[fx.Node, fx.Node] = {}

    def as_bytes(source: fx.Node) -> fx.Node:
        if source in in_bytes:
            return source
        if source not in converted:
            module.add_submodule(f"bytes_{source.name}", ToBytes(*scale(source)))
            with module.graph.inserting_after(source):
                converted[source] = module.graph.call_module(f"bytes_{source.name}", (source,))
        return converted[source]

    for node in sorted(convs, key=order.__getitem__):
        source, *others = node.args
        output = scale(node) if node in in_bytes else None
        other = scale(others[0]) if others and output is not None else None
        added = [as_bytes(value) for value in others] if output is not None else others
        # The sum is made in place.
        keep = bool(others) and (last_user[others[0]] is not node or added != others)
        conv = Int8Conv(modules[node.target], levels, scale(source), output, other, keep_other=keep)
        module.add_submodule(f"int8_{node.name}", conv)
        node.target = f"int8_{node.name}"
        node.args = (as_bytes(source), *added)
    module.delete_all_unused_submodules()
    module.recompile()
    return module


def _fits(conv: FusedConv) -> bool:
    return (
        conv.groups == 1 and conv._weight.shape[1] >= _FEWEST_CHANNELS and conv.activation in ("none", "relu")
    )


def _scale(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point that take [low, high] and 0 into bytes."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / _BYTE, 1e-12)
    return scale, round(-low / scale)


class ToBytes(nn.Module):
    """Floats to bytes."""

    def __init__(self, scale: float, zero: int) -> None:
        super().__init__()
        self._scale, self._zero = scale, zero

    def forward(self, x: Tensor) -> Tensor:
        return torch.quantize_per_tensor(x.float(), self._scale, self._zero, torch.quint8).int_repr()


class Int8Conv(nn.Module):
    """A convolution, plus an optional second input of its output's shape, then its activation.

    output: scale and zero point of its result; None for floats. other: those of the second input, where the result is in
    bytes. keep_other: the second input is needed later.
    """

    def __init__(
        self,
        conv: FusedConv,
        levels: int,
        source: tuple[float, int],
        output: tuple[float, int] | None,
        other: tuple[float, int] | None,
        *,
        keep_other: bool,
    ) -> None:
        super().__init__()
        self._source, self._output, self._other, self._keep_other = source, output, other, keep_other
        self._shape = (conv.stride, conv.padding, conv.dilation, conv.groups)
        self._activation, self._dtype = conv.activation, conv._weight.dtype
        weight = conv._weight.float()
        self._scale_O = (weight.abs().amax((1, 2, 3)) / levels).clamp(min=1e-12)
        whole = (weight / self._scale_O[:, None, None, None]).round().clamp(-levels, levels).to(torch.int8)
        self._zero_O = torch.zeros(len(weight), dtype=torch.int64)
        self._bias = None if conv._bias is None else conv._bias.float()
        self._weight, self._packed = whole.contiguous(), False

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """uint8 (N, C, H, W) channels last in; out uint8 or floats."""
        op = torch.ops.onednn.qconv2d_pointwise
        if not self._packed:  # for the size of the first input; only speed depends on it
            self._weight = torch.ops.onednn.qconv_prepack(
                self._weight, self._scale_O, *self._source, *self._shape, list(x.shape)
            )
            self._packed = True
        scale, zero = self._output or (1.0, 0)
        dtype = torch.uint8 if self._output is not None else self._dtype
        weight = (self._weight, self._scale_O, self._zero_O)
        if other is None:
            return op(
                x,
                *self._source,
                *weight,
                self._bias,
                *self._shape,
                scale,
                zero,
                dtype,
                self._activation,
                [],
                "",
            )
        other = other.contiguous(memory_format=torch.channels_last)
        if self._keep_other:
            other = other.clone()
        unary = None if self._activation == "none" else self._activation
        return op.binary(
            x, *self._source, *weight, other, self._bias, *self._shape, scale, zero, dtype,
            *(self._other or (1.0, 0)), "sum", 1.0, unary, [], "",
        )  # fmt: skip
