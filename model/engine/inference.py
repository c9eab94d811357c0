"""From a batch of images to instances: torchvision's GeneralizedRCNN, less the work whose result is dropped.

The steps are those of torchvision's `transform.py`, `rpn.py` and `roi_heads.py`: resize, backbone, proposals, box
head, then masks and joints of what is kept. What is left out: boxes of classes that nobody asked for are not
decoded, masks are computed for the one class of each box, joints for boxes of classes that have joints, and no mask
is pasted into a frame. `model.engine.parts` runs the layers.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from masklake.model.detections import Detections
from masklake.model.engine.finite import all_finite, of_images
from masklake.model.engine.parts import ExactParts, FastParts, Features, Parts
from masklake.model.errors import ModelError
from masklake.model.masks import rle, rle_device
from masklake.model.networks.composed import ComposedRCNN
from masklake.model.networks.config import Composed, parse
from masklake.model.networks.rcnn import output_labels
from masklake.model.spec import ModelSpec
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import resize_boxes, resize_keypoints
from torchvision.ops import boxes as box_ops

PRECISIONS = ("exact", "float32", "bfloat16", "float16")

_DIVISIBLE = 32


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is asked for. labels: class ids; a detection's score must be above score_threshold."""

    score_threshold: float
    max_detections: int
    labels: frozenset[int]


