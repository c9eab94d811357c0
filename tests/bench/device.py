"""From JPEG bytes to RLE on the device at hand: torchvision eager and ours, with the time of each stage.

    python -m tests.bench.device [--device cuda] [--images 64] [--batches 1,2,4,8,16,32,64]

maskrcnn_resnet50_fpn at 800 px with random weights that detect much. Parity is checked first: what is fast and wrong
is of no use. The device is waited for at the end of every stage, so that a stage's time is its own; images per second
come from a second pass without that. On a CPU the same script runs, with fewer images.
"""

import argparse
import contextlib
import copy
import io
import os
import shutil
import subprocess
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from masklake.model import presets, scenes
from masklake.model.checkpoint import LoadedModel
from masklake.model.decode import DecodeOptions, decode
from masklake.model.detections import Detections, PredictFailure
from masklake.model.engine.pixels import to_arrays
from masklake.model.networks.build import build
from masklake.model.predictor import Predictor
from masklake.model.spec import Preprocessing
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from torchvision.models.detection import FasterRCNN, maskrcnn_resnet50_fpn
from torchvision.ops import box_iou

from tests.helpers import reference

STAGES = ("decode", "upload", "resize", "backbone", "rpn", "box head", "choice", "masks", "results, RLE")
KEEP = 20


def jpegs(count: int) -> list[bytes]:
    """Photos of the COCO sample as they lie there, over again where there are too few; else scenes."""
    files = sorted(reference.PHOTOS.glob("*.jpg"))[:count]
    contents = [file.read_bytes() for file in files]
    if not contents:
        for index in range(min(count, 8)):
            file = io.BytesIO()
            Image.fromarray(scenes.scene(1, index, (480, 640)).image).save(file, "JPEG", quality=92)
            contents.append(file.getvalue())
    return [contents[index % len(contents)] for index in range(count)]


