"""Ten images, from the command to its end: seconds and CPU of all processes by kind, and the parts of a predictor's start."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from masklake.model import scenes

from tests.bench.process_cpu import Used, measured

IMAGES = 10
ROUNDS = 3
_PARTS = """
import time
laps = [time.process_time()]
def lap(name):
    laps.append(time.process_time())
    print(f"    {laps[-1] - laps[-2]:6.2f}  {name}")
from masklake.model.networks.torchvision_import import import_torchvision
import torch
torch.set_num_threads(1)  # as in a process that shares the CPUs
lap("import torch")
import_torchvision()
lap("import torchvision")
from masklake.pipeline.segment.steps import Inference
lap("import the stages and Arrow")
from masklake.model import presets
from masklake.model.predictor import Predictor
model = presets.load_model("demo")
lap("build the demo model and load its weights")
predictor = Predictor(model)
lap("make the predictor")
import numpy as np
predictor.predict([np.zeros((240, 320, 3), np.uint8)])
lap("the first image")
"""


def command(source: Path, lake: str, *options: str) -> list[str]:
    """`masklake segment` with the demo model, as a user would type it."""
    return [sys.executable, "-m", "masklake", "segment", str(source), lake, "--model", "demo", *options]


def rounds(source: Path, scratch: str, engine: str) -> list[Used]:
    """Runs of the same command, by their seconds; one before them fills the disk's cache."""
    runs = [
        measured(command(source, f"{scratch}/lake-{engine}-{i}", "--engine", engine))
        for i in range(ROUNDS + 1)
    ]
    return sorted(runs[1:], key=lambda used: used.seconds)


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "scenes")
        scenes.write(source, IMAGES, seed=11)
        for engine in ("local", "ray"):
            runs = rounds(source, scratch, engine)
            cpu = statistics.median(used.total for used in runs)
            median = runs[len(runs) // 2]
            print(
                f"  {IMAGES} images, --engine {engine}: {median.seconds:.1f} s ({runs[0].seconds:.1f} to "
                f"{runs[-1].seconds:.1f}), {cpu:.1f} CPU-s in {median.processes} processes, of which",
                flush=True,
            )
            for kind, seconds in median.cpu.most_common(6):
                print(f"    {seconds:6.2f}  {kind}")
    print("  CPU seconds of one predictor's start", flush=True)
    subprocess.run([sys.executable, "-c", _PARTS], check=True)
