"""`--precision int8`: its AP on scenes and its time, beside float32 and what `auto` takes.

    python -m tests.bench.int8

With VNNI, and once more in a process in which oneDNN may not use it (ONEDNN_MAX_CPU_ISA=AVX2, where there is no bfloat16 either). AP, in
per cent, is of the demo model on unseen scenes, calibrated by 16 others. Milliseconds are an image's, pixels to RLE, CPU time
of one thread, all sides in turn: of the demo model on those scenes, and of the ResNet-50 networks on photos at 800 px, whose random
weights are as fast as trained ones.
"""

import os
import subprocess
import sys

import torch
from masklake.model import presets, scenes
from masklake.model.calibrate import calibrate
from masklake.model.checkpoint import LoadedModel
from masklake.model.engine.allocator import keep_freed_memory
from masklake.model.engine.int8 import levels_here
from masklake.model.engine.precision import fastest
from masklake.model.predictor import Predictor
from numpy.typing import NDArray

from tests.bench.parity import ap, draw, predict
from tests.bench.predictor import KEEP, RESNET, resnet_model
from tests.bench.proposals import milliseconds
from tests.helpers import reference

SCENES, TIMED, PHOTOS = 300, 24, 4
CALIBRATION_SEED = 5


def sides(model: LoadedModel, images: list[NDArray]) -> dict[str, Predictor]:
    """float32, the device's own precision, and int8 calibrated by `images`."""
    floats = dict.fromkeys(("float32", fastest(torch.device("cpu"))))
    made = {p: Predictor(model, device="cpu", precision=p, max_detections=KEEP) for p in floats}
    calibration = calibrate(model, images)
    return made | {
        "int8": Predictor(model, device="cpu", precision="int8", calibration=calibration, max_detections=KEEP)
    }


def timed(title: str, predictors: dict[str, Predictor], images: list[NDArray]) -> None:
    for name, (ms, ratio) in milliseconds(predictors, images).items():
        print(f"  {title:<26} {name:<9} {ms:8.1f} ms  {ratio:5.2f} x", flush=True)


def measure() -> None:
    """All of it, in this process."""
    keep_freed_memory()
    torch.set_num_threads(1)
    cap = os.environ.get("ONEDNN_MAX_CPU_ISA", "all that the processor has")
    print(f"oneDNN: {cap}; weights up to {levels_here()}")
    demo, drawn = presets.load_model("demo"), draw(SCENES)
    others = [
        scenes.scene(CALIBRATION_SEED, index, scenes.DEFAULT_SIZES[index % 3]).image for index in range(16)
    ]
    predictors = sides(demo, others)
    for name, predictor in predictors.items():
        figures = "  ".join(
            f"{kind} {value:5.2f}" for kind, value in ap(drawn, predict(predictor, drawn)).items()
        )
        print(f"  demo, AP of {SCENES} scenes     {name:<9} {figures}", flush=True)
    timed("demo", predictors, [scene.image for scene in drawn[:TIMED]])
    photos = reference.photos(PHOTOS + 2) or [scene.image for scene in draw(PHOTOS + 2, (480, 640))]
    for network in RESNET:
        timed(network, sides(resnet_model(network), photos[:2]), photos[2:])


def main() -> None:
    for cap in ({}, {"ONEDNN_MAX_CPU_ISA": "AVX2"}):
        subprocess.run([sys.executable, "-m", "tests.bench.int8", "here"], env=os.environ | cap, check=True)


if __name__ == "__main__":
    measure() if sys.argv[1:] == ["here"] else main()
