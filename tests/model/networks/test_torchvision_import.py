"""A predictor starts without torch's compiler, and whoever needs the compiler still gets it."""

from __future__ import annotations

import subprocess
import sys

_PREDICTS = """
import sys
import numpy as np
from masklake.model import presets
model = presets.load_model("demo")
from masklake.model.predictor import Predictor
assert len(Predictor(model).predict([np.zeros((64, 64, 3), np.uint8)])) == 1
assert not [name for name in sys.modules if name.startswith("torch._dynamo")]
import torchvision.ops
assert torchvision.ops.roi_align.__globals__["is_compile_supported"]("cpu") is True
import torch._dynamo.utils
from torch._dynamo.utils import counters
"""
_ANOTHER_TORCHVISION = """
import sys, types
from masklake.model.networks import torchvision_import
stand_in = sys.modules["torch._dynamo.utils"] = torchvision_import._StandIn("torch._dynamo.utils")
from torch._dynamo.utils import counters
assert sys.modules["torch._dynamo.utils"] is not stand_in
assert sys.modules["torch._dynamo.utils"].counters is counters
"""


def test_a_prediction_needs_no_compiler() -> None:
    subprocess.run([sys.executable, "-c", _PREDICTS], check=True)


def test_a_torchvision_that_takes_more_gets_it() -> None:
    subprocess.run([sys.executable, "-c", _ANOTHER_TORCHVISION], check=True)
