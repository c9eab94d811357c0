"""Changes of light and colour, as torchvision's ColorJitter makes them, in one pass over the pixels.

Brightness, contrast, saturation and a turn of the hue are each an affine map of (r, g, b), the same in every pixel; so are all four
in a row. ColorJitter takes each in a pass of its own, and turns the hue by way of HSV: four fifths of the time of making an example.
Two things differ: what leaves 0 to 255 between two of the changes is not cut off there, only at the end; and the hue turns around
the grey axis in YIQ, which keeps the luminance.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision.transforms import v2

_LUMA = torch.tensor([0.2989, 0.587, 0.114])
"""ColorJitter's weights of grey."""
_YIQ = torch.tensor([[0.2989, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


class ColourChange:
    """Random changes of `strength`, by torch's random state: each of brightness, contrast and saturation by a factor from
    1 - strength to 1 + strength, the hue by up to a sixth of strength of a turn, in random order."""

    def __init__(self, strength: float) -> None:
        self._draw = v2.ColorJitter(strength, strength, strength, strength / 6)

    def __call__(self, image_CHW: Tensor) -> Tensor:
        """uint8 (3, H, W) RGB in and out."""
        drawn = self._draw.make_params([])
        steps = [
            (drawn["brightness_factor"], _brightness),
            (drawn["contrast_factor"], _contrast),
            (drawn["saturation_factor"], _saturation),
            (drawn["hue_factor"], _hue),
        ]
        pixels_CP = image_CHW.flatten(1).float()
        mean_C = pixels_CP.mean(1)
        # (3, 4): a matrix and what is added
        change = torch.eye(3, 4)
        for position in drawn["fn_idx"].tolist():
            factor, step = steps[position]
            change = step(change, factor, mean_C)
        changed_CP = torch.addmm(change[:, 3:], change[:, :3], pixels_CP)
        return changed_CP.round_().clamp_(0, 255).to(torch.uint8).view_as(image_CHW)


def _brightness(change: Tensor, factor: float, _: Tensor) -> Tensor:
    return change * factor


def _contrast(change: Tensor, factor: float, mean_C: Tensor) -> Tensor:
    grey = _LUMA @ (change[:, :3] @ mean_C + change[:, 3])
    change = change * factor
    change[:, 3] += (1 - factor) * grey
    return change


def _saturation(change: Tensor, factor: float, _: Tensor) -> Tensor:
    return (factor * torch.eye(3) + (1 - factor) * _LUMA.expand(3, 3)) @ change


def _hue(change: Tensor, turns: float, _: Tensor) -> Tensor:
    # ColorJitter's hue goes from red to green, which in YIQ's plane is clockwise.
    sine, cosine = math.sin(-2 * math.pi * turns), math.cos(2 * math.pi * turns)
    turn = torch.tensor([[1.0, 0.0, 0.0], [0.0, cosine, -sine], [0.0, sine, cosine]])
    return torch.linalg.inv(_YIQ) @ turn @ _YIQ @ change
