"""Images to instances with COCO RLE: ours against torchvision in eager mode, all CPUs, wall seconds.

    python -m tests.bench.predictor

Photos of the COCO sample where they are, else synthetic scenes; 800 px on the short side, as the published weights
want it. The weights are random ones that detect much: published ones are not on every machine. All sides start
from decoded pixels and end in boxes, scores, keypoints and COCO RLE of the same photos; torchvision's with its paste
and pycocotools' encode.

Each side is a process of its own, and one works at a time, photo by photo in turn. Ours keeps the memory that it
frees, as a job's actors do (`model.engine.allocator`). Beside torchvision's float32 stand what one tries first, its modules
in bfloat16 autocast and channels last, and float32 with the same memory setting, which anyone may take from here.
"""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from masklake.model import presets, scenes
from masklake.model.checkpoint import LoadedModel
from masklake.model.detections import Detections
from masklake.model.engine.allocator import keep_freed_memory
from masklake.model.masks.rle import encode_masks
from masklake.model.networks.build import build
from masklake.model.networks.composed import UNUSED, ComposedRCNN
from masklake.model.networks.config import V2
from masklake.model.predictor import Predictor
from masklake.model.spec import ClassInfo, Preprocessing
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.models.detection import (
    FasterRCNN,
    keypointrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn_v2,
)

from tests.helpers import reference

PHOTOS = 6
KEEP = 20
"""Detections an image at most: what a photo has, about, at the default threshold."""

Image = NDArray[np.uint8]
Side = Callable[[Image], int]
"""Predicts on an image; the number of instances."""


def ours(predictor: Predictor, image: Image) -> int:
    detections = predictor.predict([image])[0]
    assert isinstance(detections, Detections)
    assert detections.masks is not None
    return len(encode_masks(detections.masks, detections.boxes, image.shape[:2]))


@torch.inference_mode()
def theirs(models: Sequence[FasterRCNN], image: Image) -> int:
    """The first model's masks as RLE; the others are run for their keypoints."""
    outputs: list[dict[str, Tensor]] = [model([reference.as_input(image)])[0] for model in models]
    masks = (outputs[0]["masks"][:, 0] > 0.5).numpy().astype(np.uint8)
    return len(coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0))))


def naive(models: Sequence[FasterRCNN], image: Image) -> int:
    """`theirs` in bfloat16 autocast; the models are channels last."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return theirs(models, image)


def serve(build: Callable[[], Side], keep_memory: bool, connection: Connection) -> None:
    """A side's process: predicts what it is sent; answers with seconds and instances."""
    if keep_memory:
        keep_freed_memory()
    call = build()
    while (image := connection.recv()) is not None:
        start = time.perf_counter()
        instances = call(image)
        connection.send((time.perf_counter() - start, instances))


def compare(title: str, images: Sequence[Image], sides: dict[str, tuple[Callable[[], Side], bool]]) -> None:
    """Seconds of each side over the images, turn about, after one image that is told apart as the first call.

    sides: by name, what makes the side in its process, and whether that keeps freed memory. The others' ratios refer
    to the first.
    """
    context, first = multiprocessing.get_context("spawn"), next(iter(sides))
    pipes, processes = {}, []
    for name, (build_side, keep_memory) in sides.items():
        pipes[name], theirs_end = context.Pipe()
        processes.append(context.Process(target=serve, args=(build_side, keep_memory, theirs_end)))
        processes[-1].start()

    def ask(name: str, image: Image) -> tuple[float, int]:
        pipes[name].send(image)
        answer: tuple[float, int] = pipes[name].recv()
        return answer

    first_call = {name: ask(name, images[0])[0] for name in sides}
    answers = [{name: ask(name, image) for name in sides} for image in images]
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send(None)
        process.join()
    for name in sides:
        seconds = [answer[name][0] for answer in answers]
        ratios = [answer[first][0] / answer[name][0] for answer in answers]
        print(
            f"{title:<25} {name:<32}{np.median(seconds):7.3f} s/image   {np.median(ratios):5.2f} times"
            f" (from {min(ratios):.2f} to {max(ratios):.2f})   first call {first_call[name]:5.2f} s"
            f"   {sum(answer[name][1] for answer in answers) / len(images):.0f} instances",
            flush=True,
        )


