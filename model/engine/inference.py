"""From a batch of images to instances: torchvision's GeneralizedRCNN, less the work whose result is dropped.

The steps are those of torchvision's `transform.py`, `rpn.py` and `roi_heads.py`: resize, backbone, proposals, box
head, then masks and keypoints of what is kept. Left out is work whose result nobody sees: only boxes of classes that
are asked for are decoded, masks are computed for the one class of each box, keypoints for boxes of classes that have
keypoints, and no mask is pasted into a frame. `model.engine.parts` runs the layers.
"""

import copy
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from masklake.model.detections import Detections
from masklake.model.engine import int8
from masklake.model.engine.box_deltas import decode as decode_box
from masklake.model.engine.finite import all_finite, of_images
from masklake.model.engine.kernel_check import agree
from masklake.model.engine.parts import ExactParts, FastParts, Features, Parts
from masklake.model.engine.precision import fastest, full_float32
from masklake.model.engine.results import NotFinite, Results
from masklake.model.engine.rois import Arrival, Rois, image_of_each, to_device
from masklake.model.engine.rpn import clipped, corners
from masklake.model.engine.select import Detected, FixedShapes, Rule, Selection, TrueCounts, UnsettledError
from masklake.model.engine.uploads import Sent, Uploads
from masklake.model.errors import ModelError
from masklake.model.networks.composed import ComposedRCNN
from masklake.model.networks.config import Composed, parse
from masklake.model.networks.rcnn import output_labels
from masklake.model.spec import ModelSpec
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.image_list import ImageList

PRECISIONS = ("exact", "float32", "bfloat16", "float16", int8.INT8)

