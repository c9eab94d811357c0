"""RoIAlign (Mask R-CNN, section 3) as one gather of weighted rows: what torchvision's MultiScaleRoIAlign computes.

A cell of an RoI's grid is a weighted sum of sixteen feature vectors: four bilinear corners of each of its 2 x 2
samples. With channels last each vector is a row of memory, and the whole is torch's embedding bag: sums of weighted
rows of a table, which it computes many times faster than torchvision's kernel walks the planes.

Shapes: N images, R RoIs, P cells a side of the grid, C channels, S samples a side of a cell.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign


class RoiPool:
    """A MultiScaleRoIAlign with fixed scales (`model.networks.build` sets them), on channels-last features."""

    def __init__(self, pool: MultiScaleRoIAlign) -> None:
        if pool.scales is None or pool.map_levels is None:
            raise ValueError("the pool has no scales yet; model.architecture sets them")
        self._names, self._scales, self._mapper = pool.featmap_names, pool.scales, pool.map_levels
        self._cells, self._samples = pool.output_size[0], pool.sampling_ratio

    def __call__(self, features: dict[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """(R, C, P, P) features of all RoIs, image after image, channels last, in the features' dtype.

        features: (N, C, H, W) by level name; boxes: for each image (R_n, 4) float32, x1 y1 x2 y2 in pixels of the
        resized image.
        """
        levels = [features[name] for name in self._names]
        boxes_R4 = torch.cat(list(boxes))
        counts = [len(of) for of in boxes]
        image_R = torch.arange(len(counts), device=boxes_R4.device).repeat_interleave(
            torch.tensor(counts, device=boxes_R4.device), output_size=len(boxes_R4)
        )
        if len(levels) == 1:
            return self._of_level(levels[0], self._scales[0], image_R, boxes_R4)
        level_R = self._mapper(list(boxes))
        pooled = levels[0].new_zeros(len(boxes_R4), self._cells, self._cells, levels[0].shape[1])
        pooled_RCPP = pooled.permute(0, 3, 1, 2)
        for at, (level_NCHW, scale) in enumerate(zip(levels, self._scales, strict=True)):
            r = torch.where(level_R == at)[0]
            pooled_RCPP[r] = self._of_level(level_NCHW, scale, image_R[r], boxes_R4[r])
        return pooled_RCPP

    def _of_level(self, level_NCHW: Tensor, scale: float, image_R: Tensor, boxes_R4: Tensor) -> Tensor:
        channels, height, width = level_NCHW.shape[1:]
        table = level_NCHW.permute(0, 2, 3, 1).reshape(-1, channels)
        row_RPV, row_weight_RPV = self._axis(boxes_R4[:, 1], boxes_R4[:, 3], scale, height)
        column_RPV, column_weight_RPV = self._axis(boxes_R4[:, 0], boxes_R4[:, 2], scale, width)
        row_RPV = row_RPV + (image_R * height)[:, None, None]
        at = row_RPV[:, :, None, :, None] * width + column_RPV[:, None, :, None, :]
        weight = row_weight_RPV[:, :, None, :, None] * column_weight_RPV[:, None, :, None, :]
        corners = row_RPV.shape[-1] ** 2
        pooled = F.embedding_bag(
            at.reshape(-1, corners),
            table,
            per_sample_weights=weight.reshape(-1, corners).to(table.dtype),
            mode="sum",
        )
        return pooled.view(-1, self._cells, self._cells, channels).permute(0, 3, 1, 2)

    def _axis(self, low_R: Tensor, high_R: Tensor, scale: float, size: int) -> tuple[Tensor, Tensor]:
        """(R, P, 2 S) positions along one axis of a feature map, and their weights.

        In the order of operations of torchvision's roi_align_common.h, `aligned` off: an RoI has a side of at least
        1, samples more than a cell outside count as 0, others are moved to the edge.
        """
        start_R = low_R * scale
        cell_R = (high_R * scale - start_R).clamp(min=1) / self._cells
        cells = torch.arange(self._cells, device=low_R.device, dtype=low_R.dtype)
        samples = torch.arange(self._samples, device=low_R.device, dtype=low_R.dtype) + 0.5
        start_RP = start_R[:, None] + cells * cell_R[:, None]
        at_RPS = start_RP[..., None] + samples * cell_R[:, None, None] / self._samples
        outside_RPS = (at_RPS < -1) | (at_RPS > size)
        at_RPS = at_RPS.clamp(min=0, max=size - 1)
        before_RPS = at_RPS.to(torch.int64)
        share_RPS = at_RPS - before_RPS
        after_RPS = (before_RPS + 1).clamp(max=size - 1)
        weight = torch.stack([1 - share_RPS, share_RPS], -1) / self._samples
        weight = weight.masked_fill(outside_RPS[..., None], 0)
        return torch.stack([before_RPS, after_RPS], -1).flatten(2), weight.flatten(2)
