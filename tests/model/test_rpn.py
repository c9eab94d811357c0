"""Proposals against torchvision's RegionProposalNetwork."""

import torch
from torchvision.models.detection.image_list import ImageList

from model.rpn import Proposer
from tests.model import reference as ref

SIZES = [(90, 120), (96, 100), (80, 128)]


def batch() -> ImageList:
    return ImageList(torch.rand(3, 3, 96, 128, generator=torch.Generator().manual_seed(1)), SIZES)


def test_the_same_proposals_in_the_same_order() -> None:
    model = ref.excite(ref.mask_v2(), 0)
    images = batch()
    with torch.inference_mode():
        features = model.backbone(images.tensors)
        expected, _ = model.rpn(images, features)
        found = Proposer(model.rpn, model.rpn.head.conv)(features, images)
    assert len(found) == len(SIZES)
    for a, b in zip(found, expected, strict=True):
        assert len(a) == len(b) == ref.PROPOSALS
        torch.testing.assert_close(a, b, rtol=0, atol=1e-3)


def test_less_precise_layers_still_choose_in_float32() -> None:
    """With bfloat16 layers most proposals are those that float32 gives for the same hidden features."""
    model = ref.excite(ref.mask_v2(), 0)
    images = batch()
    with torch.inference_mode():
        features = model.backbone(images.tensors)
        rounded = {name: level.bfloat16() for name, level in features.items()}
        proposer = Proposer(model.rpn, lambda x: model.rpn.head.conv(x.float()).bfloat16())
        found = proposer(rounded, images)
        exact = Proposer(model.rpn, lambda x: model.rpn.head.conv(x.float()).bfloat16().float())
        expected = exact({name: level.float() for name, level in rounded.items()}, images)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0, atol=1e-3)