_DIVISIBLE = 32


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Which detections a caller wants.

    score_threshold: a detection's score must be above it. max_detections: of an image, the best. labels: class ids.
    proposals: of an image, the most that reach the box head; None for as many as the network says.
    """

    score_threshold: float
    max_detections: int
    proposals: int | None = None
    labels: frozenset[int]


class Engine:
    """A network made ready for inference on one device; it is copied, the module is not changed.

    Raises ModelError where the module is not of the family that the spec names.
    """

    def __init__(
        self,
        module: nn.Module,
        spec: ModelSpec,
        limits: Limits,
        device: torch.device,
        precision: str,
        calibration: int8.Calibration | None = None,
        observed: tuple[int8.Ranges, ...] | None = None,
    ) -> None:
        """calibration: for int8. observed: is widened, a network each, to the values that tensors have; not for `exact`."""
        module = copy.deepcopy(module).eval().to(device)
        network = parse(spec.architecture)
        self.device = device
        self.preprocessing = spec.preprocessing
        self._mean, self._std = (
            torch.tensor(values, device=device)[:, None, None]
            for values in (self.preprocessing.mean, self.preprocessing.std)
        )
        self._uploads = Uploads(device)
        self._busy = threading.Lock()
        # cuDNN's plans are a thread's own, and a new thread takes a tenth of a second to find them again.
        self._thread = ThreadPoolExecutor(1, "masklake-engine") if device.type == "cuda" else None
        self._exact = precision == "exact"

        kernels = device.type == "cuda" and not self._exact and agree(device)

        detector = module.detector if isinstance(module, ComposedRCNN) else module
        if limits.proposals is not None and isinstance(detector, FasterRCNN):
            detector.rpn._post_nms_top_n["testing"] = limits.proposals

        def ready(part: FasterRCNN, number: int = 0) -> Parts:
            if precision == "exact":
                return ExactParts(part)
            return FastParts(
                part,
                getattr(torch, fastest(device) if precision == int8.INT8 else precision),
                kernels=kernels,
                observed=None if observed is None else observed[number],
                bytes_by=None
                if calibration is None
                else (calibration.of_network(number), calibration.levels),
            )

        if isinstance(module, ComposedRCNN) and isinstance(network, Composed):
            heads = module.detector.roi_heads
            self.detector, self.keypoint_parts = ready(module.detector), ready(module.joints, 1)
            self.n_keypoints = module.joints.roi_heads.keypoint_predictor.out_channels
            labels = output_labels(network.detector, spec)
        elif isinstance(module, FasterRCNN) and not isinstance(network, Composed):
            heads = module.roi_heads
            self.detector = self.keypoint_parts = ready(module)
            self.n_keypoints = heads.keypoint_predictor.out_channels if heads.has_keypoint() else 0
            labels = output_labels(network, spec)
        else:
            raise ModelError(f"model {spec.name!r}: the module is not of the family that the spec names")
        self.box_coder = heads.box_coder
        self.rule = Rule(
            min_score=limits.score_threshold, threshold=heads.nms_thresh, most=limits.max_detections
        )
        # torchvision's NMS looks at the boxes of all classes, and rounds by the farthest of them; exact does too.
        considered = [
            (output, label)
            for output, label in enumerate(labels)
            if label in limits.labels or (precision == "exact" and output > 0)
        ]
        self.outputs_K = torch.tensor([output for output, _ in considered], device=device)
        self.labels_K = torch.tensor([label or 0 for _, label in considered], device=device)
        selected_K = torch.tensor([label in limits.labels for _, label in considered], device=device)
        with_keypoints = {c.id for c in spec.classes if c.keypoints}
        self.has_keypoints_K = np.asarray([label in with_keypoints for _, label in considered])
        self.surely = TrueCounts(self.outputs_K, None if bool(selected_K.all()) else selected_K)
        self.selection: Selection = self.surely
        if device.type == "cuda" and not self._exact:
            self.selection = FixedShapes(kernels=kernels)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that an image is resized to, as torchvision's _resize_image_and_masks; at least 1."""
        scale = min(
            self.preprocessing.min_size / min(height, width), self.preprocessing.max_size / max(height, width)
        )
        return max(1, int(height * scale)), max(1, int(width * scale))

    def run(
        self, images: Sequence[NDArray[np.uint8]], frames: Sequence[tuple[int, int]], as_rle: bool = False
    ) -> list[Detections | NotFinite]:
        """Detections of RGB images (H, W, 3) that are padded to one shape, in the pixels of their frames.

        as_rle: masks come as RLE of the frame instead of probabilities.
        Several threads may call it: one computes at a time; the others send their images to the device meanwhile, or make
        detections of results that have come back.
        """
        sent = self._uploads.send(images)
        results = (
            self._compute(sent) if self._thread is None else self._thread.submit(self._compute, sent).result()
        )
        return results.detections(frames, as_rle)

    def _compute(self, sent: Sent) -> Results:
        # `exact` follows the settings of the process, as torchvision does; threads share them
        with self._busy, torch.inference_mode(), nullcontext() if self._exact else full_float32():
            return self._results(sent)

    def _results(self, sent: Sent) -> Results:
        batch = self._preprocess(sent)
        finite: dict[str, Tensor] = {}  # (N,) each
        features = self.detector.backbone(batch.tensors)
        finite["feature maps"] = self._finite_maps(features)
        try:
            detected = self._detect(features, batch, finite, self.selection)
        except UnsettledError:
            detected = self._detect(features, batch, finite, self.surely)
        masks = self._masks(features, detected, batch, finite)
        keypoints = self._keypoints(features, detected, batch, finite)
        finite_NS = torch.stack(list(finite.values()), 1)
        some = [values for values in (masks, keypoints) if values is not None]
        labels_R = self.labels_K[detected.kinds].to(torch.int32)
        return Results(
            arrival=Arrival(finite_NS, detected.rois.boxes, labels_R, detected.scores, *some),
            checked=list(finite),
            counts=detected.rois.counts,
            sizes=batch.image_sizes,
            has_masks=masks is not None,
            has_keypoints=keypoints is not None,
        )

    def _preprocess(self, sent: Sent) -> ImageList:
        sizes = [self.resized(*size) for size in sent.sizes]
        height, width = padded(sizes[0])
        batch_NCHW = torch.zeros(len(sizes), 3, height, width, device=self.device)
        for part_NCHW, members in sent.parts():
            h, w = sizes[members[0]]
            normal_NCHW = (part_NCHW.float() / 255 - self._mean) / self._std
            resized_NCHW = F.interpolate(normal_NCHW, (h, w), mode="bilinear", align_corners=False)
            if len(members) == len(sizes):
                batch_NCHW[:, :, :h, :w] = resized_NCHW
                continue
            for image_CHW, index in zip(resized_NCHW, members, strict=True):
                batch_NCHW[index, :, :h, :w] = image_CHW
        batch_NCHW = batch_NCHW.to(self.detector.dtype).contiguous(memory_format=self.detector.memory_format)
        return ImageList(batch_NCHW, sizes)

    def _detect(
        self, features: Features, batch: ImageList, finite: dict[str, Tensor], selection: Selection
    ) -> Detected:
        """RoIHeads.postprocess_detections, with scores and classes selected before boxes are decoded."""
        rois, finite["proposals"] = self.detector.propose(features, batch, selection)
        logits_RC, deltas_RC4 = self.detector.classify(features, rois, batch)
        finite["class scores or boxes"] = of_images(all_finite([logits_RC, deltas_RC4]), rois)
        scores_RK = logits_RC.softmax(-1)[:, self.outputs_K]
        deltas_RC4 = deltas_RC4.unflatten(1, (-1, 4))
        corner_N4 = corners(batch.image_sizes, self.device)

        def decode(r: Tensor, k: Tensor) -> Tensor:
            boxes = decode_box(self.box_coder, deltas_RC4[r, self.outputs_K[k]], rois.boxes[r])
            return clipped(boxes, corner_N4[rois.image[r]])

        return selection.detections(rois, scores_RK, decode, self.rule)

    def _masks(
        self, features: Features, detected: Detected, batch: ImageList, finite: dict[str, Tensor]
    ) -> Tensor | None:
        """(R, M, M) mask probabilities: maskrcnn_inference, of the class of each box only."""
        if not self.detector.has_masks:
            return None
        probs_RMM, finite_R = self.detector.masks(
            features, detected.rois, batch, self.outputs_K[detected.kinds]
        )
        finite["masks"] = of_images(finite_R, detected.rois)
        return probs_RMM

    def _keypoints(
        self, features: Features, detected: Detected, batch: ImageList, finite: dict[str, Tensor]
    ) -> Tensor | None:
        """(R, K, 3) keypoints, pixels of the resized image; NaN for classes without keypoints."""
        if not self.keypoint_parts.has_keypoints:
            return None
        keypoints_RK3 = torch.full((len(detected.scores), self.n_keypoints, 3), torch.nan, device=self.device)
        rows_on_host = np.flatnonzero(self.has_keypoints_K[detected.kinds_on_host])
        image_R = np.repeat(np.arange(len(detected.rois.counts)), detected.rois.counts)[rows_on_host]
        counts = np.bincount(image_R, minlength=len(detected.rois.counts))
        some = np.flatnonzero(counts)
        if not len(some):
            return keypoints_RK3
        if len(some) < len(counts):
            some_N = to_device(some, self.device)
            batch = ImageList(batch.tensors[some_N], [batch.image_sizes[n] for n in some])
        if self.keypoint_parts is not self.detector:
            features = self.keypoint_parts.backbone(batch.tensors)
        elif len(some) < len(counts):
            features = {name: level_NCHW[some_N] for name, level_NCHW in features.items()}
        rows_R = to_device(rows_on_host, self.device)
        counts_some = counts[some].tolist()
        rois = Rois(detected.rois.boxes[rows_R], image_of_each(counts_some, self.device), counts_some)
        places_RK3 = self.keypoint_parts.keypoints(features, rois, batch)
        keypoints_RK3[rows_R] = places_RK3
        whole = replace(rois, image=detected.rois.image[rows_R], counts=counts.tolist())
        finite["keypoints"] = of_images(all_finite([places_RK3]), whole)
        if self.keypoint_parts is not self.detector:
            finite["keypoints"][to_device(some, self.device)] &= self._finite_maps(features)
        return keypoints_RK3

    def _finite_maps(self, features: Features) -> Tensor:
        if self.detector.dtype == torch.bfloat16:  # its range is float32's, and its sums are slow on CPUs
            first = next(iter(features.values()))
            return torch.ones(len(first), dtype=torch.bool, device=self.device)
        return all_finite(features.values())


def padded(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width with the padding that torchvision's batch_images adds."""
    return -(-size[0] // _DIVISIBLE) * _DIVISIBLE, -(-size[1] // _DIVISIBLE) * _DIVISIBLE
