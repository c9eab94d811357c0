"""Which of many boxes are kept: those of torchvision's `filter_proposals` and `postprocess_detections`.

Two ways to the same boxes. `TrueCounts` takes image by image, as many boxes as there are: the least work, but it has to
know how many there are, for which a GPU makes the host wait, several times an image. `FixedShapes` works on a batch at once
with shapes that depend on no value; where its limits do not suffice it raises UnsettledError, and the caller takes the other way.

Shapes: N images, T candidates of an image over all pyramid levels, R regions, K classes asked for, C candidate detections,
M candidates of an image, D detections at most.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from masklake.model.engine.kernels import kernel
from masklake.model.engine.rois import Arrival, Rois, image_of_each, to_device
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import boxes as box_ops

_MIN_SIDE = 1e-2
"""Pixels; of a detection."""
_MOST_CANDIDATES = 1024
"""Of an image, the best: so many boxes above the score threshold come from some hundred things."""
_ROUNDS = 24
"""Longer chains, in which each box overlaps the next, are rare."""
_WORD, _LANES = 64, 32
"""Boxes a word, and words a warp, of the kernels overlaps and sweep."""


class UnsettledError(Exception):
    """More candidates, or longer chains of boxes that overlap, than a selection has room for."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What is kept of each image: boxes of at least `min_side` pixels a side and of at least `min_score`, NMS at
    `threshold`, then the best `most`."""

    min_side: float = _MIN_SIDE
    min_score: float
    threshold: float
    most: int


@dataclass(frozen=True)
class Detected:
    """R instances of N images, image after image, highest score first.

    kinds: (R,), positions among the classes asked for, on the device and on the host; scores: (R,).
    """

    rois: Rois
    kinds: Tensor
    scores: Tensor
    kinds_on_host: NDArray[np.int64]


Decode = Callable[[Tensor, Tensor], Tensor]
"""(C,) rows of regions and positions of classes in, (C, 4) boxes out, clipped to their images."""


class Selection(Protocol):
    """The choice of boxes, as `model.engine.rpn` and `model.engine.inference` call it."""

    def proposals(self, boxes_NT4: Tensor, scores_NT: Tensor, levels: list[int], rule: Rule) -> Rois:
        """NMS in each level, of which `levels` says how many candidates it has, best first. Boxes are clipped."""

    def detections(self, rois: Rois, scores_RK: Tensor, decode: Decode, rule: Rule) -> Detected:
        """NMS in each class; scores must exceed the rule's, strictly. Raises UnsettledError."""


class TrueCounts:
    """As many boxes as there are, by torchvision's own NMS."""

    def __init__(self, outputs_K: Tensor, selected_K: Tensor | None = None) -> None:
        """outputs_K: the box head's output for each class: torchvision's NMS shifts boxes by them, and by other numbers
        would round otherwise. selected_K: (K,) bool, classes that are kept after NMS; None for all.
        """
        self._outputs_K, self._selected_K = outputs_K, selected_K

    def proposals(self, boxes_NT4: Tensor, scores_NT: Tensor, levels: list[int], rule: Rule) -> Rois:
        good_NT = _large(boxes_NT4, rule) & (scores_NT >= rule.min_score)
        level_T = image_of_each(levels, boxes_NT4.device)
        kept = []
        for boxes_T4, scores_T, good_T in zip(boxes_NT4, scores_NT, good_NT, strict=True):
            good = torch.where(good_T)[0]
            boxes = boxes_T4[good]
            best = box_ops.batched_nms(boxes, scores_T[good], level_T[good], rule.threshold)
            kept.append(boxes[best[: rule.most]])
        return Rois.of_images(kept)

    def detections(self, rois: Rois, scores_RK: Tensor, decode: Decode, rule: Rule) -> Detected:
        r, k = torch.where(scores_RK > rule.min_score)
        boxes, scores = decode(r, k), scores_RK[r, k]
        large = torch.where(_large(boxes, rule))[0]
        boxes, scores, k, r = boxes[large], scores[large], k[large], r[large]
        counts = rois.image[r].bincount(minlength=len(rois.counts)).tolist()
        kept, first = [], 0
        for count in counts:
            rows = slice(first, first + count)
            best = box_ops.batched_nms(boxes[rows], scores[rows], self._outputs_K[k[rows]], rule.threshold)
            if self._selected_K is not None:
                best = best[self._selected_K[k[rows][best]]]
            kept.append(best[: rule.most] + first)
            first += count
        best = torch.cat(kept)
        counts = [len(rows) for rows in kept]
        (kinds,) = Arrival(k[best]).wait()
        chosen = Rois(boxes[best], image_of_each(counts, boxes.device), counts)
        return Detected(chosen, k[best], scores[best], kinds)