def of_ours(model: Callable[[], LoadedModel], precision: str) -> Side:
    predictor = Predictor(model(), device="cpu", max_detections=KEEP, precision=precision)
    return partial(ours, predictor)


OURS = ("float32", "bfloat16")
RESNET: dict[str, tuple[Callable[..., FasterRCNN], dict[str, Any]]] = {
    "maskrcnn_resnet50_fpn": (maskrcnn_resnet50_fpn, {}),
    "maskrcnn_resnet50_fpn_v2": (maskrcnn_resnet50_fpn_v2, dict(V2)),
}


def resnet(name: str) -> FasterRCNN:
    model = reference.excite(RESNET[name][0](weights=None, weights_backbone=None), 0)
    model.roi_heads.detections_per_img = KEEP
    return model


def resnet_side(name: str, autocast: bool = False) -> Side:
    model = resnet(name)
    if autocast:
        return partial(naive, [model.to(memory_format=torch.channels_last)])
    return partial(theirs, [model])


def resnet_model(name: str) -> LoadedModel:
    spec = reference.spec("mask_rcnn", rpn_post_nms_top_n=1000, **RESNET[name][1])
    spec = replace(spec, preprocessing=Preprocessing())
    module = build(spec)
    module.load_state_dict(resnet(name).state_dict())
    return LoadedModel(spec, module.eval())


def demo_side() -> Side:
    return partial(theirs, [presets.load_model("demo").module])


def published_pair() -> list[FasterRCNN]:
    """The two networks of the published weights, with random ones."""
    return [
        reference.excite(make(weights=None, weights_backbone=None), seed)
        for seed, make in enumerate((maskrcnn_resnet50_fpn_v2, keypointrcnn_resnet50_fpn))
    ]


def pair_side() -> Side:
    pair = published_pair()
    for model in pair:
        model.roi_heads.detections_per_img = KEEP
    return partial(theirs, pair)


def composed_model(keypoints: bool) -> LoadedModel:
    """Random weights find no people; so either every class has keypoints, or none."""
    mask, keypoint = published_pair()
    spec = presets.describe("coco")
    composed = ComposedRCNN(presets._COCO, spec)
    composed.detector.load_state_dict(mask.state_dict())
    used = {k: t for k, t in keypoint.state_dict().items() if not k.startswith(UNUSED)}
    composed.joints.load_state_dict({k: t for k, t in used.items() if not k.endswith("num_batches_tracked")})
    classes = tuple(ClassInfo(c.id, c.name, keypoints) for c in spec.classes)
    return LoadedModel(replace(spec, classes=classes), composed.eval())


def main() -> None:
    print(f"{torch.get_num_threads()} threads; median of images, ratios to the first row image by image")
    photos = reference.photos(PHOTOS) or [scenes.scene(1, index, (480, 640)).image for index in range(PHOTOS)]
    for name in RESNET:
        compare(
            name,
            photos,
            {
                "torchvision float32": (partial(resnet_side, name), False),
                "torchvision float32, memory kept": (partial(resnet_side, name), True),
                "torchvision autocast": (partial(resnet_side, name, autocast=True), False),
            }
            | {f"masklake {p}": (partial(of_ours, partial(resnet_model, name), p), True) for p in OURS},
        )
    demo = {f"masklake {p}": (partial(of_ours, partial(presets.load_model, "demo"), p), True) for p in OURS}
    pictures = [scenes.scene(1, index).image for index in range(20)]
    compare("demo, 320 x 240", pictures, {"torchvision float32": (demo_side, False)} | demo)
    for title, keypoints in (("coco, people everywhere", True), ("coco, no people", False)):
        mine = {
            f"masklake {p}": (partial(of_ours, partial(composed_model, keypoints), p), True) for p in OURS
        }
        compare(title, photos, {"torchvision float32": (pair_side, False)} | mine)


if __name__ == "__main__":
    main()
