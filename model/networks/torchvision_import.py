"""torchvision, without torch's compiler, whose import takes as long as torch's own."""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any

_COMPILER = "torch._dynamo.utils"


def import_torchvision() -> None:
    """Import torchvision, if nothing has yet. Without this, whoever imports it first imports torch's compiler as well.

    torchvision 0.29's RoI align takes one function from there, and calls it only on GPUs where deterministic algorithms are
    asked for; only then the compiler is imported, or where another torchvision takes something else.
    """
    if "torchvision" in sys.modules:
        return
    import torch  # noqa: F401  # its own imports shall not see the stand-in

    if _COMPILER in sys.modules:
        return
    stand_in = sys.modules[_COMPILER] = _StandIn(_COMPILER)
    try:
        import torchvision  # noqa: F401
    finally:
        _remove(stand_in)


class _StandIn(types.ModuleType):
    def is_compile_supported(self, device_type: str) -> bool:
        return bool(self.__getattr__("is_compile_supported")(device_type))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system asks for some
            raise AttributeError(name)
        _remove(self)
        return getattr(importlib.import_module(_COMPILER), name)


def _remove(stand_in: types.ModuleType) -> None:
    if sys.modules.get(_COMPILER) is stand_in:
        del sys.modules[_COMPILER]
