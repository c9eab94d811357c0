"""Colours change as torchvision's ColorJitter changes them."""

from __future__ import annotations

import colorsys

import pytest
import torch
from masklake.model.train import colour
from masklake.model.train.colour import ColourChange
from torch import Tensor
from torchvision.transforms import v2

from tests.helpers.reference import noise


def picture() -> Tensor:
    """Of middling light, so that no change leaves 0 to 255."""
    return (torch.from_numpy(noise(3, 60, 80)).permute(2, 0, 1).float() / 4 + 96).to(torch.uint8)


def test_it_is_torchvisions_but_for_rounding_and_the_way_of_hue() -> None:
    changed, image = 0, picture()
    for seed in range(20):
        torch.manual_seed(seed)
        ours = ColourChange(0.2)(image)
        torch.manual_seed(seed)
        theirs = v2.ColorJitter(0.2, 0.2, 0.2, 0.2 / 6)(image)
        assert ours.dtype == torch.uint8
        differs = (ours.float() - theirs.float()).abs()
        assert differs.mean() < 4, seed
        assert differs.max() <= 12, seed
        changed += int((image.float() - theirs.float()).abs().max() > 12)
    assert changed > 10


@pytest.mark.parametrize("step", range(3))
def test_each_is_torchvisions(step: int) -> None:
    image, change = picture().float(), torch.eye(3, 4)
    ours = (colour._brightness, colour._contrast, colour._saturation)[step](change, 1.3, image.mean((1, 2)))
    theirs = (
        v2.functional.adjust_brightness,
        v2.functional.adjust_contrast,
        v2.functional.adjust_saturation,
    )[step](image / 255, 1.3)
    result = torch.einsum("oc,chw->ohw", ours[:, :3], image) + ours[:, 3, None, None]
    torch.testing.assert_close(result / 255, theirs, rtol=0, atol=1e-4)


def test_hue_turns_with_torchvisions_and_keeps_grey_and_light() -> None:
    change = colour._hue(torch.eye(3, 4), 0.05, torch.zeros(3))
    matrix, grey = change[:, :3], torch.full((3,), 100.0)
    torch.testing.assert_close(matrix @ grey, grey, rtol=0, atol=0.1)
    for rgb in ((150.0, 90.0, 80.0), (80.0, 150.0, 90.0), (90.0, 80.0, 150.0)):
        before = torch.tensor(rgb)
        turned = matrix @ before
        torch.testing.assert_close(colour._LUMA @ turned, colour._LUMA @ before, rtol=0, atol=0.1)
        turns = colorsys.rgb_to_hsv(*turned.tolist())[0] - colorsys.rgb_to_hsv(*rgb)[0]
        assert turns % 1 == pytest.approx(0.05, abs=0.02), rgb
