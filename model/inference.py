"""From a batch of images to instances: torchvision's GeneralizedRCNN, less the work whose result is dropped.

Same steps as torchvision's `transform.py`, `rpn.py` and `roi_heads.py`. What is left out: boxes
of classes that nobody asked for are not decoded, masks are computed for the one class of each box, joints for boxes
of classes that have joints, and no mask is pasted into a frame.
"""

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import heatmaps_to_keypoints
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.models.detection.transform import resize_boxes, resize_keypoints
from torchvision.ops import boxes as box_ops

from model.architecture import output_labels
from model.composed import ComposedRCNN
from model.detections import Detections
from model.errors import ModelError
from model.fold import fold_norms
from model.joints import place_joints
from model.network import Composed, parse
from model.spec import ModelSpec

PRECISIONS = ("exact", "float32", "bfloat16")

_DIVISIBLE = 32


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is asked for. labels: class ids; a detection's score must be above score_threshold."""

    score_threshold: float
    max_detections: int
    labels: frozenset[int]


@dataclass(frozen=True)
class Instances:
    """R instances of one image, highest score first.

    boxes: (R, 4), pixels of the resized image; kinds: (R,), positions among the wanted classes; scores: (R,).
    """

    boxes: Tensor
    kinds: Tensor
    scores: Tensor


