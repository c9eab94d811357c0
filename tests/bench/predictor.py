"""Images to instances with COCO RLE: ours against torchvision in eager mode, all CPUs, wall seconds.

    python -m tests.bench.predictor

Photos of the COCO sample where they are, else synthetic scenes; 800 px on the short side, as the published weights
want it. The weights are random ones that detect much: published ones are not on every machine. Both sides start
from decoded pixels and end in boxes, scores, joints and COCO RLE of the same photos; torchvision's with its paste
and pycocotools' encode. Beside its float32 stands what one tries first, its modules in bfloat16 autocast and
channels last.
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.models.detection import (
    FasterRCNN,
    keypointrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn_v2,
)

from model import presets, scenes
from model.architecture import build
from model.checkpoint import LoadedModel
from model.composed import UNUSED, ComposedRCNN
from model.detections import Detections
from model.network import V2
from model.predictor import Predictor
from model.rle import encode_masks
from model.spec import ClassInfo, Preprocessing
from tests.model import reference

PHOTOS = 6
KEEP = 20
"""Detections an image at most: what a photo has, about, at the default threshold."""

Image = NDArray[np.uint8]


def ours(predictor: Predictor, image: Image) -> int:
    found = predictor.predict([image])[0]
    assert isinstance(found, Detections)
    assert found.masks is not None
    return len(encode_masks(found.masks, found.boxes, image.shape[:2]))


@torch.inference_mode()
def theirs(models: Sequence[FasterRCNN], image: Image) -> int:
    """The first model's masks as RLE; the others are run for their joints."""
    found: list[dict[str, Tensor]] = [model([reference.as_input(image)])[0] for model in models]
    masks = (found[0]["masks"][:, 0] > 0.5).numpy().astype(np.uint8)
    return len(coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0))))


def naive(models: Sequence[FasterRCNN], image: Image) -> int:
    """`theirs` in bfloat16 autocast; the models are channels last."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return theirs(models, image)


def compare(what: str, images: Sequence[Image], sides: dict[str, Callable[[Image], int]]) -> None:
    """Seconds of each side over the images, turn about, after one run each that is told apart as warm-up.

    The first side is the one that the others' ratios refer to.
    """
    first, warm_up = next(iter(sides)), {}
    for name, call in sides.items():
        start = time.perf_counter()
        call(images[0])
        warm_up[name] = time.perf_counter() - start
    spent: dict[str, list[float]] = {name: [] for name in sides}
    instances = dict.fromkeys(sides, 0)
    for image in images:
        for name, call in sides.items():
            start = time.perf_counter()
            instances[name] += call(image)
            spent[name].append(time.perf_counter() - start)
    for name in sides:
        ratios = [a / b for a, b in zip(spent[first], spent[name], strict=True)]
        print(
            f"{what:<26} {name:<22}{np.median(spent[name]):7.3f} s/image   {np.median(ratios):5.2f} times"
            f" (from {min(ratios):.2f} to {max(ratios):.2f})   first call {warm_up[name]:6.2f} s"
            f"   {instances[name] / len(images):.0f} instances",
            flush=True,
        )


def predictors(model: LoadedModel) -> dict[str, Callable[[Image], int]]:
    made = {
        p: Predictor(model, device="cpu", max_detections=KEEP, precision=p) for p in ("float32", "bfloat16")
    }
    return {f"masklake {name}": partial(ours, predictor) for name, predictor in made.items()}


def published_pair() -> tuple[list[FasterRCNN], ComposedRCNN]:
    """torchvision's two models and ours of the two, with the same random weights."""
    mask = reference.excite(maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None), 0)
    keypoint = reference.excite(keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None), 1)
    composed = ComposedRCNN(presets._COCO, presets.describe("coco"))
    composed.detector.load_state_dict(mask.state_dict())
    used = {k: t for k, t in keypoint.state_dict().items() if not k.startswith(UNUSED)}
    composed.joints.load_state_dict({k: t for k, t in used.items() if not k.endswith("num_batches_tracked")})
    return [mask, keypoint], composed.eval()


def single(
    make: Callable[..., FasterRCNN], architecture: dict[str, object]
) -> dict[str, Callable[[Image], int]]:
    """torchvision's model, the same in bfloat16 autocast, and ours, with the same random weights."""
    model = reference.excite(make(weights=None, weights_backbone=None), 0)
    model.roi_heads.detections_per_img = KEEP
    spec = replace(reference.spec("mask_rcnn", **architecture), preprocessing=Preprocessing())
    ours = build(spec)
    ours.load_state_dict(model.state_dict())
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    return {
        "torchvision float32": partial(theirs, [model]),
        "torchvision autocast": partial(naive, [last]),
        **predictors(LoadedModel(spec, ours.eval())),
    }


def main() -> None:
    print(f"{torch.get_num_threads()} threads; median of images, ratios to the first row image by image")
    photos = reference.photos(PHOTOS) or [scenes.scene(1, at, (480, 640)).image for at in range(PHOTOS)]
    whole = {"rpn_post_nms_top_n": 1000}
    compare("maskrcnn_resnet50_fpn", photos, single(maskrcnn_resnet50_fpn, whole))
    compare("maskrcnn_resnet50_fpn_v2", photos, single(maskrcnn_resnet50_fpn_v2, whole | V2))
    demo = presets.load_model("demo")
    pictures = [scenes.scene(1, at).image for at in range(20)]
    compare(
        "demo, 320 x 240",
        pictures,
        {"torchvision float32": partial(theirs, [demo.module]), **predictors(demo)},
    )
    eager, composed = published_pair()
    for model in eager:
        model.roi_heads.detections_per_img = KEEP
    spec = presets.describe("coco")
    # Random weights find no people; so either every class has joints, or none.
    for what, joints in (("coco, people everywhere", True), ("coco, no people", False)):
        classes = tuple(ClassInfo(c.id, c.name, joints) for c in spec.classes)
        loaded = LoadedModel(replace(spec, classes=classes), composed)
        compare(what, photos, {"torchvision float32": partial(theirs, eager), **predictors(loaded)})


if __name__ == "__main__":
    main()