@dataclass(frozen=True)
class NotFinite:
    """What an image has in place of detections whose values are not finite; in words, the first such values."""

    values: str


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
        network = parse(spec.architecture)
        self.limits, self.device = limits, device
        self.preprocessing = spec.preprocessing

        def ready(part: FasterRCNN) -> Parts:
            return ExactParts(part) if precision == "exact" else FastParts(part, getattr(torch, precision))

        if isinstance(module, ComposedRCNN) and isinstance(network, Composed):
            heads = module.detector.roi_heads
            self.detector, self.joints = ready(module.detector), ready(module.joints)
            self.n_joints = module.joints.roi_heads.keypoint_predictor.out_channels
            labels = output_labels(network.detector, spec)
        elif isinstance(module, FasterRCNN) and not isinstance(network, Composed):
            heads = module.roi_heads
            self.detector = self.joints = ready(module)
            self.n_joints = heads.keypoint_predictor.out_channels if heads.has_keypoint() else 0
            labels = output_labels(network, spec)
        else:
            raise ModelError(f"model {spec.name!r}: the module is not of the family that the spec names")
        self.box_coder, self.nms_threshold = heads.box_coder, heads.nms_thresh
        # torchvision's NMS looks at the boxes of all classes, and rounds by the farthest of them; exact does too.
        considered = [
            (output, label)
            for output, label in enumerate(labels)
            if label in limits.labels or (precision == "exact" and output > 0)
        ]
        self.outputs_K = torch.tensor([output for output, _ in considered], device=device)
        self.labels_K = torch.tensor([label or 0 for _, label in considered], device=device)
        self.wanted_K = torch.tensor([label in limits.labels for _, label in considered], device=device)
        self.all_wanted = bool(self.wanted_K.all())
        with_joints = {c.id for c in spec.classes if c.keypoints}
        self.jointed_K = torch.tensor([label in with_joints for _, label in considered], device=device)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that an image is resized to, as torchvision's _resize_image_and_masks; at least 1."""
        scale = min(
            self.preprocessing.min_size / min(height, width), self.preprocessing.max_size / max(height, width)
        )
        return max(1, int(height * scale)), max(1, int(width * scale))

    @torch.inference_mode()
    def run(
        self, images: Sequence[Tensor], frames: Sequence[tuple[int, int]], as_rle: bool = False
    ) -> list[Detections | NotFinite]:
        """Detections of uint8 (3, H, W) images that are padded to one shape, in the pixels of their frames.

        as_rle: masks come as RLE of the frame, made on the device, instead of probabilities.
        """
        batch = self._preprocess(images)
        finite: dict[str, Tensor] = {}  # (N,) each
        features = self.detector.backbone(batch.tensors)
        finite["feature maps"] = self._finite_maps(features)
        proposals, finite["proposals"] = self.detector.propose(features, batch)
        found, finite["class scores or boxes"] = self._detect(features, proposals, batch)
        masks, finite["masks"] = self._masks(features, found, batch)
        joints, finite["keypoints"] = self._joints(features, found, batch)
        names = list(finite)
        finite_NS = torch.stack(list(finite.values()), 1).tolist()
        return [
            self._to_frame(*of, as_rle) if all(whether) else NotFinite(names[whether.index(False)])
            for whether, of in zip(
                finite_NS, zip(found, masks, joints, batch.image_sizes, frames, strict=True), strict=True
            )
        ]

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
        batch_NCHW = batch_NCHW.to(self.detector.dtype).contiguous(memory_format=self.detector.memory_format)
        return ImageList(batch_NCHW, sizes)

    def _detect(
        self, features: Features, proposals: list[Tensor], batch: ImageList
    ) -> tuple[list[Instances], Tensor]:
        """RoIHeads.postprocess_detections, with scores and classes selected before boxes are decoded."""
        logits_RC, deltas_RC4 = self.detector.classify(features, proposals, batch)
        finite_R = all_finite([logits_RC, deltas_RC4])
        scores_RK = logits_RC.softmax(-1)[:, self.outputs_K]
        deltas_RC4 = deltas_RC4.unflatten(1, (-1, 4))
        counts = [len(boxes) for boxes in proposals]
        found = []
        for boxes_R4, all_scores_RK, deltas_R, size in zip(
            proposals, scores_RK.split(counts), deltas_RC4.split(counts), batch.image_sizes, strict=True
        ):
            r, k = torch.where(all_scores_RK > self.limits.score_threshold)
            boxes = self.box_coder.decode_single(deltas_R[r, self.outputs_K[k]], boxes_R4[r])
            boxes, scores = box_ops.clip_boxes_to_image(boxes, size), all_scores_RK[r, k]
            large = box_ops.remove_small_boxes(boxes, min_size=1e-2)
            boxes, scores, k = boxes[large], scores[large], k[large]
            # The outputs are the labels that torchvision shifts boxes by: other numbers round otherwise.
            best = box_ops.batched_nms(boxes, scores, self.outputs_K[k], self.nms_threshold)
            if not self.all_wanted:
                best = best[self.wanted_K[k[best]]]
            best = best[: self.limits.max_detections]
            found.append(Instances(boxes[best], k[best], scores[best]))
        return found, of_images(finite_R, counts)

    def _masks(
        self, features: Features, found: list[Instances], batch: ImageList
    ) -> tuple[list[Tensor | None], Tensor]:
        """(R, M, M) mask probabilities for each image: maskrcnn_inference, of the class of each box only."""
        if not self.detector.has_masks:
            return [None] * len(found), self._all_true(len(found))
        counts = [len(i.scores) for i in found]
        output_R = self.outputs_K[torch.cat([i.kinds for i in found])]
        probs_RMM, finite_R = self.detector.masks(features, [i.boxes for i in found], batch, output_R)
        return list(probs_RMM.split(counts)), of_images(finite_R, counts)

    def _joints(
        self, features: Features, found: list[Instances], batch: ImageList
    ) -> tuple[list[Tensor | None], Tensor]:
        """(R, K, 3) joints for each image, pixels of the resized image; NaN for classes without joints."""
        finite_N = self._all_true(len(found))
        if not self.joints.has_joints:
            return [None] * len(found), finite_N
        jointed = [self.jointed_K[i.kinds] for i in found]
        joints = [torch.full((len(i.scores), self.n_joints, 3), torch.nan, device=self.device) for i in found]
        some = [n for n, which in enumerate(jointed) if which.any()]
        if not some:
            return list(joints), finite_N
        if len(some) < len(found):
            batch = ImageList(batch.tensors[some], [batch.image_sizes[n] for n in some])
        if self.joints is not self.detector:
            features = self.joints.backbone(batch.tensors)
            finite_N[some] = self._finite_maps(features)
        elif len(some) < len(found):
            features = {name: level_NCHW[some] for name, level_NCHW in features.items()}
        boxes = [found[n].boxes[jointed[n]] for n in some]
        places_RK3 = self.joints.joints(features, boxes, batch)
        counts = [len(b) for b in boxes]
        finite_N[some] &= of_images(all_finite([places_RK3]), counts)
        for n, places in zip(some, places_RK3.split(counts), strict=True):
            joints[n][jointed[n]] = places
        return list(joints), finite_N

    def _finite_maps(self, features: Features) -> Tensor:
        if self.detector.dtype == torch.bfloat16:  # its range is float32's, and its sums are slow on CPUs
            return self._all_true(len(next(iter(features.values()))))
        return all_finite(features.values())

    def _all_true(self, n: int) -> Tensor:
        return torch.ones(n, dtype=torch.bool, device=self.device)

    def _to_frame(
        self,
        found: Instances,
        masks: Tensor | None,
        joints: Tensor | None,
        size: tuple[int, int],
        frame: tuple[int, int],
        as_rle: bool,
    ) -> Detections:
        boxes = resize_boxes(found.boxes, size, frame)
        rles = None
        if as_rle and masks is not None:
            rles, masks = self._encode(masks, boxes, frame), None
        return Detections(
            boxes=boxes.cpu().numpy(),
            labels=self.labels_K[found.kinds].to(torch.int32).cpu().numpy(),
            scores=found.scores.cpu().numpy(),
            masks=None if masks is None else masks.cpu().numpy(),
            keypoints=None if joints is None else resize_keypoints(joints, size, frame).cpu().numpy(),
            rles=rles,
        )

    def _encode(self, masks: Tensor, boxes: Tensor, frame: tuple[int, int]) -> list[rle.Rle]:
        if self.device.type == "cpu":
            return rle.encode_masks(masks.numpy(), boxes.numpy(), frame)
        return rle_device.encode_masks(masks, boxes, frame)


def padded(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width with the padding that torchvision's batch_images adds."""
    return -(-size[0] // _DIVISIBLE) * _DIVISIBLE, -(-size[1] // _DIVISIBLE) * _DIVISIBLE
