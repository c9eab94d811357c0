"""torchvision's own models with random weights that detect much: what the predictor is compared with."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from masklake.model import coco
from masklake.model.checkpoint import LoadedModel
from masklake.model.detections import Detections
from masklake.model.networks.config import PUBLISHED_V1, V2
from masklake.model.spec import ClassInfo, ModelSpec, Preprocessing
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.detection import FasterRCNN, keypointrcnn_resnet50_fpn, maskrcnn_resnet50_fpn_v2
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.keypoint_rcnn import KeypointRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNN
from torchvision.ops import FrozenBatchNorm2d, box_iou

from tests.helpers.paths import SHARED

PHOTOS = SHARED / "data" / "coco-sample" / "images"
NO_PHOTOS = "the COCO sample photos are not on this machine"

CLASSES = tuple(ClassInfo(id_, name, id_ == coco.PERSON_ID) for id_, name in coco.CATEGORIES)
PREPROCESSING = Preprocessing(min_size=96, max_size=160)
PROPOSALS = 40
"""Few, so that the box head takes tenths of seconds."""

TRANSFORM = {"min_size": PREPROCESSING.min_size, "max_size": PREPROCESSING.max_size}
INFERENCE = TRANSFORM | {"rpn_post_nms_top_n_test": PROPOSALS}


def mask_v2() -> FasterRCNN:
    return maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, **INFERENCE)


def _frozen_backbone() -> nn.Module:
    body = resnet50(weights=None, norm_layer=partial(FrozenBatchNorm2d, eps=0.0))
    return _resnet_fpn_extractor(body, 0)


def mask_v1() -> FasterRCNN:
    """As torchvision builds it for its published weights: frozen batch norm without epsilon."""
    return MaskRCNN(_frozen_backbone(), 91, **INFERENCE)


def keypoint() -> FasterRCNN:
    return keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2, **INFERENCE)


def keypoint_v1() -> FasterRCNN:
    return KeypointRCNN(_frozen_backbone(), 2, **INFERENCE)


def joint() -> FasterRCNN:
    """torchvision has no builder for it, but its RoIHeads run both heads."""
    model = mask_v2()
    keypoint_model = keypoint()
    for part in ("keypoint_roi_pool", "keypoint_head", "keypoint_predictor"):
        setattr(model.roi_heads, part, getattr(keypoint_model.roi_heads, part))
    return model


def spec(family: str, classes: Sequence[ClassInfo] = CLASSES, **keys: object) -> ModelSpec:
    architecture = {
        "family": family,
        "backbone": "resnet50-fpn",
        "class_index": "id",
        "rpn_post_nms_top_n": PROPOSALS,
    }
    return ModelSpec(
        name=family,
        architecture=architecture | keys,
        classes=tuple(classes),
        keypoint_names=coco.KEYPOINT_NAMES,
        preprocessing=PREPROCESSING,
    )


SPECS = {
    mask_v2: spec("mask_rcnn", **V2),
    mask_v1: spec("mask_rcnn", **PUBLISHED_V1),
    keypoint_v1: spec("keypoint_rcnn", CLASSES[:1], **PUBLISHED_V1),
    # two classes of three have keypoints, so that detections of many images do
    joint: spec("joint", [ClassInfo(c.id, c.name, c.id % 3 != 0) for c in CLASSES], **V2),
}


@torch.no_grad()
def excite(model: FasterRCNN, seed: int) -> FasterRCNN:
    """Random weights under which boxes move, classes and masks differ, and many scores are high."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.uniform_(module.bias, -0.1, 0.1)
        elif isinstance(module, FrozenBatchNorm2d | nn.BatchNorm2d):
            for tensor, low, high in ((module.weight, 0.5, 1), (module.bias, -0.2, 0.2)):
                nn.init.uniform_(tensor, low, high)
    _settle_norms(model)
    heads = model.roi_heads
    nn.init.normal_(model.rpn.head.bbox_pred.weight, std=0.002)
    nn.init.normal_(heads.box_predictor.bbox_pred.weight, std=0.01)
    nn.init.normal_(heads.box_predictor.cls_score.weight, std=0.1)
    if len(heads.box_predictor.cls_score.bias) == 91:
        unused = sorted(set(range(91)) - {c.id for c in CLASSES} - {0})
        heads.box_predictor.cls_score.bias[unused] = -1e4  # published weights never name these
    return model.eval()


def _settle_norms(model: FasterRCNN) -> None:
    """Give norms the statistics of what they see, layer by layer, so that no layer explodes."""

    def settle(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        axes = (0, 2, 3)
        norm.running_mean.copy_(inputs[0].mean(axes))
        norm.running_var.copy_(inputs[0].var(axes) + 1e-3)

    hooks = [
        m.register_forward_pre_hook(settle)
        for m in model.modules()
        if isinstance(m, FrozenBatchNorm2d | nn.BatchNorm2d)
    ]
    model.eval()
    model([torch.rand(3, 96, 128)])
    for hook in hooks:
        hook.remove()


def closest(
    expected: Detections, detections: Detections, above: float = 0.5
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """For each expected detection that scores `above` this: the highest IoU with one found of its class, and which it is."""
    sure = expected.scores > above
    overlap_AB = box_iou(torch.from_numpy(expected.boxes[sure]), torch.from_numpy(detections.boxes)).numpy()
    overlap_AB = overlap_AB * (expected.labels[sure][:, None] == detections.labels)
    return overlap_AB.max(1), overlap_AB.argmax(1)


def at_size(model: LoadedModel, min_size: int) -> LoadedModel:
    """`model` with another size of input: its short side, pixels; the long one is at most twice that."""
    sizes = Preprocessing(min_size=min_size, max_size=2 * min_size)
    return LoadedModel(replace(model.spec, preprocessing=sizes), model.module)


def noise(seed: int, *size: int) -> NDArray[np.uint8]:
    """A picture with structure at many scales, (H, W, 3)."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((*size, 3))
    for cells in (2, 5, 13, 40):
        coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        picture += np.asarray(coarse.resize(size[::-1], Image.Resampling.BILINEAR), float) / 4
    return picture.astype(np.uint8)


def photos(count: int) -> list[NDArray[np.uint8]]:
    return [np.asarray(Image.open(path).convert("RGB")) for path in sorted(PHOTOS.glob("*.jpg"))[:count]]


def as_input(image: NDArray[np.uint8]) -> Tensor:
    """What torchvision's ToTensor makes of it."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float() / 255


@torch.no_grad()
def eager(model: FasterRCNN, image: NDArray[np.uint8], threshold: float, most: int) -> dict[str, Tensor]:
    """torchvision's result for one image, with its mask probabilities (`probs`) before they are pasted."""
    heads = model.roi_heads
    heads.score_thresh, heads.detections_per_img = threshold, most
    mask_probabilities = []
    hook = heads.register_forward_hook(lambda *args: mask_probabilities.append(args[2][0][0].get("masks")))
    result = model([as_input(image)])[0]
    hook.remove()
    return result | {"probs": mask_probabilities[0]}
