"""The learned parts of one R-CNN, ready for inference: backbone, proposals, heads. Two ways to run the same weights.

`ExactParts` does torchvision's operations one for one; `FastParts` gives the same within rounding in a fraction of
the time. `model.engine.inference` puts the parts together.

Shapes: N images, R RoIs, C and O channels, P cells of a grid, M cells a side of a mask, K classes or keypoints.
"""

from collections.abc import Callable
from itertools import chain
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from masklake.model.engine import fused_cpu, fused_gpu, int8
from masklake.model.engine.finite import all_finite
from masklake.model.engine.fold import fold_norms
from masklake.model.engine.fuse import fuse, with_bias
from masklake.model.engine.keypoints import place_keypoints
from masklake.model.engine.roi_pool import RoiPool
from masklake.model.engine.rois import Rois
from masklake.model.engine.rpn import Proposer, SparseConv
from masklake.model.engine.select import Selection
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import heatmaps_to_keypoints
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import MultiScaleRoIAlign

Features = dict[str, Tensor]
"""(N, C, H, W) by pyramid level, finest first."""


class Parts(Protocol):
    """What `model.engine.inference` runs."""

    dtype: torch.dtype
    memory_format: torch.memory_format
    has_masks: bool
    has_keypoints: bool

    def backbone(self, images_NCHW: Tensor) -> Features:
        """The feature pyramid of normalised images."""

    def propose(self, features: Features, batch: ImageList, selection: Selection) -> tuple[Rois, Tensor]:
        """Proposals, float32; (N,) whether what they were made of is finite."""

    def classify(self, features: Features, rois: Rois, batch: ImageList) -> tuple[Tensor, Tensor]:
        """(R, K) class logits and (R, K * 4) box deltas, float32."""

    def masks(
        self, features: Features, rois: Rois, batch: ImageList, output_R: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(R, M, M) float32 mask probabilities of the output that `output_R` names for each RoI; (R,) whether their logits
        are finite."""

    def keypoints(self, features: Features, rois: Rois, batch: ImageList) -> Tensor:
        """(R, K, 3) float32 x, y in pixels of the resized image, and the heat-map logit there, which is not finite where
        the heat map is not."""


class ExactParts:
    """torchvision's modules as they are: the same results to the last bit."""

    dtype = torch.float32
    memory_format = torch.contiguous_format

    def __init__(self, model: FasterRCNN) -> None:
        self._model, self._heads = model, model.roi_heads
        self.has_masks, self.has_keypoints = self._heads.has_mask(), self._heads.has_keypoint()

    def backbone(self, images_NCHW: Tensor) -> Features:
        return dict(self._model.backbone(images_NCHW))

    def propose(self, features: Features, batch: ImageList, selection: Selection) -> tuple[Rois, Tensor]:
        outputs: list[Tensor] = []
        hook = self._model.rpn.head.register_forward_hook(lambda *args: outputs.extend(chain(*args[2])))
        try:
            proposals = list(self._model.rpn(batch, features)[0])
        finally:
            hook.remove()
        return Rois.of_images(proposals), all_finite(outputs)

    def classify(self, features: Features, rois: Rois, batch: ImageList) -> tuple[Tensor, Tensor]:
        x = self._heads.box_head(self._heads.box_roi_pool(features, rois.by_image(), batch.image_sizes))
        logits, deltas = self._heads.box_predictor(x)
        return logits, deltas

    def masks(
        self, features: Features, rois: Rois, batch: ImageList, output_R: Tensor
    ) -> tuple[Tensor, Tensor]:
        x = self._heads.mask_head(self._heads.mask_roi_pool(features, rois.by_image(), batch.image_sizes))
        logits_ROMM = self._heads.mask_predictor(x)
        r = torch.arange(len(output_R), device=output_R.device)
        return logits_ROMM.sigmoid()[r, output_R], all_finite([logits_ROMM[r, output_R]])

    def keypoints(self, features: Features, rois: Rois, batch: ImageList) -> Tensor:
        x = self._heads.keypoint_head(
            self._heads.keypoint_roi_pool(features, rois.by_image(), batch.image_sizes)
        )
        places_RK3, logits_RK = heatmaps_to_keypoints(self._heads.keypoint_predictor(x), rois.boxes)
        places_RK3[..., 2] = logits_RK
        return places_RK3


class FastParts:
    """Norms folded, channels last, one pass a convolution, RoIAlign by rows; convolutions and wide layers in `dtype`.

    The layers that decide scores, boxes and keypoints stay in float32 whatever `dtype` is: they cost little.
    """

    memory_format = torch.channels_last

    def __init__(
        self,
        model: FasterRCNN,
        dtype: torch.dtype,
        *,
        kernels: bool = False,
        observed: int8.Ranges | None = None,
        bytes_by: tuple[int8.Ranges, int] | None = None,
    ) -> None:
        """`model` is changed; it is on its device. kernels: see RoiPool.

        observed: is widened to the values that the parts' tensors have. bytes_by: such ranges, and the levels of weights, by which
        convolutions compute in 8 bits.
        """
        self.dtype, self._kernels = dtype, kernels
        self._observed, self._bytes_by = observed, bytes_by
        fold_norms(model)
        heads = model.roi_heads
        self.on_gpu = next(model.parameters()).is_cuda
        # Fused activations turn NaN into 0, so that nobody would see that a network has overflowed.
        self._fused = (
            (fused_gpu if self.on_gpu else fused_cpu).supported(dtype)
            and dtype != torch.float16
            and not _overflows(model)
        )
        self.has_masks, self.has_keypoints = heads.has_mask(), heads.has_keypoint()
        self._backbone = self._prepared("backbone", model.backbone)
        if model.rpn is not None:
            self._proposer = self._prepared_proposer(model.rpn)
            self._box_pool, self._box_head = (
                self._pool(heads.box_roi_pool),
                self._prepared("box_head", heads.box_head),
            )
            self._box_predictor = heads.box_predictor
        if self.has_masks:
            self._mask_pool, self._mask_head = (
                self._pool(heads.mask_roi_pool),
                self._prepared("mask_head", heads.mask_head),
            )
            up, last = heads.mask_predictor.conv5_mask, heads.mask_predictor.mask_fcn_logits
            # A 2 x 2 transposed convolution of stride 2 is one linear layer for each of the four cells it makes.
            self._up_weight_4OC = up.weight.detach().permute(2, 3, 1, 0).flatten(0, 2).to(dtype)
            self._up_bias_4O = up.bias.detach().repeat(4).to(dtype)
            self._mask_weight_KO = last.weight.detach()[:, :, 0, 0].to(dtype)
            self._mask_bias_K = last.bias.detach().float()
        if self.has_keypoints:
            self._keypoint_pool, self._keypoint_head = (
                self._pool(heads.keypoint_roi_pool),
                self._prepared("keypoint_head", heads.keypoint_head),
            )
            self._keypoint_predictor = heads.keypoint_predictor

    def backbone(self, images_NCHW: Tensor) -> Features:
        return dict(self._backbone(images_NCHW))

    def _pool(self, pool: MultiScaleRoIAlign) -> RoiPool:
        return RoiPool(pool, at_once=self.on_gpu, kernels=self._kernels)

    def _prepared(self, part: str, module: nn.Module) -> Callable[..., Any]:
        precise = self._fused and not self.on_gpu
        layers = [layer for layer in module.modules() if precise and with_bias(layer)]
        biases = [layer.get_parameter("bias").detach() for layer in layers]
        module = module.to(self.dtype).to(memory_format=torch.channels_last)
        # Biases in float32 cost nothing; a rounded bias is wrong by the same amount in every pixel.
        for layer, bias in zip(layers, biases, strict=True):
            layer.register_parameter("bias", nn.Parameter(bias, requires_grad=False))
        if not self._fused:
            return module
        fused = fuse(module, fused_gpu.layer if self.on_gpu else fused_cpu.layer)
        if self._observed is not None:
            return int8.Observer(fused, self._observed, part)
        if self._bytes_by is not None and any(name.startswith(f"{part}.") for name in self._bytes_by[0]):
            return int8.quantised(fused, part, *self._bytes_by)
        return fused

    def _prepared_proposer(self, rpn: RegionProposalNetwork) -> Proposer:
        convs = list(rpn.head.conv)
        last = next(m for m in convs[-1].modules() if isinstance(m, nn.Conv2d))
        precise = None if self.dtype == torch.float32 else SparseConv(last, once=not self.on_gpu)
        return Proposer(rpn, [self._prepared(f"rpn_{i}", layer) for i, layer in enumerate(convs)], precise)

    def propose(self, features: Features, batch: ImageList, selection: Selection) -> tuple[Rois, Tensor]:
        return self._proposer(features, batch, selection)

    def classify(self, features: Features, rois: Rois, batch: ImageList) -> tuple[Tensor, Tensor]:
        x = self._box_head(self._box_pool(features, rois))
        logits, deltas = self._box_predictor(x.float())
        return logits, deltas

    def masks(
        self, features: Features, rois: Rois, batch: ImageList, output_R: Tensor
    ) -> tuple[Tensor, Tensor]:
        x_RCHW = self._mask_head(self._mask_pool(features, rois))
        side = x_RCHW.shape[-1]
        x_RPC = x_RCHW.permute(0, 2, 3, 1).flatten(1, 2)
        up_RQO = (
            F.linear(x_RPC, self._up_weight_4OC, self._up_bias_4O).relu_().unflatten(2, (4, -1)).flatten(1, 2)
        )
        logits_RQ = torch.bmm(up_RQO, self._mask_weight_KO[output_R, :, None])[..., 0].float()
        logits_RQ += self._mask_bias_K[output_R, None]
        probs_RMM = logits_RQ.sigmoid().view(-1, side, side, 2, 2).transpose(2, 3)
        return probs_RMM.reshape(-1, 2 * side, 2 * side), all_finite([logits_RQ])

    def keypoints(self, features: Features, rois: Rois, batch: ImageList) -> Tensor:
        x = self._keypoint_head(self._keypoint_pool(features, rois))
        return place_keypoints(self._keypoint_predictor(x.float()), rois.boxes, settle=not self.on_gpu)


@torch.no_grad()
def _overflows(model: FasterRCNN) -> bool:
    """Whether an ordinary picture, a small one, brings the network beyond the range of float32."""
    device = next(model.parameters()).device
    features = model.backbone(torch.rand(1, 3, 128, 128, generator=torch.Generator()).to(device))
    heads = model.roi_heads
    outputs = list(features.values())
    if model.rpn is not None:
        outputs += chain(*model.rpn.head(outputs[:1]))
    for kind in ("box", "mask", "keypoint"):
        pool = getattr(heads, f"{kind}_roi_pool", None)
        if pool is not None:
            cells = pool.output_size[0]
            cut = F.interpolate(outputs[0], (cells, cells))
            outputs.append(getattr(heads, f"{kind}_predictor")(getattr(heads, f"{kind}_head")(cut)))
    flat = [tensor for part in outputs for tensor in (part if isinstance(part, tuple) else (part,))]
    return not bool(all_finite(flat).all())
