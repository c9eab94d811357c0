"""RoIAlign (Mask R-CNN, section 3) as one gather of weighted rows: what torchvision's MultiScaleRoIAlign computes.

A cell of an RoI's grid is a weighted sum of sixteen feature vectors: four bilinear corners of each of its 2 x 2
samples. With channels last each vector is a row of memory, and the whole is torch's embedding bag: sums of weighted
rows of a table, which it computes many times faster than torchvision's kernel walks the planes.

Shapes: N images, R RoIs, P cells a side of the grid, C channels, S samples a side of a cell.
"""

import numpy as np
import torch
import torch.nn.functional as F
from masklake.model.engine.kernels import kernel
from masklake.model.engine.rois import Rois, to_device
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign

_MACROS = {torch.float32: "FLOAT32", torch.bfloat16: "BFLOAT16", torch.float16: "FLOAT16"}
_BYTES, _MOST_CELLS = 16, 32
"""That a lane of the kernel takes at a time; and rows of lanes in a block."""


class RoiPool:
    """A MultiScaleRoIAlign with fixed scales (`model.networks.build` sets them), on channels-last features.

    at_once: gather from all levels at once, which copies them into one table: on a GPU, where going level by level makes the
        host wait for how many RoIs each has, and a copy is cheap.
    kernels: by a kernel of our own, on a GPU where it can be trusted (`model.engine.kernel_check`).
    """

    def __init__(self, pool: MultiScaleRoIAlign, *, at_once: bool = False, kernels: bool = False) -> None:
        if pool.scales is None or pool.map_levels is None:
            raise ValueError("the pool has no scales yet; model.networks.build sets them")
        self._names, self._scales, self._mapper = pool.featmap_names, pool.scales, pool.map_levels
        self._cells, self._samples = pool.output_size[0], pool.sampling_ratio
        self.at_once, self._kernels = at_once, kernels

    def __call__(self, features: dict[str, Tensor], rois: Rois) -> Tensor:
        """(R, C, P, P) features of all RoIs, channels last, in the features' dtype.

        features: (N, C, H, W) by level name.
        """
        levels = [features[name] for name in self._names]
        boxes_R4, image_R = rois.boxes, rois.image
        level_R = self._mapper([boxes_R4]) if len(levels) > 1 else torch.zeros_like(image_R)
        if self._kernels and (pooled := self._by_kernel(levels, level_R, image_R, boxes_R4)) is not None:
            return pooled
        if len(levels) == 1:
            return self._from_level(levels[0], self._scales[0], image_R, boxes_R4)
        if self.at_once:
            return self._from_all(levels, level_R, image_R, boxes_R4)
        pooled = levels[0].new_zeros(len(boxes_R4), self._cells, self._cells, levels[0].shape[1])
        pooled_RCPP = pooled.permute(0, 3, 1, 2)
        for number, (level_NCHW, scale) in enumerate(zip(levels, self._scales, strict=True)):
            r = torch.where(level_R == number)[0]
            pooled_RCPP[r] = self._from_level(level_NCHW, scale, image_R[r], boxes_R4[r])
        return pooled_RCPP

    def _by_kernel(
        self, levels: list[Tensor], level_R: Tensor, image_R: Tensor, boxes_R4: Tensor
    ) -> Tensor | None:
        """By a kernel of our own that reads the maps where they lie; None where there is none for them."""
        first = levels[0]
        channels, size = first.shape[1], first.element_size()
        define = _MACROS.get(first.dtype)
        align = None if define is None else kernel("roi_align", first.device, define)
        if align is None or channels * size % _BYTES or self._cells > _MOST_CELLS:
            return None
        maps = [level.contiguous(memory_format=torch.channels_last) for level in levels]
        pooled = torch.empty(
            len(boxes_R4), self._cells, self._cells, channels, dtype=first.dtype, device=first.device
        )
        if len(boxes_R4):
            places_L3 = np.asarray([(m.data_ptr(), *m.shape[2:]) for m in maps], np.int64)
            places, scales = (
                to_device(values, first.device)
                for values in (places_L3, np.asarray(self._scales, np.float32))
            )
            with torch.cuda.device_of(first):
                align(
                    grid=(len(boxes_R4), self._cells, 1),
                    block=(32, self._cells, 1),
                    args=[
                        places,
                        scales,
                        boxes_R4.contiguous(),
                        level_R,
                        image_R,
                        pooled,
                        channels,
                        self._samples,
                    ],
                )
        return pooled.permute(0, 3, 1, 2)

    def _from_level(self, level_NCHW: Tensor, scale: float, image_R: Tensor, boxes_R4: Tensor) -> Tensor:
        height, width = level_NCHW.shape[2:]
        rows = self._axis(boxes_R4[:, 1], boxes_R4[:, 3], scale, height)
        columns = self._axis(boxes_R4[:, 0], boxes_R4[:, 2], scale, width)
        return self._gathered(_table(level_NCHW), rows, columns, image_R * (height * width), width)

    def _from_all(self, levels: list[Tensor], level_R: Tensor, image_R: Tensor, boxes_R4: Tensor) -> Tensor:
        heights, widths = (np.asarray([level.shape[axis] for level in levels]) for axis in (2, 3))
        cells = heights * widths
        begins = np.concatenate([[0], np.cumsum(cells * len(levels[0]))[:-1]])
        height_R, width_R, cells_R, begin_R = to_device(
            np.stack([heights, widths, cells, begins]), boxes_R4.device
        )[:, level_R]
        scale_R = to_device(np.asarray(self._scales, np.float32), boxes_R4.device)[level_R]
        rows = self._axis(boxes_R4[:, 1], boxes_R4[:, 3], scale_R, height_R)
        columns = self._axis(boxes_R4[:, 0], boxes_R4[:, 2], scale_R, width_R)
        table = torch.cat([_table(level) for level in levels])
        return self._gathered(table, rows, columns, begin_R + image_R * cells_R, width_R)

    def _gathered(
        self,
        table: Tensor,
        rows: tuple[Tensor, Tensor],
        columns: tuple[Tensor, Tensor],
        begin_R: Tensor,
        width: int | Tensor,
    ) -> Tensor:
        """From the rows of `table`, where each RoI's feature map begins at `begin_R` and is `width` cells wide."""
        channels = table.shape[1]
        (row_RPV, row_weight_RPV), (column_RPV, column_weight_RPV) = rows, columns
        row_RPV = row_RPV * _broadcast(width) + begin_R[:, None, None]
        cell = row_RPV[:, :, None, :, None] + column_RPV[:, None, :, None, :]
        weight = row_weight_RPV[:, :, None, :, None] * column_weight_RPV[:, None, :, None, :]
        corners = row_RPV.shape[-1] ** 2
        pooled = F.embedding_bag(
            cell.reshape(-1, corners),
            table,
            per_sample_weights=weight.reshape(-1, corners).to(table.dtype),
            mode="sum",
        )
        return pooled.view(-1, self._cells, self._cells, channels).permute(0, 3, 1, 2)

    def _axis(
        self, low_R: Tensor, high_R: Tensor, scale: float | Tensor, size: int | Tensor
    ) -> tuple[Tensor, Tensor]:
        """(R, P, 2 S) positions along one axis of a feature map, and their weights; scale and size: one, or (R,).

        In the order of operations of torchvision's roi_align_common.h, `aligned` off: an RoI has a side of at least
        1, samples more than a cell outside count as 0, others are moved to the edge.
        """
        start_R = low_R * scale
        cell_R = (high_R * scale - start_R).clamp(min=1) / self._cells
        cells = torch.arange(self._cells, device=low_R.device, dtype=low_R.dtype)
        samples = torch.arange(self._samples, device=low_R.device, dtype=low_R.dtype) + 0.5
        start_RP = start_R[:, None] + cells * cell_R[:, None]
        position_RPS = start_RP[..., None] + samples * cell_R[:, None, None] / self._samples
        size = _broadcast(size)
        outside_RPS = (position_RPS < -1) | (position_RPS > size)
        position_RPS = position_RPS.clamp(min=0).clamp(max=size - 1)
        before_RPS = position_RPS.to(torch.int64)
        share_RPS = position_RPS - before_RPS
        after_RPS = (before_RPS + 1).clamp(max=size - 1)
        weight = torch.stack([1 - share_RPS, share_RPS], -1) / self._samples
        weight = weight.masked_fill(outside_RPS[..., None], 0)
        return torch.stack([before_RPS, after_RPS], -1).flatten(2), weight.flatten(2)


def _table(level_NCHW: Tensor) -> Tensor:
    """(N H W, C): a view where channels are last."""
    return level_NCHW.permute(0, 2, 3, 1).reshape(-1, level_NCHW.shape[1])


def _broadcast(size: int | Tensor) -> int | Tensor:
    """(R,) against (R, P, S)."""
    return size[:, None, None] if isinstance(size, Tensor) else size
