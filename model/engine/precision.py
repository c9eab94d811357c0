"""What `auto` means: the precision that a device is fast in.

bfloat16 where it is native, which is a few times as fast as float32 there and finds the same things (`tests.bench.parity`);
float32 elsewhere: a processor that has to imitate bfloat16 takes nine times as long over a convolution. Never float16,
whose range ends at 65,504: networks overflow it.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

AUTO = "auto"

_NATIVE = ("avx512_bf16", "amx_bf16")
"""Of x86 processors, as torch names them. What others have was not measured here: they get float32."""
_CAPS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
_WITH_BFLOAT16 = ("ALL", "DEFAULT", "AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX512_CORE_AMX", "AVX10")
_AMPERE = 8
"""Compute capability from which NVIDIA's GPUs have bfloat16."""


def chosen(precision: str, device: torch.device) -> str:
    """`precision`, or what it means on `device` where it is "auto"."""
    return fastest(device) if precision == AUTO else precision


def fastest(device: torch.device) -> str:
    """The precision for a device: "bfloat16" or "float32"."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device)[0] >= _AMPERE else "float32"
    return "bfloat16" if has_bfloat16(torch.cpu.get_capabilities(), os.environ) else "float32"


def has_bfloat16(capabilities: Mapping[str, object], environment: Mapping[str, str]) -> bool:
    """Whether a processor with these capabilities (`torch.cpu.get_capabilities`) computes in bfloat16 itself, and oneDNN,
    which the environment can hold back, may use that."""
    caps = [environment[name].upper() for name in _CAPS if name in environment]
    allowed = all(cap.startswith(_WITH_BFLOAT16) for cap in caps)
    return allowed and any(bool(capabilities.get(name)) for name in _NATIVE)


@contextmanager
def full_float32() -> Iterator[None]:
    """Without TF32 on CUDA, which keeps 10 of float32's 23 bits, and which torch's convolutions use there by default."""
    conv: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]  # made when the module is, as PyTorch documents it
    matmul: Any = torch.backends.cuda.matmul
    before = conv.fp32_precision, matmul.fp32_precision
    conv.fp32_precision = matmul.fp32_precision = "ieee"
    try:
        yield
    finally:
        conv.fp32_precision, matmul.fp32_precision = before
