"""Train the demo model from nothing on synthetic scenes: `python -m model.train_demo --minutes 50 --out DIR`.

Each scene is seen once; the held-out stream is never trained on. The checkpoint in DIR is renewed every few
minutes, so an interrupted training leaves its last one; the finished one also has its COCO AP.
"""

import argparse
import copy
import json
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN

from model import scenes
from model.architecture import build_network
from model.checkpoint import load, save
from model.coco import KEYPOINT_NAMES, SKELETON
from model.evaluate import coco_ap
from model.network import Network
from model.spec import ClassInfo, ModelSpec, Preprocessing

log = logging.getLogger(__name__)

TRAIN_SEED = 1
TEST_SEED = 20_261_122
TEST_SCENES = 200
SIZES = ((240, 320), (320, 240), (256, 256), (256, 352))
SHORT_SIDES = (240, 256, 272)  # pixels that a batch's images are scaled to, in turn
BATCH = 8
PEAK_LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.02
WARM_UP_STEPS = 100
MAX_GRADIENT_NORM = 5.0
AVERAGE_DECAY = 0.998
LOSS_WEIGHTS = {"loss_keypoint": 0.5}  # a cross-entropy over 56 x 56 cells: many times the other losses
SAVE_EVERY_S = 240.0
MIN_AREA = 12  # pixels; what is smaller cannot be recognised and would teach noise

NETWORK = Network(
    family="joint",
    backbone="tiny",
    fpn_channels=64,
    anchor_sizes=((20, 32), (48, 72), (110, 165)),
    rpn_pre_nms_top_n=300,
    rpn_post_nms_top_n=150,
    canonical_scale=112,
    box_head_width=192,
    mask_levels=("0",),
    mask_head_layers=(48, 48),
    keypoint_levels=("0",),
    keypoint_head_layers=(64, 64, 64),
)
SPEC = ModelSpec(
    name="demo",
    architecture=NETWORK.to_dict(),
    classes=tuple(
        ClassInfo(number, name, number == scenes.PERSON)
        for number, name in enumerate(scenes.CLASSES, start=1)
    ),
    keypoint_names=KEYPOINT_NAMES,
    skeleton=SKELETON,
    preprocessing=Preprocessing(min_size=256, max_size=448),
)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m model.train_demo", description=__doc__)
    parser.add_argument("--minutes", type=float, default=50.0, help="training time")
    parser.add_argument("--out", type=Path, required=True, help="directory of the checkpoint")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument(
        "--test-scenes", type=int, default=TEST_SCENES, help="unseen scenes that AP is measured on"
    )
    args = parser.parse_args(argv)
    if args.minutes <= 0 or args.test_scenes < 1:
        parser.error("--minutes must be above 0 and --test-scenes at least 1")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    average, lineage = train(args.minutes, args.out)
    spec = replace(SPEC, lineage=lineage)
    save(args.out, average, spec, half=True)
    # Measured on the weights as stored: float16 rounding included.
    stored = load(args.out).module
    metrics = average_precision(stored, TEST_SEED, args.test_scenes)
    save(args.out, stored, replace(spec, metrics=metrics), half=True)
    log.info("%s", json.dumps(metrics))


