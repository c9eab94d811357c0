"""`--proposals N`: what fewer proposals cost in AP, and what they save in time.

    python -m tests.bench.proposals

AP of the demo model on unseen scenes, in float32. The milliseconds are one image's from pixels to RLE, CPU time of one thread, all N
in turn on the same images: of the demo model on those scenes, and of the ResNet-50 networks on photos. The latter have random weights, as no
published ones are on every machine: their time is that of trained ones, but there is no AP to measure.
"""

import statistics
import time
from typing import TypeVar

import torch
from masklake.model import presets
from masklake.model.checkpoint import LoadedModel
from masklake.model.engine.allocator import keep_freed_memory
from masklake.model.predictor import Predictor
from numpy.typing import NDArray

from tests.bench.parity import ap, draw, predict
from tests.bench.predictor import KEEP, RESNET, resnet_model
from tests.helpers import reference

SCENES, TIMED = 300, 24
PHOTOS = 3
DEMO = (150, 100, 50, 25, 15, 8, 4)
"""The first is the demo model's own number."""
RESNETS = (1000, 500, 300, 100)
Key = TypeVar("Key", int, str)


def by_number(
    model: LoadedModel, images: list[NDArray], numbers: tuple[int, ...], precision: str
) -> dict[int, tuple[float, float]]:
    """`milliseconds` of each N."""
    predictors = {
        n: Predictor(model, device="cpu", precision=precision, max_detections=KEEP, proposals=n)
        for n in numbers
    }
    return milliseconds(predictors, images)


def milliseconds(predictors: dict[Key, Predictor], images: list[NDArray]) -> dict[Key, tuple[float, float]]:
    """Of each predictor: CPU milliseconds an image, all in turn, and how many times as fast as the first it is, both the median
    of the images. The first image is done once more before, which does not count."""
    times: dict[Key, list[float]] = {key: [] for key in predictors}
    for image in [images[0], *images]:
        for key, predictor in predictors.items():
            start = time.process_time()
            predictor.predict([image], as_rle=True)
            times[key].append(1000 * (time.process_time() - start))
    first = next(iter(times.values()))[1:]
    return {
        key: (
            statistics.median(of_key[1:]),
            statistics.median(a / b for a, b in zip(first, of_key[1:], strict=True)),
        )
        for key, of_key in times.items()
    }


def main() -> None:
    keep_freed_memory()
    torch.set_num_threads(1)
    demo, drawn = presets.load_model("demo"), draw(SCENES)
    timed = by_number(demo, [scene.image for scene in drawn[:TIMED]], DEMO, "float32")
    print(f"demo, {SCENES} scenes, float32: AP in per cent")
    for n in DEMO:
        figures = ap(drawn, predict(Predictor(demo, device="cpu", precision="float32", proposals=n), drawn))
        aps = "  ".join(f"{kind} {value:5.2f}" for kind, value in figures.items())
        print(f"  {n:>5} {aps}   {timed[n][0]:7.1f} ms  {timed[n][1]:5.2f} x", flush=True)
    photos = reference.photos(PHOTOS) or [scene.image for scene in draw(PHOTOS, (480, 640))]
    for name in RESNET:
        model = resnet_model(name)
        for precision in ("float32", "bfloat16"):
            print(f"{name}, random weights, {PHOTOS} photos at 800 px, {precision}")
            for n, (ms, ratio) in by_number(model, photos, RESNETS, precision).items():
                print(f"  {n:>5} {ms:7.1f} ms  {ratio:5.2f} x", flush=True)


if __name__ == "__main__":
    main()