class Engine:
    """A network made ready for inference on one device. The module that it was made from is not changed."""

    def __init__(
        self, module: nn.Module, spec: ModelSpec, limits: Limits, device: torch.device, precision: str
    ) -> None:
        module = copy.deepcopy(module).eval().to(device)
        if precision != "exact":
            module = fold_norms(module).to(memory_format=torch.channels_last)
        network = parse(spec.architecture)
        self.limits, self.device, self.precision = limits, device, precision
        self.preprocessing = spec.preprocessing
        if isinstance(module, ComposedRCNN) and isinstance(network, Composed):
            self.detector, self.joints = module.detector, module.joints
            labels = output_labels(network.detector, spec)
        elif isinstance(module, FasterRCNN) and not isinstance(network, Composed):
            self.detector = self.joints = module
            labels = output_labels(network, spec)
        else:
            raise ModelError(f"model {spec.name!r}: the module is not of the family that the spec names")
        wanted = [(output, label) for output, label in enumerate(labels) if label in limits.labels]
        self.outputs_K = torch.tensor([output for output, _ in wanted], device=device)
        self.labels_K = torch.tensor([label for _, label in wanted], device=device)
        with_joints = {c.id for c in spec.classes if c.keypoints}
        self.jointed_K = torch.tensor([label in with_joints for _, label in wanted], device=device)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that an image is resized to, as torchvision's _resize_image_and_masks; at least 1."""
        scale = min(
            self.preprocessing.min_size / min(height, width), self.preprocessing.max_size / max(height, width)
        )
        return max(1, int(height * scale)), max(1, int(width * scale))

    @torch.inference_mode()
    def run(self, images: Sequence[Tensor], frames: Sequence[tuple[int, int]]) -> list[Detections]:
        """Detections of uint8 (3, H, W) images that are padded to one shape, in the pixels of their frames."""
        with self._autocast():
            batch = self._preprocess(images)
            raw_features = self.detector.backbone(batch.tensors)
            features = _for_pooling(raw_features)
            proposals = self._propose(raw_features, features, batch)
            found = self._detect(features, proposals, batch.image_sizes)
            masks = self._masks(features, found, batch.image_sizes)
            joints = self._joints(features, found, batch)
            return [
                self._to_frame(*of)
                for of in zip(found, masks, joints, batch.image_sizes, frames, strict=True)
            ]

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision == "bfloat16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def _preprocess(self, images: Sequence[Tensor]) -> ImageList:
        mean = torch.tensor(self.preprocessing.mean, device=self.device)[:, None, None]
        std = torch.tensor(self.preprocessing.std, device=self.device)[:, None, None]
        sizes = [self.resized(*image.shape[1:]) for image in images]
        height, width = padded(sizes[0])
        batch_NCHW = torch.zeros(len(images), 3, height, width, device=self.device)
        for image_CHW, (h, w), into_CHW in zip(images, sizes, batch_NCHW, strict=True):
            normal_CHW = (image_CHW.to(self.device).float() / 255 - mean) / std
            into_CHW[:, :h, :w] = F.interpolate(
                normal_CHW[None], (h, w), mode="bilinear", align_corners=False
            )[0]
        if self.precision != "exact":
            batch_NCHW = batch_NCHW.contiguous(memory_format=torch.channels_last)
        return ImageList(batch_NCHW, sizes)

    def _propose(
        self, raw_features: dict[str, Tensor], features: dict[str, Tensor], batch: ImageList
    ) -> list[Tensor]:
        """RegionProposalNetwork.forward, but with anchors and boxes in float32 whatever the convolutions run in."""
        rpn = self.detector.rpn
        objectness, deltas = rpn.head(list(raw_features.values()))
        anchors = rpn.anchor_generator(batch, list(features.values()))
        per_level = [level_NAHW[0].numel() for level_NAHW in objectness]
        objectness_R1, deltas_R4 = concat_box_prediction_layers(objectness, deltas)
        boxes_NA4 = rpn.box_coder.decode(deltas_R4.float(), anchors).view(len(anchors), -1, 4)
        proposals, _ = rpn.filter_proposals(boxes_NA4, objectness_R1.float(), batch.image_sizes, per_level)
        return list(proposals)

    def _detect(
        self, features: dict[str, Tensor], proposals: list[Tensor], sizes: list[tuple[int, int]]
    ) -> list[Instances]:
        """RoIHeads.postprocess_detections, with scores and classes selected before boxes are decoded."""
        heads = self.detector.roi_heads
        box_features = heads.box_head(heads.box_roi_pool(features, proposals, sizes))
        with torch.autocast(
            self.device.type, enabled=False
        ):  # its work is little, and the scores follow from it
            logits_RC, deltas_RC4 = heads.box_predictor(box_features.float())
        scores_RK = logits_RC.softmax(-1)[:, self.outputs_K]
        deltas_RC4 = deltas_RC4.unflatten(1, (-1, 4))
        counts = [len(boxes) for boxes in proposals]
        found = []
        for boxes_R4, all_scores_RK, deltas_R, size in zip(
            proposals, scores_RK.split(counts), deltas_RC4.split(counts), sizes, strict=True
        ):
            r, k = torch.where(all_scores_RK > self.limits.score_threshold)
            boxes = heads.box_coder.decode_single(deltas_R[r, self.outputs_K[k]], boxes_R4[r])
            boxes, scores = box_ops.clip_boxes_to_image(boxes, size), all_scores_RK[r, k]
            large = box_ops.remove_small_boxes(boxes, min_size=1e-2)
            boxes, scores, k = boxes[large], scores[large], k[large]
            best = box_ops.batched_nms(boxes, scores, k, heads.nms_thresh)[: self.limits.max_detections]
            found.append(Instances(boxes[best], k[best], scores[best]))
        return found

    def _masks(
        self, features: dict[str, Tensor], found: list[Instances], sizes: list[tuple[int, int]]
    ) -> list[Tensor | None]:
        """(R, M, M) mask probabilities for each image: maskrcnn_inference, of the class of each box only."""
        heads = self.detector.roi_heads
        if not heads.has_mask():
            return [None] * len(found)
        x = heads.mask_head(heads.mask_roi_pool(features, [i.boxes for i in found], sizes))
        output_R = self.outputs_K[torch.cat([i.kinds for i in found])]
        if self.precision == "exact":
            probs_RCMM = heads.mask_predictor(x).sigmoid()
            probs_RMM = probs_RCMM[torch.arange(len(output_R), device=self.device), output_R]
        else:
            x_RCMM = heads.mask_predictor.relu(heads.mask_predictor.conv5_mask(x))
            last = heads.mask_predictor.mask_fcn_logits
            weight_R1C, bias_R11 = last.weight[output_R, :, 0, 0][:, None], last.bias[output_R][:, None, None]
            logits_R1P = torch.baddbmm(bias_R11, weight_R1C, x_RCMM.flatten(2))
            probs_RMM = logits_R1P.float().sigmoid().view(-1, *x_RCMM.shape[2:])
        return list(probs_RMM.split([len(i.scores) for i in found]))

    def _joints(
        self, features: dict[str, Tensor], found: list[Instances], batch: ImageList
    ) -> list[Tensor | None]:
        """(R, K, 3) joints for each image, pixels of the resized image; NaN for classes without joints."""
        heads = self.joints.roi_heads
        if not heads.has_keypoint():
            return [None] * len(found)
        jointed = [self.jointed_K[i.kinds] for i in found]
        n_joints = heads.keypoint_predictor.out_channels
        joints = [torch.full((len(i.scores), n_joints, 3), torch.nan, device=self.device) for i in found]
        some = [n for n, which in enumerate(jointed) if which.any()]
        if not some:
            return list(joints)
        if self.joints is not self.detector:
            features = _for_pooling(self.joints.backbone(batch.tensors[some]))
        elif len(some) < len(found):
            features = {name: level_NCHW[some] for name, level_NCHW in features.items()}
        boxes = [found[n].boxes[jointed[n]] for n in some]
        sizes = [batch.image_sizes[n] for n in some]
        x = heads.keypoint_head(heads.keypoint_roi_pool(features, boxes, sizes))
        maps_RKMM = heads.keypoint_predictor(x).float()
        if self.precision == "exact":
            places_RK3, logits_RK = heatmaps_to_keypoints(maps_RKMM, torch.cat(boxes))
            places_RK3[..., 2] = logits_RK
        else:
            places_RK3 = place_joints(maps_RKMM, torch.cat(boxes))
        for n, places in zip(some, places_RK3.split([len(b) for b in boxes]), strict=True):
            joints[n][jointed[n]] = places
        return list(joints)

    def _to_frame(
        self,
        found: Instances,
        masks: Tensor | None,
        joints: Tensor | None,
        size: tuple[int, int],
        frame: tuple[int, int],
    ) -> Detections:
        return Detections(
            boxes=resize_boxes(found.boxes, size, frame).cpu().numpy(),
            labels=self.labels_K[found.kinds].to(torch.int32).cpu().numpy(),
            scores=found.scores.cpu().numpy(),
            masks=None if masks is None else masks.cpu().numpy(),
            keypoints=None if joints is None else resize_keypoints(joints, size, frame).cpu().numpy(),
        )


def _for_pooling(features: dict[str, Tensor]) -> dict[str, Tensor]:
    """RoIAlign reads float32 planes; without this each of its calls would make them anew."""
    return {name: level_NCHW.float().contiguous() for name, level_NCHW in features.items()}


def padded(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width with the padding that torchvision's batch_images adds."""
    return -(-size[0] // _DIVISIBLE) * _DIVISIBLE, -(-size[1] // _DIVISIBLE) * _DIVISIBLE
