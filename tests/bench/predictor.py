"""Images to instances with COCO RLE: ours against torchvision in eager mode, one thread, CPU seconds.

    python -m tests.bench.predictor

Photos of the COCO sample where they are, else synthetic scenes; 800 px on the short side, as the published weights
want it. The weights are random ones that detect much: published ones are not on every machine. Both sides end in
boxes, scores, joints and COCO RLE of the same photos; torchvision's with its paste and pycocotools' encode.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.models.detection import FasterRCNN, keypointrcnn_resnet50_fpn, maskrcnn_resnet50_fpn_v2

from model import presets, scenes
from model.checkpoint import LoadedModel
from model.composed import UNUSED, ComposedRCNN
from model.detections import Detections
from model.predictor import Predictor
from model.rle import encode_masks
from model.spec import ClassInfo
from tests.model import reference

PHOTOS = 3
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


def compare(
    what: str, images: Sequence[Image], eager: Callable[[Image], int], fast: dict[str, Callable[[Image], int]]
) -> None:
    """CPU seconds of each side over the images, turn about, after one run each that is not counted."""
    sides = {"torchvision": eager, **fast}
    for call in sides.values():
        call(images[0])
    spent, instances = dict.fromkeys(sides, 0.0), dict.fromkeys(sides, 0)
    for image in images:
        for name, call in sides.items():
            start = time.process_time()
            instances[name] += call(image)
            spent[name] += time.process_time() - start
    for name in fast:
        print(
            f"{what:<24} torchvision {spent['torchvision'] / len(images):6.3f} s/image   masklake {name:<9}"
            f"{spent[name] / len(images):6.3f} s/image   {spent['torchvision'] / spent[name]:5.2f} times"
            f"   ({instances['torchvision'] / len(images):.0f} and {instances[name] / len(images):.0f} instances)"
        )


def predictors(model: LoadedModel) -> dict[str, Callable[[Image], int]]:
    made = {
        p: Predictor(model, device="cpu", max_detections=KEEP, precision=p) for p in ("float32", "bfloat16")
    }
    return {name: partial(ours, predictor) for name, predictor in made.items()}


def published_pair() -> tuple[list[FasterRCNN], ComposedRCNN]:
    """torchvision's two models and ours of the two, with the same random weights."""
    mask = reference.excite(maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None), 0)
    keypoint = reference.excite(keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None), 1)
    composed = ComposedRCNN(presets._COCO, presets.describe("coco"))
    composed.detector.load_state_dict(mask.state_dict())
    used = {k: t for k, t in keypoint.state_dict().items() if not k.startswith(UNUSED)}
    composed.joints.load_state_dict({k: t for k, t in used.items() if not k.endswith("num_batches_tracked")})
    return [mask, keypoint], composed.eval()


def main() -> None:
    torch.set_num_threads(1)
    demo = presets.load_model("demo")
    pictures = [scenes.scene(1, at).image for at in range(20)]
    compare("demo, 320 x 240", pictures, partial(theirs, [demo.module]), predictors(demo))
    photos = reference.photos(PHOTOS) or [scenes.scene(1, at, (480, 640)).image for at in range(PHOTOS)]
    eager, composed = published_pair()
    for model in eager:
        model.roi_heads.detections_per_img = KEEP
    spec = presets.describe("coco")
    # Random weights find no people; so either every class has joints, or none.
    for what, joints in (("coco, people everywhere", True), ("coco, no people", False)):
        classes = tuple(ClassInfo(c.id, c.name, joints) for c in spec.classes)
        loaded = LoadedModel(replace(spec, classes=classes), composed)
        compare(what, photos, partial(theirs, eager), predictors(loaded))


if __name__ == "__main__":
    main()
