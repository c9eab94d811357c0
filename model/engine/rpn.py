"""Region proposals (Faster R-CNN, section 3.1): torchvision's rpn.py, with boxes decoded only where they can be chosen.

torchvision decodes the boxes of all anchors, a quarter of a million in a photo, and then keeps the best thousand of
each pyramid level. Here the best are chosen first, and the box layer runs on them alone. Where the layers run in less than
float32, those that may be among the best are computed again in float32, from the last convolution on.

Shapes: N images, A anchors a position, C channels, T positions kept of a level.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from masklake.model.engine.box_deltas import decode
from masklake.model.engine.finite import all_finite
from masklake.model.engine.rois import Rois, to_device
from masklake.model.engine.select import Rule, Selection
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork

_SPARE = 1.25
"""How many times the wanted number are computed again in float32, where the layers run in less."""


class Proposer:
    """A RegionProposalNetwork in evaluation mode, made ready.

    convolve: its 3 x 3 convolutions in their order, each with its activation, (N, C, H, W) in and out, in the features' dtype.
    again: the last of them once more, in float32, where they run in less.
    """

    def __init__(
        self,
        rpn: RegionProposalNetwork,
        convolve: Sequence[Callable[[Tensor], Tensor]],
        again: "SparseConv | None" = None,
    ) -> None:
        self._rpn, self._convolve, self._again = rpn, convolve, again
        self._objectness, self._boxes = _rows(rpn.head.cls_logits), _rows(rpn.head.bbox_pred)
        self._rough: dict[torch.dtype, tuple[Tensor, Tensor]] = {}
        device = self._objectness[0].device
        self._cells = [cell_A4.to(device) for cell_A4 in rpn.anchor_generator.cell_anchors]
        self._rule = Rule(
            min_side=rpn.min_size,
            min_score=rpn.score_thresh,
            threshold=rpn.nms_thresh,
            most=rpn.post_nms_top_n(),
        )

    def __call__(
        self, features: dict[str, Tensor], batch: ImageList, selection: Selection
    ) -> tuple[Rois, Tensor]:
        """Float32 proposals, each image's best first.

        And (N,) whether the values that they were chosen and made of are finite: those that are not come first in the
        choice, and give no proposal.
        """
        boxes, scores, finite = [], [], []
        padded = batch.tensors.shape[-2:]
        for feature_NCHW, cell_A4 in zip(features.values(), self._cells, strict=True):
            before_NCHW = feature_NCHW
            for convolve in self._convolve[:-1]:
                before_NCHW = convolve(before_NCHW)
            boxes_NT4, logits_NT, finite_N = self._best(before_NCHW, cell_A4, padded)
            boxes.append(boxes_NT4)
            finite.append(finite_N)
            scores.append(logits_NT.sigmoid())
        boxes_NT4 = clipped(torch.cat(boxes, 1), corners(batch.image_sizes, boxes[0].device)[:, None])
        levels = [scores_NT.shape[1] for scores_NT in scores]
        proposals = selection.proposals(boxes_NT4, torch.cat(scores, 1), levels, self._rule)
        return proposals, torch.stack(finite).all(0)

    def _best(
        self, before_NCHW: Tensor, cell_A4: Tensor, padded: torch.Size
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(N, T, 4) boxes and (N, T) objectness logits of the best of one level, best first, float32; (N,) whether all that
        they were made of is finite."""
        hidden_NCHW = self._convolve[-1](before_NCHW)
        height, width = hidden_NCHW.shape[2:]
        hidden_NPC = hidden_NCHW.permute(0, 2, 3, 1).flatten(1, 2)
        a = len(cell_A4)
        logits_NQ = self._dense_objectness(hidden_NCHW).permute(0, 2, 3, 1).flatten(1)  # Q = H W A
        most = min(self._rpn.pre_nms_top_n(), logits_NQ.shape[1])
        if self._again is None:
            logits_NT, q_NT = logits_NQ.topk(most, 1)
            rows_NTC = _take(hidden_NPC, q_NT // a)
        else:
            q_NS = logits_NQ.topk(min(int(_SPARE * most), logits_NQ.shape[1]), 1).indices
            rows_NSC = self._again(before_NCHW, q_NS // a)
            logits_NS = F.linear(rows_NSC, *self._objectness).gather(2, (q_NS % a)[..., None])[..., 0]
            logits_NT, s_NT = logits_NS.topk(most, 1)
            q_NT, rows_NTC = q_NS.gather(1, s_NT), _take(rows_NSC, s_NT)
        position_NT, anchor_NT = q_NT // a, q_NT % a
        deltas_NTA4 = F.linear(rows_NTC, *self._boxes).unflatten(2, (a, 4))
        deltas_NT4 = deltas_NTA4.gather(2, anchor_NT[..., None, None].expand(-1, -1, 1, 4))[:, :, 0]
        y, x = position_NT // width * (padded[0] // height), position_NT % width * (padded[1] // width)
        anchors_NT4 = torch.stack([x, y, x, y], -1) + cell_A4[anchor_NT]
        decoded = decode(self._rpn.box_coder, deltas_NT4.reshape(-1, 4), anchors_NT4.reshape(-1, 4))
        # Rough logits too: where they are not finite others were chosen than would have been.
        finite_N = all_finite([logits_NQ, logits_NT, deltas_NT4])
        return decoded.view(*q_NT.shape, 4), logits_NT, finite_N

    def _dense_objectness(self, hidden_NCHW: Tensor) -> Tensor:
        if hidden_NCHW.dtype not in self._rough:
            weight, bias = (t.to(hidden_NCHW.dtype) for t in self._objectness)
            self._rough[hidden_NCHW.dtype] = weight[:, :, None, None], bias
        return F.conv2d(hidden_NCHW, *self._rough[hidden_NCHW.dtype])


class SparseConv:
    """A 3 x 3 convolution of stride 1 and its ReLU in float32, at some positions only. `conv` is copied.

    once: a position that is asked for several times, as it has several anchors, is computed once; a GPU would make the host
        wait for how many there are.
    """

    def __init__(self, conv: nn.Conv2d, *, once: bool = True) -> None:
        self.once = once
        self._weight_OK = conv.weight.detach().permute(0, 2, 3, 1).flatten(1).float().clone()  # K = 9 C
        self._bias_O = _bias(conv).clone()
        self._parts_KO: list[Tensor] = []
        if self._weight_OK.is_cuda:
            rounded_OK = self._weight_OK.bfloat16()
            rest_OK = (self._weight_OK - rounded_OK.float()).bfloat16()
            self._parts_KO = [rounded_OK.T, rest_OK.T]

    def __call__(self, x_NCHW: Tensor, position_NS: Tensor) -> Tensor:
        """(N, S, O) float32 at positions y * W + x of each image."""
        n, _, height, width = x_NCHW.shape
        flat_U = position_NS + torch.arange(n, device=x_NCHW.device)[:, None] * (height * width)
        inverse_NS: Tensor | None = None
        if self.once:
            flat_U, inverse_NS = torch.unique(flat_U, return_inverse=True)
        flat_U = flat_U.flatten()
        image_U, position_U = flat_U // (height * width), flat_U % (height * width)
        step = torch.arange(-1, 2, device=x_NCHW.device)
        y_U3, x_U3 = (position_U // width)[:, None] + step, (position_U % width)[:, None] + step
        inside_U33 = ((y_U3 >= 0) & (y_U3 < height))[:, :, None] & ((x_U3 >= 0) & (x_U3 < width))[:, None]
        y_U3, x_U3 = y_U3.clamp(0, height - 1), x_U3.clamp(0, width - 1)
        place_U33 = image_U[:, None, None] * (height * width) + y_U3[:, :, None] * width + x_U3[:, None]
        rows_PC = x_NCHW.permute(0, 2, 3, 1).flatten(0, 2)
        patch_UKC = rows_PC[place_U33.flatten(1)] * inside_U33.flatten(1)[..., None]
        values_UO = self._product(patch_UKC.flatten(1)).relu_()
        return values_UO.view(n, -1, values_UO.shape[1]) if inverse_NS is None else values_UO[inverse_NS]

    def _product(self, patch_UK: Tensor) -> Tensor:
        """(U, O) float32. A GPU is ten times as fast in bfloat16: weights in two such parts have 16 bits, and their products
        with values of 8 bits are summed in float32."""
        if patch_UK.dtype == torch.bfloat16 and self._parts_KO:
            first_UO, rest_UO = (torch.mm(patch_UK, part, out_dtype=torch.float32) for part in self._parts_KO)
            return first_UO.add_(rest_UO).add_(self._bias_O)
        return F.linear(patch_UK.float(), self._weight_OK, self._bias_O)


def _rows(conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """The float32 weight (outputs, C) and bias of a 1 x 1 convolution, for rows of features."""
    return conv.weight.detach().float()[:, :, 0, 0], _bias(conv)


def _bias(conv: nn.Conv2d) -> Tensor:
    """(outputs,) float32, on the weight's device."""
    bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()
    return bias.float().to(conv.weight.device)


def _take(values_NPC: Tensor, position_NT: Tensor) -> Tensor:
    """(N, T, C): rows of each image."""
    n, p = values_NPC.shape[:2]
    first_N1 = torch.arange(n, device=position_NT.device)[:, None] * p
    return values_NPC.reshape(n * p, -1)[position_NT + first_N1]


def corners(sizes: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """(N, 4) float32: width, height, width, height of images of these heights and widths."""
    return to_device(np.asarray([(w, h, w, h) for h, w in sizes], np.float32), device)


def clipped(boxes: Tensor, corner: Tensor) -> Tensor:
    """Boxes (..., 4) clipped to images with these lower right corners (..., 4): torchvision's clip_boxes_to_image."""
    return boxes.clamp(min=0).minimum(corner)
