"""infra/kuberay's start_rayjob.py, which is a script and in no package."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

from tests.helpers.infra.manifests import KUBERAY

SCRIPT = KUBERAY / "base" / "start_rayjob.py"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("start_rayjob", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks there
    spec.loader.exec_module(module)
    return module


start_rayjob = _load()
