"""The learned parts of one R-CNN, ready for inference: backbone, proposals, heads. Two ways to run the same weights.

`ExactParts` does torchvision's operations one for one; `FastParts` gives the same within rounding in a fraction of
the time. `model.engine.inference` puts the parts together.

Shapes: N images, R RoIs, C and O channels, P cells of a grid, M cells a side of a mask, K classes or joints.
"""

from collections.abc import Callable
from itertools import chain
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from masklake.model.engine.finite import all_finite
from masklake.model.engine.fold import fold_norms
from masklake.model.engine.fuse import fuse, supported, with_bias
from masklake.model.engine.keypoints import place_joints
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
    has_joints: bool

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

    def joints(self, features: Features, rois: Rois, batch: ImageList) -> Tensor:
        """(R, K, 3) float32 x, y in pixels of the resized image, and the heat-map logit there, which is not finite where
        the heat map is not."""


class ExactParts:
    """torchvision's modules as they are: the same results to the last bit."""

    dtype = torch.float32
    memory_format = torch.contiguous_format

    def __init__(self, model: FasterRCNN) -> None:
        self._model, self._heads = model, model.roi_heads
        self.has_masks, self.has_joints = self._heads.has_mask(), self._heads.has_keypoint()

    def backbone(self, images_NCHW: Tensor) -> Features:
        return dict(self._model.backbone(images_NCHW))

    def propose(self, features: Features, batch: ImageList, selection: Selection) -> tuple[Rois, Tensor]:
        made: list[Tensor] = []
        hook = self._model.rpn.head.register_forward_hook(lambda *args: made.extend(chain(*args[2])))
        try:
            proposals = list(self._model.rpn(batch, features)[0])
        finally:
            hook.remove()
        return Rois.of_images(proposals), all_finite(made)

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

    def joints(self, features: Features, rois: Rois, batch: ImageList) -> Tensor:
        x = self._heads.keypoint_head(
            self._heads.keypoint_roi_pool(features, rois.by_image(), batch.image_sizes)
        )
        places_RK3, logits_RK = heatmaps_to_keypoints(self._heads.keypoint_predictor(x), rois.boxes)
        places_RK3[..., 2] = logits_RK
        return places_RK3


class FastParts:
    """Norms folded, channels last, one pass a convolution, RoIAlign by rows; convolutions and wide layers in `dtype`.

    The layers that decide scores, boxes and joints' places stay in float32 whatever `dtype` is: they cost little.
    """

    memory_format = torch.channels_last

    def __init__(self, model: FasterRCNN, dtype: torch.dtype) -> None:
        """`model` is changed; it is on its device."""
        self.dtype = dtype
        fold_norms(model)
        heads = model.roi_heads
        self.on_gpu = next(model.parameters()).is_cuda
        # Activations of oneDNN make 0 of NaN: nothing would show that a network has overflowed.
        self._fused = (
            not self.on_gpu and dtype != torch.float16 and supported(dtype) and not _overflows(model)
        )
        self.has_masks, self.has_joints = heads.has_mask(), heads.has_keypoint()
        self._backbone = self._made(model.backbone)
        if model.rpn is not None:
            self._proposer = self._made_proposer(model.rpn)
            self._box_pool, self._box_head = self._pool(heads.box_roi_pool), self._made(heads.box_head)
            self._box_predictor = heads.box_predictor
        if self.has_masks:
            self._mask_pool, self._mask_head = self._pool(heads.mask_roi_pool), self._made(heads.mask_head)
            up, last = heads.mask_predictor.conv5_mask, heads.mask_predictor.mask_fcn_logits
            # A 2 x 2 transposed convolution of stride 2 is one linear layer for each of the four cells it makes.
            self._up_weight_4OC = up.weight.detach().permute(2, 3, 1, 0).flatten(0, 2).to(dtype)
            self._up_bias_4O = up.bias.detach().repeat(4).to(dtype)
            self._mask_weight_KO = last.weight.detach()[:, :, 0, 0].to(dtype)
            self._mask_bias_K = last.bias.detach().float()
        if self.has_joints:
            self._joint_pool, self._joint_head = (
                self._pool(heads.keypoint_roi_pool),
                self._made(heads.keypoint_head),
            )
            self._joint_predictor = heads.keypoint_predictor

    def backbone(self, images_NCHW: Tensor) -> Features:
        return dict(self._backbone(images_NCHW))

    def _pool(self, pool: MultiScaleRoIAlign) -> RoiPool:
        return RoiPool(pool, at_once=self.on_gpu)

    def _made(self, module: nn.Module) -> Callable[..., Any]:
        layers = [one for one in module.modules() if self._fused and with_bias(one)]
        biases = [layer.get_parameter("bias").detach() for layer in layers]
        module = module.to(self.dtype).to(memory_format=torch.channels_last)
        # In float32 they cost nothing, and a rounded one errs the same way in every pixel.
        for layer, bias in zip(layers, biases, strict=True):
            layer.register_parameter("bias", nn.Parameter(bias, requires_grad=False))
        return fuse(module) if self._fused else module

    def _made_proposer(self, rpn: RegionProposalNetwork) -> Proposer:
        convs = list(rpn.head.conv)
        last = next(m for m in convs[-1].modules() if isinstance(m, nn.Conv2d))
        again = None if self.dtype == torch.float32 else SparseConv(last, once=not self.on_gpu)
        return Proposer(rpn, [self._made(one) for one in convs], again)

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

    def joints(self, features: Features, rois: Rois, batch: ImageList) -> Tensor:
        x = self._joint_head(self._joint_pool(features, rois))
        return place_joints(self._joint_predictor(x.float()), rois.boxes, settle=not self.on_gpu)


@torch.no_grad()
def _overflows(model: FasterRCNN) -> bool:
    """Whether an ordinary picture, a small one, brings the network beyond the range of float32."""
    features = model.backbone(torch.rand(1, 3, 128, 128, generator=torch.Generator()))
    heads = model.roi_heads
    made = list(features.values())
    if model.rpn is not None:
        made += chain(*model.rpn.head(made[:1]))
    for kind in ("box", "mask", "keypoint"):
        pool = getattr(heads, f"{kind}_roi_pool", None)
        if pool is not None:
            cells = pool.output_size[0]
            cut = F.interpolate(made[0], (cells, cells))
            made.append(getattr(heads, f"{kind}_predictor")(getattr(heads, f"{kind}_head")(cut)))
    flat = [one for part in made for one in (part if isinstance(part, tuple) else (part,))]
    return not bool(all_finite(flat).all())