def train(minutes: float, out: Path) -> tuple[nn.Module, dict[str, object]]:
    """Train for some minutes of wall time; return the averaged network and its lineage. `out` gets a checkpoint
    every few minutes.

    AdamW, linear warm-up, then cosine decay by time; an exponential average of weights and batch norm
    statistics is what is kept (Polyak averaging).
    """
    torch.manual_seed(TRAIN_SEED)
    module = build_network(NETWORK, SPEC).to(memory_format=torch.channels_last)
    _narrow_sampling(module)
    average = copy.deepcopy(module).eval()
    optimizer = torch.optim.AdamW(module.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    start = saved = time.monotonic()
    lineage: dict[str, object] = {}
    for step, (images, targets) in enumerate(batches(TRAIN_SEED), start=1):
        now = time.monotonic()
        progress = (now - start) / (60 * minutes)
        if progress >= 1:
            break
        cosine = 0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2
        for group in optimizer.param_groups:
            group["lr"] = PEAK_LEARNING_RATE * cosine * min(1.0, step / WARM_UP_STEPS)
        module.transform.min_size = (SHORT_SIDES[step % len(SHORT_SIDES)],)
        # bfloat16 is a little faster on CPUs that have it, and the weights stay float32.
        with torch.autocast("cpu", torch.bfloat16):
            losses = module(images, targets)
        loss = sum(LOSS_WEIGHTS.get(name, 1.0) * value for name, value in losses.items())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        _average(average, module, min(AVERAGE_DECAY, (1 + step) / (10 + step)))
        lineage = {
            "command": f"python -m model.train_demo --minutes {minutes:g}",
            "data": "model.scenes",
            "seed": TRAIN_SEED,
            "steps": step,
            "scenes": step * BATCH,
            "minutes": round((time.monotonic() - start) / 60, 1),
            "finished": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "torch": torch.__version__,
        }
        if step % 50 == 0:
            parts = " ".join(
                f"{name.removeprefix('loss_')} {value.item():.3f}" for name, value in losses.items()
            )
            log.info("step %d, %.0f s, loss %.3f: %s", step, now - start, loss.item(), parts)
        if now - saved > SAVE_EVERY_S:
            save(out, average, replace(SPEC, lineage=lineage), half=True)
            saved = now
    return average, lineage


def batches(seed: int) -> Iterator[tuple[list[Tensor], list[dict[str, Tensor]]]]:
    """An endless stream of batches: images (3, H, W) float32 in 0 … 1 and torchvision's targets."""
    index = 0
    while True:
        size = SIZES[index // BATCH % len(SIZES)]
        made = [scenes.scene(seed, index + i, size) for i in range(BATCH)]
        yield [as_tensor(scene) for scene in made], [target(scene) for scene in made]
        index += BATCH


def as_tensor(scene: scenes.Scene) -> Tensor:
    """The image as float32 (3, H, W) in 0 … 1."""
    return torch.from_numpy(scene.image).permute(2, 0, 1).float() / 255


def target(scene: scenes.Scene) -> dict[str, Tensor]:
    """What torchvision's R-CNNs are trained with: boxes (R, 4) xyxy float32, labels (R,) int64, masks
    (R, H, W) uint8, keypoints (R, 17, 3) float32, all zero (so without a loss) for shapes."""
    known = [i for i in scene.instances if i.area >= MIN_AREA and min(i.box[2:]) >= 2]
    boxes_R4 = torch.tensor([i.box for i in known], dtype=torch.float32).reshape(-1, 4)
    boxes_R4[:, 2:] += boxes_R4[:, :2]
    masks_RHW = np.zeros((len(known), *scene.segments.shape), np.uint8)
    keypoints_RK3 = np.zeros((len(known), len(KEYPOINT_NAMES), 3), np.float32)
    for row, instance in enumerate(known):
        masks_RHW[row] = scene.mask(instance)
        if instance.keypoints is not None:
            keypoints_RK3[row] = instance.keypoints
    return {
        "boxes": boxes_R4,
        "labels": torch.tensor([i.category_id for i in known], dtype=torch.int64),
        "masks": torch.from_numpy(masks_RHW),
        "keypoints": torch.from_numpy(keypoints_RK3),
    }


def average_precision(module: nn.Module, seed: int, n: int) -> dict[str, object]:
    """COCO AP of a torchvision R-CNN, run eagerly, on the scenes 0 … n - 1 of a stream."""
    made = [scenes.scene(seed, i, scenes.DEFAULT_SIZES[i % len(scenes.DEFAULT_SIZES)]) for i in range(n)]
    results = []
    module.eval()
    with torch.inference_mode():
        for image_id, scene in enumerate(made):
            found = module([as_tensor(scene)])[0]
            boxes_R4 = found["boxes"].clone()
            boxes_R4[:, 2:] -= boxes_R4[:, :2]
            masks_RHW = (found["masks"][:, 0] > 0.5).numpy().astype(np.uint8)
            for row, label in enumerate(found["labels"].tolist()):
                result = {
                    "image_id": image_id,
                    "category_id": label,
                    "score": found["scores"][row].item(),
                    "bbox": boxes_R4[row].tolist(),
                    "segmentation": coco_mask.encode(np.asfortranarray(masks_RHW[row])),
                }
                if label == scenes.PERSON:
                    result["keypoints"] = found["keypoints"][row].ravel().tolist()
                results.append(result)
    return {"data": "model.scenes", "seed": seed, "scenes": n, **coco_ap(scenes.coco(made), results)}


def _narrow_sampling(module: FasterRCNN) -> None:
    """Fewer proposals and samples an image than torchvision's defaults, which are for far larger images."""
    module.rpn._pre_nms_top_n["training"] = 600
    module.rpn._post_nms_top_n["training"] = 300
    module.rpn.fg_bg_sampler.batch_size_per_image = 128
    module.roi_heads.fg_bg_sampler.batch_size_per_image = 64
    # torchvision's keypoint loss takes a view that channels_last tensors do not allow.
    module.roi_heads.keypoint_predictor.register_forward_hook(
        lambda _module, _inputs, output: output.contiguous()
    )


@torch.no_grad()
def _average(average: nn.Module, module: nn.Module, decay: float) -> None:
    for kept, new in zip(average.state_dict().values(), module.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)


if __name__ == "__main__":
    main()
