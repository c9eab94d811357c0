"""CUDA kernels of our own, compiled where they run by NVRTC, which comes with torch: no compiler need be installed."""

import functools
import importlib.resources
import logging
from collections.abc import Callable

import torch

_log = logging.getLogger(__name__)


@functools.cache
def kernel(name: str, device: torch.device, define: str = "") -> Callable[..., None] | None:
    """The kernel of this name from the file `<name>.cu` beside this module, with one macro defined.

    To be called as torch's: grid=, block= (three numbers each) and args= (tensors, and ints of 32 bits).
    None where it cannot be compiled, which is logged: then the caller takes torch's operators, which are slower.
    """
    source = (importlib.resources.files(__package__) / f"{name}.cu").read_text()
    try:
        with torch.cuda.device(device):
            return torch.cuda._compile_kernel(f"#define {define}\n{source}" if define else source, name)
    except (AttributeError, ImportError, OSError, RuntimeError) as error:
        _log.warning(
            "%s: the CUDA kernel %s cannot be compiled; slower operators take its place: %s",
            device,
            name,
            error,
        )
        return None