class FixedShapes:
    """A batch at once; the host waits once, when detections are chosen.

    NMS is that of torchvision on CPUs where it goes class by class, to the last bit: it shifts no boxes, which rounds them.
    """

    def __init__(
        self, candidates: int = _MOST_CANDIDATES, rounds: int = _ROUNDS, *, kernels: bool = False
    ) -> None:
        """kernels: on a GPU where they can be trusted (`model.engine.kernel_check`)."""
        self._candidates, self._rounds, self._kernels = candidates, rounds, kernels

    def proposals(self, boxes_NT4: Tensor, scores_NT: Tensor, levels: list[int], rule: Rule) -> Rois:
        good_NT = _large(boxes_NT4, rule) & (scores_NT >= rule.min_score)
        parts = [
            survivors(boxes, good, rule.threshold, rounds=self._rounds, kernels=self._kernels)
            for boxes, good in zip(boxes_NT4.split(levels, 1), good_NT.split(levels, 1), strict=True)
        ]
        keep_NT = torch.cat([keep for keep, _ in parts], 1)
        settled_N = torch.stack([settled for _, settled in parts]).all(0)
        order_NT = (
            scores_NT.masked_fill(~keep_NT, -torch.inf).sort(dim=1, descending=True, stable=True).indices
        )
        order_NS = order_NT[:, : rule.most]
        present_NS = keep_NT.gather(1, order_NS)
        boxes_NS4 = _rows(boxes_NT4, order_NS).masked_fill(~present_NS[..., None], 0)
        n, s = order_NS.shape
        image_R = torch.arange(n * s, device=boxes_NT4.device) // s
        return Rois(boxes_NS4.flatten(0, 1), image_R, [s] * n, present_NS.flatten(), settled_N)

    def detections(self, rois: Rois, scores_RK: Tensor, decode: Decode, rule: Rule) -> Detected:
        n, kinds = len(rois.counts), scores_RK.shape[1]
        above_RK = scores_RK > rule.min_score
        if rois.present is not None:
            above_RK &= rois.present[:, None]
        scores_NQ = scores_RK.masked_fill(~above_RK, -torch.inf).view(n, -1)  # Q = S K
        m = min(self._candidates, scores_NQ.shape[1])
        # Equal scores in the order of regions and classes.
        q_NM = scores_NQ.topk(m, 1, sorted=False).indices.sort(1).values
        scores_NM, order_NM = scores_NQ.gather(1, q_NM).sort(dim=1, descending=True, stable=True)
        q_NM = q_NM.gather(1, order_NM)
        s = scores_NQ.shape[1] // kinds
        first_N1 = torch.arange(n, device=q_NM.device)[:, None] * s
        k_NM = q_NM % kinds
        boxes_NM4 = decode((first_N1 + q_NM // kinds).flatten(), k_NM.flatten()).view(n, m, 4)
        good_NM = _large(boxes_NM4, rule) & (scores_NM > rule.min_score)
        keep_NM, settled_N = survivors(
            boxes_NM4, good_NM, rule.threshold, k_NM, rounds=self._rounds, kernels=self._kernels
        )
        enough_N = (keep_NM.sum(1) >= rule.most) | (above_RK.view(n, -1).sum(1) <= m)
        settled_N &= enough_N if rois.settled is None else enough_N & rois.settled

        order_ND = keep_NM.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices[:, : rule.most]
        kinds_ND = k_NM.masked_fill(~keep_NM, -1).gather(1, order_ND)
        kinds_on_host, settled = Arrival(kinds_ND, settled_N).wait()
        if not settled.all():
            raise UnsettledError
        counts = (kinds_on_host >= 0).sum(1).tolist()
        rows_R = to_device(np.flatnonzero(kinds_on_host >= 0), boxes_NM4.device)
        chosen = Rois(
            _rows(boxes_NM4, order_ND).flatten(0, 1)[rows_R], image_of_each(counts, rows_R.device), counts
        )
        scores_R = scores_NM.gather(1, order_ND).flatten()[rows_R]
        return Detected(chosen, kinds_ND.flatten()[rows_R], scores_R, kinds_on_host[kinds_on_host >= 0])


def survivors(
    boxes_NS4: Tensor,
    alive_NS: Tensor,
    threshold: float,
    group_NS: Tensor | None = None,
    *,
    rounds: int,
    kernels: bool = False,
) -> tuple[Tensor, Tensor]:
    """NMS of N lists at once: (N, S) bool, which boxes stay; and (N,) bool, whether that is settled after `rounds` rounds.

    boxes_NS4: float32, best first; alive_NS: which take part. Only boxes of one group suppress each other.
    Whether a box stays depends only on the boxes before it. Each round settles chains of suppressions that are one box longer;
    when a round changes nothing, all boxes are settled. kernels: two kernels of our own settle all in one go.
    """
    if kernels and (kept := _swept(boxes_NS4, alive_NS, threshold, group_NS)) is not None:
        return kept, kept.new_ones(len(kept))
    x1, y1, x2, y2 = boxes_NS4.unbind(-1)
    area = (x2 - x1) * (y2 - y1)
    shared = (torch.minimum(x2[:, :, None], x2[:, None]) - torch.maximum(x1[:, :, None], x1[:, None])).clamp_(
        min=0
    )
    shared *= (
        torch.minimum(y2[:, :, None], y2[:, None]) - torch.maximum(y1[:, :, None], y1[:, None])
    ).clamp_(min=0)
    over_NSS = shared / (area[:, :, None] + area[:, None] - shared) > _not_above(threshold)
    if group_NS is not None:
        over_NSS &= group_NS[:, :, None] == group_NS[:, None]
    over = over_NSS.triu_(1).to(torch.bfloat16 if boxes_NS4.is_cuda else torch.float32)
    keep_NS = before_NS = alive_NS
    for _ in range(rounds):
        before_NS = keep_NS
        keep_NS = alive_NS & (torch.bmm(keep_NS[:, None].to(over.dtype), over)[:, 0] == 0)
    return keep_NS, (keep_NS == before_NS).all(1)


def _swept(boxes_NS4: Tensor, alive_NS: Tensor, threshold: float, group_NS: Tensor | None) -> Tensor | None:
    """(N, S) bool: `survivors` by kernels; None where there are none for it."""
    n, s = alive_NS.shape
    words = -(-s // _WORD)
    overlaps, sweep = (kernel(name, boxes_NS4.device) for name in ("overlaps", "sweep"))
    if overlaps is None or sweep is None or words > _LANES:
        return None
    keep_NS = torch.empty_like(alive_NS, memory_format=torch.contiguous_format)
    if not keep_NS.numel():
        return keep_NS
    groups = torch.zeros_like(alive_NS, dtype=torch.int64) if group_NS is None else group_NS
    over_NSW = torch.empty(n, s, words, dtype=torch.int64, device=boxes_NS4.device)
    boxes, alive = boxes_NS4.contiguous(), alive_NS.contiguous()
    bits = int(np.float32(_not_above(threshold)).view(np.int32))
    with torch.cuda.device_of(boxes):
        overlaps(
            grid=(words, words, n),
            block=(_WORD, 1, 1),
            args=[boxes, groups.contiguous(), over_NSW, s, bits],
        )
        sweep(grid=(n, 1, 1), block=(_LANES, 1, 1), args=[over_NSW, alive, keep_NS, s, words])
    return keep_NS


def _not_above(threshold: float) -> float:
    """The largest float32 that is not above it: torchvision compares float32 with the float64 threshold."""
    rounded = np.float32(threshold)
    return float(rounded if float(rounded) <= threshold else np.nextafter(rounded, np.float32(0)))


def _large(boxes: Tensor, rule: Rule) -> Tensor:
    """Of boxes (..., 4): torchvision's remove_small_boxes."""
    sides = boxes[..., 2:] - boxes[..., :2]
    return (sides >= rule.min_side).all(-1)


def _rows(boxes_NT4: Tensor, index_NS: Tensor) -> Tensor:
    """(N, S, 4): the boxes at these positions of each image."""
    return boxes_NT4.gather(1, index_NS[..., None].expand(-1, -1, 4))
