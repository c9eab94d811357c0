"""Proposals against torchvision's RegionProposalNetwork."""

import torch
from masklake.model.engine.rpn import Proposer, SparseConv
from masklake.model.engine.select import TrueCounts
from torch import nn
from torchvision.models.detection.image_list import ImageList

from tests.helpers import reference as ref

ALL = torch.arange(91)
SIZES = [(90, 120), (96, 100), (80, 128)]


def batch() -> ImageList:
    return ImageList(torch.rand(3, 3, 96, 128, generator=torch.Generator().manual_seed(1)), SIZES)


def test_the_same_proposals_in_the_same_order() -> None:
    model = ref.excite(ref.mask_v2(), 0)
    images = batch()
    with torch.inference_mode():
        features = model.backbone(images.tensors)
        expected, _ = model.rpn(images, features)
        proposer = Proposer(model.rpn, list(model.rpn.head.conv))
        proposals, finite = proposer(features, images, TrueCounts(ALL))
    boxes = proposals.by_image()
    assert finite.all()
    assert len(boxes) == len(SIZES)
    for a, b in zip(boxes, expected, strict=True):
        assert len(a) == len(b) == ref.PROPOSALS
        torch.testing.assert_close(a, b, rtol=0, atol=1e-3)


def test_less_precise_layers_still_choose_in_float32() -> None:
    """With bfloat16 layers the proposals are those that a last convolution in float32 gives for the same features."""
    model = ref.excite(ref.mask_v2(), 0)
    images = batch()
    with torch.inference_mode():
        features = model.backbone(images.tensors)
        rounded = {name: level.bfloat16() for name, level in features.items()}
        first, last = model.rpn.head.conv
        rough = [lambda x: first(x.float()).bfloat16(), lambda x: last(x.float()).bfloat16()]
        chosen = Proposer(model.rpn, rough, SparseConv(last[0]))(rounded, images, TrueCounts(ALL))[0]
        exact = Proposer(model.rpn, [lambda x: first(x).bfloat16().float(), last])
        expected = exact({name: level.float() for name, level in rounded.items()}, images, TrueCounts(ALL))[0]
    for a, b in zip(chosen.by_image(), expected.by_image(), strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0, atol=1e-3)


def test_a_convolution_at_some_positions_is_that_of_all() -> None:
    torch.manual_seed(3)
    conv = nn.Conv2d(5, 7, 3, padding=1)
    x = torch.randn(2, 5, 6, 9).to(memory_format=torch.channels_last)
    everywhere = torch.relu(conv(x)).permute(0, 2, 3, 1).flatten(1, 2)
    positions = torch.stack([torch.randperm(54)[:40], torch.randint(0, 54, (40,))])
    with torch.inference_mode():
        computed = SparseConv(conv)(x, positions)
        each = SparseConv(conv, once=False)(x, positions)
    torch.testing.assert_close(each, computed, rtol=0, atol=1e-5)
    for image in range(2):
        torch.testing.assert_close(computed[image], everywhere[image, positions[image]], rtol=0, atol=1e-5)
