"""The losses of Faster, Mask and Keypoint R-CNN, as torchvision's, computed only where they are not zero by definition.

Ren et al. 2015 (sections 3.1.2, 3.2), He et al. 2017 (section 3). What is done otherwise than in torchvision:
- boxes of the first stage are decoded only for the best anchors of a level, not for all;
- RoIs are pooled by `model.engine.roi_pool`;
- the mask head sees only RoIs whose instance has a mask, the keypoint head only those with a labelled keypoint inside:
  the others add nothing to the losses. So an image without keypoint labels has no keypoint loss, and costs none;
- masks are crops, not frames;
- what lies in a crowd is neither background nor an instance;
- background of an image that was not searched for a class (LVIS) says nothing of that class. The first stage, which
  knows no classes, takes it for background all the same.

Shapes: N images, A anchors of an image, T proposals, R RoIs, G instances, K keypoints, M cells a side of a mask.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from masklake.model.engine.roi_pool import RoiPool
from masklake.model.engine.rois import Rois
from masklake.model.train.examples import Example
from masklake.model.train.recipe import Recipe
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import fastrcnn_loss, keypoints_to_heatmap
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import boxes as box_ops
from torchvision.ops import roi_align

_IN_CROWD = 0.5
"""If at least this share of a box lies in a crowd, the box is no background."""


class Losses(nn.Module):
    """A torchvision R-CNN with its losses as `forward`, so that DistributedDataParallel can wrap it."""

    def __init__(self, network: FasterRCNN, recipe: Recipe) -> None:
        super().__init__()
        self.network = network
        heads = network.roi_heads
        self._proposals = recipe.proposals
        self._anchors = recipe.anchors
        self._rois, self._positives = recipe.rois, recipe.positives
        self._pools = {
            kind: RoiPool(getattr(heads, f"{kind}_roi_pool"))
            for kind in ("box", "mask", "keypoint")
            if getattr(heads, f"{kind}_roi_pool", None) is not None
        }

    def forward(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """torchvision's losses by name, of which the optimiser takes the sum."""
        images = self._batched(examples)
        features = self.network.backbone(images.tensors)
        proposals, losses = self._first_stage(features, images, examples)
        # What is pooled is float32 rows: gradients of many RoIs add up in them.
        floats = {name: level.float() for name, level in features.items()}
        return losses | self._second_stage(floats, proposals, examples)

    def _batched(self, examples: Sequence[Example]) -> ImageList:
        """Images on the 0 to 1 scale, normalised, and padded to a multiple of 32 in both directions."""
        transform = self.network.transform
        device = next(self.network.parameters()).device
        sizes = [(example.image.shape[1], example.image.shape[2]) for example in examples]
        height, width = (math.ceil(max(side) / 32) * 32 for side in zip(*sizes, strict=True))
        batch = torch.zeros(len(examples), 3, height, width, device=device)
        batch = batch.to(memory_format=torch.channels_last)
        mean, std = (
            torch.tensor(v, device=device)[:, None, None] for v in (transform.image_mean, transform.image_std)
        )
        for slot, example, (h, w) in zip(batch, examples, sizes, strict=True):
            slot[:, :h, :w] = (example.image.to(device) / 255 - mean) / std
        return ImageList(batch, sizes)

    def _first_stage(
        self, features: dict[str, Tensor], images: ImageList, examples: Sequence[Example]
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Proposals of each image, (T, 4) xyxy, and the losses of objectness and of the anchors' boxes."""
        rpn = self.network.rpn
        levels = list(features.values())
        objectness, deltas = rpn.head(levels)
        objectness, deltas = [o.float() for o in objectness], [d.float() for d in deltas]
        anchors = rpn.anchor_generator(images, levels)
        per_level = [o[0].numel() for o in objectness]
        logits_A, deltas_A4 = concat_box_prediction_layers(objectness, deltas)
        n = len(examples)
        logits_NA, deltas_NA4 = logits_A.view(n, -1), deltas_A4.view(n, -1, 4)
        with torch.no_grad():
            proposals = [
                self._proposed(logits_NA[i], deltas_NA4[i], anchors[i], per_level, images.image_sizes[i])
                for i in range(n)
            ]
        objective, regression, sampled = [], [], 0
        for i, example in enumerate(examples):
            boxes_G4 = example.boxes.to(logits_A.device)
            matched_A, kinds_A = _matched(rpn.proposal_matcher, boxes_G4, anchors[i], example.crowds)
            chosen, positive = _sampled(kinds_A, self._anchors, 0.5)
            sampled += len(chosen)
            objective.append(
                F.binary_cross_entropy_with_logits(
                    logits_NA[i][chosen], (kinds_A[chosen] > 0).float(), reduction="sum"
                )
            )
            targets = rpn.box_coder.encode_single(boxes_G4[matched_A[positive]], anchors[i][positive])
            regression.append(F.smooth_l1_loss(deltas_NA4[i][positive], targets, beta=1 / 9, reduction="sum"))
        return proposals, {
            "loss_objectness": torch.stack(objective).sum() / max(1, sampled),
            "loss_rpn_box_reg": torch.stack(regression).sum() / max(1, sampled),
        }

    def _proposed(
        self,
        logits_A: Tensor,
        deltas_A4: Tensor,
        anchors_A4: Tensor,
        per_level: list[int],
        size: tuple[int, int],
    ) -> Tensor:
        """(T, 4) proposals of an image, as torchvision's filter_proposals keeps them."""
        rpn = self.network.rpn
        best, kinds, start = [], [], 0
        for level, length in enumerate(per_level):
            top = logits_A[start : start + length].topk(min(2 * self._proposals, length)).indices + start
            best.append(top)
            kinds.append(torch.full_like(top, level))
            start += length
        top, level_T = torch.cat(best), torch.cat(kinds)
        boxes_T4 = rpn.box_coder.decode_single(deltas_A4[top], anchors_A4[top])
        boxes_T4 = box_ops.clip_boxes_to_image(boxes_T4, size)
        keep = box_ops.remove_small_boxes(boxes_T4, rpn.min_size)
        boxes_T4, scores_T = boxes_T4[keep], logits_A[top[keep]].sigmoid()
        best_T = box_ops.batched_nms(boxes_T4, scores_T, level_T[keep], rpn.nms_thresh)
        return boxes_T4[best_T[: self._proposals]]

    def _second_stage(
        self, features: dict[str, Tensor], proposals: list[Tensor], examples: Sequence[Example]
    ) -> dict[str, Tensor]:
        heads = self.network.roi_heads
        rois, labels, targets, positives, matches, unsearched = [], [], [], [], [], []
        for proposals_T4, example in zip(proposals, examples, strict=True):
            boxes_G4 = example.boxes.to(proposals_T4.device)
            boxes_T4 = torch.cat([proposals_T4, boxes_G4])  # the truth is proposed too
            matched_T, kinds_T = _matched(heads.proposal_matcher, boxes_G4, boxes_T4, example.crowds)
            chosen, _ = _sampled(kinds_T, self._rois, self._positives)
            rois_R4, matched_R, positive_R = boxes_T4[chosen], matched_T[chosen], kinds_T[chosen] > 0
            outputs_R = torch.zeros_like(chosen)
            outputs_R[positive_R] = example.outputs.to(chosen.device)[matched_R[positive_R]]
            truth_R4 = boxes_G4[matched_R] if len(boxes_G4) else torch.zeros_like(rois_R4)
            rois.append(rois_R4)
            labels.append(outputs_R)
            targets.append(heads.box_coder.encode_single(truth_R4, rois_R4))
            positives.append(rois_R4[positive_R])
            matches.append(matched_R[positive_R])
            unsearched.append(example.unsearched.to(chosen.device))
        pooled = self._pools["box"](features, Rois.of_images(rois))
        logits, deltas = heads.box_predictor(heads.box_head(pooled))
        logits = _without(logits, labels, unsearched)
        if len(logits):
            classes, boxes = fastrcnn_loss(logits.float(), deltas.float(), labels, targets)
        else:  # crowds cover every image: there is neither an object nor background, and a mean over nothing is NaN
            classes, boxes = logits.sum() * 0.0, deltas.sum() * 0.0
        losses = {"loss_classifier": classes, "loss_box_reg": boxes}
        if "mask" in self._pools:
            losses["loss_mask"] = self._mask_loss(features, positives, matches, examples)
        if "keypoint" in self._pools:
            losses["loss_keypoint"] = self._keypoint_loss(features, positives, matches, examples)
        return losses

    def _mask_loss(
        self,
        features: dict[str, Tensor],
        rois: list[Tensor],
        matches: list[Tensor],
        examples: Sequence[Example],
    ) -> Tensor:
        heads = self.network.roi_heads
        has_mask = [
            torch.tensor([bool(example.crops[g].numel()) for g in matched.tolist()], dtype=torch.bool)
            for matched, example in zip(matches, examples, strict=True)
        ]
        boxes, instances, unused = _narrowed(rois, matches, has_mask)
        logits_RCMM = heads.mask_predictor(
            heads.mask_head(self._pools["mask"](features, Rois.of_images(boxes)))
        ).float()
        if unused:
            return logits_RCMM.sum() * 0
        truth, outputs = [], []
        for boxes_R4, matched_R, example in zip(boxes, instances, examples, strict=True):
            truth.append(_projected(boxes_R4, matched_R, example, logits_RCMM.shape[-1]))
            outputs.append(example.outputs.to(matched_R.device)[matched_R])
        chosen_RMM = logits_RCMM[torch.arange(len(logits_RCMM)), torch.cat(outputs)]
        return F.binary_cross_entropy_with_logits(chosen_RMM, torch.cat(truth))

    def _keypoint_loss(
        self,
        features: dict[str, Tensor],
        rois: list[Tensor],
        matches: list[Tensor],
        examples: Sequence[Example],
    ) -> Tensor:
        heads = self.network.roi_heads
        cells = 2 * 2 * heads.keypoint_roi_pool.output_size[0]
        keypoints = [e.keypoints.to(m.device)[m] for e, m in zip(examples, matches, strict=True)]
        # (cell of each keypoint, whether it counts) in each RoI
        located = [keypoints_to_heatmap(j, r, cells) for j, r in zip(keypoints, rois, strict=True)]
        boxes, _, unused = _narrowed(rois, matches, [valid.any(1).cpu() for _, valid in located])
        logits = heads.keypoint_predictor(
            heads.keypoint_head(self._pools["keypoint"](features, Rois.of_images(boxes))).contiguous()
        ).float()
        if unused:
            return logits.sum() * 0
        rows = [valid.any(1) for _, valid in located]
        cell_RK = torch.cat([cell[row] for (cell, _), row in zip(located, rows, strict=True)])
        valid_RK = torch.cat([valid[row] for (_, valid), row in zip(located, rows, strict=True)]).bool()
        return F.cross_entropy(logits.flatten(2)[valid_RK], cell_RK[valid_RK])


def _matched(matcher: Matcher, boxes_G4: Tensor, boxes_T4: Tensor, crowds: Tensor) -> tuple[Tensor, Tensor]:
    """For each of T boxes its instance, and 1 where it holds it, 0 for background, -1 for what does not count."""
    if len(boxes_G4):
        matched_T = matcher(box_ops.box_iou(boxes_G4, boxes_T4))
    else:
        matched_T = torch.full((len(boxes_T4),), matcher.BELOW_LOW_THRESHOLD, device=boxes_T4.device)
    kinds_T = (matched_T >= 0).long()
    kinds_T[matched_T == matcher.BETWEEN_THRESHOLDS] = -1
    if len(crowds):
        crowds_B4 = crowds.to(boxes_T4.device)
        low_BT2 = torch.maximum(crowds_B4[:, None, :2], boxes_T4[:, :2])
        high_BT2 = torch.minimum(crowds_B4[:, None, 2:], boxes_T4[:, 2:])
        shared_BT = (high_BT2 - low_BT2).clamp(min=0).prod(-1)
        in_crowd_T = (shared_BT / box_ops.box_area(boxes_T4).clamp(min=1e-6)).amax(0) >= _IN_CROWD
        kinds_T[in_crowd_T & (kinds_T == 0)] = -1
    return matched_T.clamp(min=0), kinds_T


def _sampled(kinds_T: Tensor, most: int, share: float) -> tuple[Tensor, Tensor]:
    """Positions of a random sample with at most `share` positives, and those of the positives in it."""
    positive, negative = torch.where(kinds_T > 0)[0], torch.where(kinds_T == 0)[0]
    positive = positive[torch.randperm(len(positive), device=positive.device)[: int(most * share)]]
    room = most - len(positive)
    negative = negative[torch.randperm(len(negative), device=negative.device)[:room]]
    return torch.cat([positive, negative]), positive


def _without(logits_RC: Tensor, labels: list[Tensor], unsearched: list[Tensor]) -> Tensor:
    """The logits of background RoIs without those of classes that their image was not searched for, which nothing
    pushes down then (Gupta et al. 2019, section 3: such images are no negatives of these classes)."""
    if not any(map(len, unsearched)):
        return logits_RC
    hidden_RC = torch.zeros_like(logits_RC, dtype=torch.bool)
    parts = hidden_RC.split([len(outputs) for outputs in labels])
    for part, outputs_R, columns in zip(parts, labels, unsearched, strict=True):
        part[:, columns] = (outputs_R == 0)[:, None]
    return logits_RC.masked_fill(hidden_RC, -math.inf)


def _narrowed(
    rois: list[Tensor], matches: list[Tensor], usable: list[Tensor]
) -> tuple[list[Tensor], list[Tensor], bool]:
    """The usable RoIs and their instances. Where there are none, one RoI whose loss is not to be used: every parameter needs
    a gradient, or workers that have nothing to learn would wait for each other."""
    if any(bool(w.any()) for w in usable):
        pairs = [
            (r[w.to(r.device)], m[w.to(m.device)]) for r, m, w in zip(rois, matches, usable, strict=True)
        ]
        return [r for r, _ in pairs], [m for _, m in pairs], False
    dummy = torch.tensor([[0.0, 0.0, 32.0, 32.0]], device=rois[0].device)
    return [dummy, *(r[:0] for r in rois[1:])], matches, True


def _projected(boxes_R4: Tensor, matched_R: Tensor, example: Example, cells: int) -> Tensor:
    """(R, M, M) the masks of the matched instances in the grids of the RoIs, as torchvision's project_masks_on_boxes.

    Each crop is a picture of its own, with a margin around it: of what is not mask or, at the image's right and lower edge,
    of its last pixels.
    """
    instances, picture_R = torch.unique(matched_R.cpu(), return_inverse=True)
    crops = [example.crops[g] for g in instances.tolist()]
    height, width = (max((crop.shape[axis] for crop in crops), default=0) + 2 for axis in (0, 1))
    pictures = torch.zeros(len(crops), 1, height, width)
    for picture, crop, (x, y) in zip(pictures, crops, example.corners[instances].tolist(), strict=True):
        h, w = crop.shape
        picture[0, 1 : 1 + h, 1 : 1 + w] = crop
        # What is sampled between the last pixel's centre and the image's edge is that pixel.
        if x + w == example.image.shape[2]:
            picture[0, :, 1 + w] = picture[0, :, w]
        if y + h == example.image.shape[1]:
            picture[0, 1 + h] = picture[0, h]
    corner_R2 = example.corners.to(boxes_R4.device)[matched_R] - 1
    rois = torch.cat([picture_R[:, None].to(boxes_R4), boxes_R4 - corner_R2.repeat(1, 2)], 1)
    return roi_align(pictures.to(boxes_R4.device), rois, (cells, cells), 1.0)[:, 0]