class Clock:
    """Seconds by stage. Stages that run inside another are taken off it."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds, self._inner = device, defaultdict(float), [0.0]

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.wait()
        start = time.perf_counter()
        self._inner.append(0.0)
        yield
        self.wait()
        whole = time.perf_counter() - start
        self.seconds[name] += whole - self._inner.pop()
        self._inner[-1] += whole

    def watch(self, owner: object, method: str, name: str) -> None:
        """Time every call of a method from now on."""
        call = getattr(owner, method)

        def timed(*args: object, **options: object) -> object:
            with self.stage(name):
                return call(*args, **options)

        setattr(owner, method, timed)


def watched(predictor: Predictor, clock: Clock) -> None:
    engine = predictor._engine
    for owner, method, name in (
        (engine._uploads, "send", "upload"),
        (engine, "_preprocess", "resize"),
        (engine, "_detect", "choice"),
        (engine.detector, "backbone", "backbone"),
        (engine.detector, "propose", "rpn"),
        (engine.detector, "classify", "box head"),
        (engine.detector, "masks", "masks"),
        (predictor, "predict", "results, RLE"),
    ):
        clock.watch(owner, method, name)


def waits(predictor: Predictor, data: Sequence[bytes]) -> int:
    """How often the host waits for the GPU."""
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        ours(predictor, data)
    torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in seen)


@torch.inference_mode()
def eager(model: FasterRCNN, data: Sequence[bytes], device: torch.device) -> int:
    """torchvision from JPEG bytes to COCO RLE, as its documentation has it."""
    arrays = [array for array in to_arrays(data) if not isinstance(array, PredictFailure)]
    tensors = [
        torch.from_numpy(np.array(array)).permute(2, 0, 1).to(device).float() / 255 for array in arrays
    ]
    instances = 0
    for detections in model(tensors):
        masks = (detections["masks"][:, 0] > 0.5).cpu().numpy().astype(np.uint8)
        instances += len(coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0))))
    return instances


def ours(predictor: Predictor, data: Sequence[bytes], clock: Clock | None = None) -> int:
    if clock is None:
        results = predictor.predict(data, as_rle=True)
    else:
        with clock.stage("decode"):
            tensors = [a for a in to_arrays(data) if not isinstance(a, PredictFailure)]
        results = predictor.predict(tensors, as_rle=True)
    return sum(len(result) for result in results if isinstance(result, Detections))


def rate(call: Callable[[Sequence[bytes]], int], data: Sequence[bytes], batch: int, clock: Clock) -> float:
    """Images per second over all of `data`, after one batch that is not counted."""
    call(data[:batch])
    clock.wait()
    begin = time.perf_counter()
    for start in range(0, len(data), batch):
        call(data[start : start + batch])
    clock.wait()
    return len(data) / (time.perf_counter() - begin)


def pipelined(predictor: Predictor, data: Sequence[bytes], batch: int) -> float:
    """Images per second of a small pipeline on this machine: threads decode packets ahead, two others predict."""
    packets = [data[start : start + batch] for start in range(0, len(data), batch)]
    pool = ThreadPoolExecutor(os.cpu_count())

    def predicted(packet: "list[Future[NDArray[np.uint8]]]") -> int:
        return len(predictor.predict([image.result() for image in packet], as_rle=True))

    begin = time.perf_counter()
    with pool, ThreadPoolExecutor(2) as two:
        decoded = [
            [pool.submit(lambda b: decode(b, DecodeOptions())[0], b) for b in packet] for packet in packets
        ]
        count = sum(two.map(predicted, decoded))
    return count / (time.perf_counter() - begin)


def check_parity(precisions: Sequence[str], device: torch.device) -> None:
    """Print how many of torchvision's detections above 0.5 each precision finds, with the trained demo model.

    (Random weights enlarge every rounding to another detection.)
    """
    demo = presets.load_model("demo")
    eager_demo = copy.deepcopy(demo.module).to(device)
    images = [scenes.scene(77, index).image for index in range(40)]
    for precision in precisions:
        predictor = Predictor(demo, device=str(device), precision=precision)
        best: list[float] = []
        for image, mine in zip(images, predictor.predict(images), strict=True):
            assert isinstance(mine, Detections)
            with torch.inference_mode():
                expected = eager_demo([reference.as_input(image).to(device)])[0]
            sure = expected["scores"].cpu() > 0.5
            boxes, labels = expected["boxes"].cpu()[sure], expected["labels"].cpu()[sure]
            overlap = box_iou(boxes, torch.from_numpy(mine.boxes))
            overlap *= labels[:, None] == torch.from_numpy(mine.labels)
            best += overlap.amax(1).tolist() if overlap.numel() else [0.0] * len(boxes)
        shares = [f"{100 * np.mean(np.asarray(best) >= iou):.1f} % at IoU {iou}" for iou in (0.99, 0.9)]
        print(f"parity {precision:<9} of {len(best)} detections above 0.5: {', '.join(shares)} (demo model)")


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="auto")
    parser.add_argument("--images", type=int)
    parser.add_argument("--batches", default=None)
    args = parser.parse_args(arguments)
    model = reference.excite(maskrcnn_resnet50_fpn(weights=None, weights_backbone=None), 0)
    model.roi_heads.detections_per_img = KEEP
    spec = replace(reference.spec("mask_rcnn", rpn_post_nms_top_n=1000), preprocessing=Preprocessing())
    network = build(spec)
    network.load_state_dict(model.state_dict())
    loaded = LoadedModel(spec, network.eval())
    precisions = ("float32", "bfloat16")
    predictors = {
        p: Predictor(loaded, device=args.device, precision=p, max_detections=KEEP) for p in precisions
    }
    device = predictors["float32"].device
    on_gpu = device.type == "cuda"
    if on_gpu:
        precisions += ("float16",)
        predictors["float16"] = Predictor(
            loaded, device=args.device, precision="float16", max_detections=KEEP
        )
    print(f"{torch.cuda.get_device_name(device) if on_gpu else f'CPU, {torch.get_num_threads()} threads'}")
    data = jpegs(args.images or (256 if on_gpu else 6))
    batches = [int(b) for b in (args.batches or ("1,2,4,8,16,32,64" if on_gpu else "1,2")).split(",")]
    model = model.to(device)
    check_parity(precisions, device)
    if on_gpu:
        for precision, predictor in predictors.items():
            alone, many = (waits(predictor, [data[0]] * count) for count in (1, 9))
            print(
                f"waits {precision:<9} {alone} with one image, {(many - alone) / 8:.2f} for each further one"
            )
    clock = Clock(device)
    print(
        f"{'':<30}{'images/s':>9}  " + "".join(f"{name:>13}" for name in STAGES) + "   ms/image   peak memory"
    )
    for batch in batches:
        some = data[: max(batch, len(data) // 4)]
        print(
            f"{f'torchvision float32, batch {batch}':<30}{rate(lambda d: eager(model, d, device), some, batch, clock):9.2f}"
        )
        with torch.autocast(device.type, dtype=torch.bfloat16):
            speed = rate(lambda d: eager(model, d, device), some, batch, clock)
        print(f"{f'torchvision autocast, batch {batch}':<30}{speed:9.2f}", flush=True)
        for precision in precisions:
            predictor = predictors[precision]
            if on_gpu:
                torch.cuda.reset_peak_memory_stats(device)
            with utilisation(on_gpu) as used:
                speed = rate(lambda d: ours(predictor, d), data, batch, clock)  # noqa: B023  # called at once
            peak = f"{torch.cuda.max_memory_allocated(device) / 2**20:.0f} MiB{used()}" if on_gpu else ""
            stages = stage_times(loaded, args.device, precision, data, batch)
            print(
                f"{f'masklake {precision}, batch {batch}':<30}{speed:9.2f}  "
                + "".join(f"{1e3 * stages[name] / len(data):13.2f}" for name in STAGES)
                + f"              {peak}",
                flush=True,
            )
    for precision, predictor in predictors.items():
        some = data * (4 if on_gpu else 1)
        speed = pipelined(predictor, some, batches[-1])
        print(f"pipeline of {len(some)} JPEGs, {precision}, packets of {batches[-1]}: {speed:.1f} images/s")


def stage_times(
    loaded: LoadedModel, device: str, precision: str, data: Sequence[bytes], batch: int
) -> dict[str, float]:
    """Seconds by stage over all of `data`, on a predictor of its own, whose methods are wrapped."""
    predictor = Predictor(loaded, device=device, precision=precision, max_detections=KEEP)
    clock = Clock(predictor.device)
    ours(predictor, data[:batch])
    watched(predictor, clock)
    for start in range(0, len(data), batch):
        ours(predictor, data[start : start + batch], clock)
    return clock.seconds


@contextlib.contextmanager
def utilisation(on_gpu: bool) -> Iterator[Callable[[], str]]:
    """Call what it gives, at the end, for the GPU's mean utilisation as nvidia-smi samples it."""
    if not on_gpu or shutil.which("nvidia-smi") is None:
        yield lambda: ""
        return
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "100"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:

        def mean() -> str:
            process.terminate()
            samples = [float(line) for line in process.communicate()[0].split()]
            return f", GPU {np.mean(samples):.0f} % busy" if samples else ""

        yield mean
    finally:
        process.kill()


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
