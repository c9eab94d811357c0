"""Boxes from the deltas that a network gives: torchvision's BoxCoder.decode_single, bit by bit.

torchvision makes a tensor of the number 0.5 on the device, twice a call, for which the host waits.
"""

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder


def decode(coder: BoxCoder, deltas_R4: Tensor, boxes_R4: Tensor) -> Tensor:
    """(R, 4) float32 boxes, x1 y1 x2 y2 in pixels: `boxes_R4` moved and enlarged by `deltas_R4` (Fast R-CNN, section 2.3, with the
    coder's weights and its limit of how much a side can grow)."""
    sides_R2 = boxes_R4[:, 2:] - boxes_R4[:, :2]
    centre_R2 = boxes_R4[:, :2] + 0.5 * sides_R2
    wx, wy, ww, wh = coder.weights
    x, y, w, h = deltas_R4.unbind(1)
    width, height = sides_R2.unbind(1)
    centre_x, centre_y = (x / wx) * width + centre_R2[:, 0], (y / wy) * height + centre_R2[:, 1]
    half_w = 0.5 * ((w / ww).clamp(max=coder.bbox_xform_clip).exp() * width)
    half_h = 0.5 * ((h / wh).clamp(max=coder.bbox_xform_clip).exp() * height)
    return torch.stack([centre_x - half_w, centre_y - half_h, centre_x + half_w, centre_y + half_h], 1)
