"""Fused convolutions against the modules that they stand for."""

import copy
import operator

import pytest
import torch
from masklake.model.engine.fold import fold_norms
from masklake.model.engine.fuse import fuse
from masklake.model.engine.fused_cpu import FusedConv, supported
from masklake.model.networks.build import build
from masklake.model.networks.config import BACKBONE_LAYERS
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers import reference as ref

pytestmark = pytest.mark.skipif(
    not supported(torch.float32), reason="this torch has no fused operators on this processor"
)

KEYS = {
    "tiny": {"anchor_sizes": ((16,), (32,), (64,)), "fpn_channels": 32},
    "mobilenet_v2-fpn": {"fpn_channels": 32},
    "mobilenet_v3_large-fpn": {"fpn_channels": 32},
}


def fused_convs(module: nn.Module) -> list[FusedConv]:
    return [m for m in module.modules() if isinstance(m, FusedConv)]


@pytest.mark.parametrize("backbone", BACKBONE_LAYERS)
def test_every_backbone(backbone: str) -> None:
    """The same features as torchvision's own, up to float32 rounding; every convolution is a fused one."""
    spec = ref.spec("faster_rcnn", ref.CLASSES[:3], backbone=backbone, **KEYS.get(backbone, {}))
    plain = ref.excite(build(spec), 0).backbone  # type: ignore[arg-type]  # one R-CNN
    fast = fuse(fold_norms(copy.deepcopy(plain)).to(memory_format=torch.channels_last))
    assert not [m for m in fast.modules() if isinstance(m, nn.Conv2d)]
    assert any(conv.activation != "none" for conv in fused_convs(fast))
    with torch.inference_mode():
        for size in ((96, 128), (64, 160)):
            images = torch.rand(2, 3, *size)
            expected = plain(images)
            maps = fast(images.contiguous(memory_format=torch.channels_last))
            assert maps.keys() == expected.keys()
            for level, features in expected.items():
                # random weights make features of hundreds: the tolerance is relative to the largest
                scale = features.abs().max().item()
                torch.testing.assert_close(maps[level], features, rtol=0, atol=1e-4 * scale)


class Branches(nn.Module):
    """What must not be fused: outputs that others read too, additions that broadcast or scale."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = F.relu(self.b(a)) + a
        c = torch.add(self.c(b), x, alpha=2.0)
        return c + self.a(b) + self.a(x) + 1


def test_outputs_that_are_read_twice_stay_whole() -> None:
    torch.manual_seed(0)
    module = Branches().eval()
    x = torch.randn(2, 4, 9, 7).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        torch.testing.assert_close(fuse(copy.deepcopy(module))(x), module(x), rtol=1e-5, atol=1e-5)


def test_batches_and_sizes_may_change_after_the_first_call() -> None:
    """Weights are laid out for the first size; others stay right."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()).eval()
    fast = fuse(copy.deepcopy(module))
    with torch.inference_mode():
        for shape in ((1, 16, 64, 64), (5, 16, 7, 7), (1, 16, 1, 300), (0, 16, 7, 7)):
            x = torch.randn(shape).contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(fast(x), module(x), rtol=1e-5, atol=1e-5)


def test_linear_layers() -> None:
    """Two fully connected layers, as Faster R-CNN's box head has them; no row is a batch too."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(98, 32), nn.ReLU(), nn.Linear(32, 5)).eval()
    fast = fuse(copy.deepcopy(module))
    assert not [m for m in fast.modules() if isinstance(m, nn.Linear)]
    with torch.inference_mode():
        for rows in (7, 1, 0, 300):
            x = torch.randn(rows, 2, 7, 7).contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(fast(x), module(x), rtol=1e-5, atol=1e-5)


def test_a_feature_pyramid_adds_in_its_convolutions() -> None:
    spec = ref.spec("faster_rcnn", ref.CLASSES[:3], backbone="resnet18-fpn", fpn_channels=32)
    fast = fuse(fold_norms(build(spec).backbone))  # type: ignore[operator, union-attr]  # one R-CNN
    left = [node.target for node in fast.graph.nodes if node.op == "call_function"]  # type: ignore[union-attr, operator]
    assert left
    assert not set(left) & {operator.add, operator.iadd, torch.add}


@pytest.mark.skipif(not supported(torch.bfloat16), reason="this processor has no bfloat16")
def test_bfloat16_rounds_once() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()).eval()
    x = torch.randn(1, 64, 20, 20).bfloat16().contiguous(memory_format=torch.channels_last)
    fast = fuse(copy.deepcopy(module).bfloat16())
    with torch.inference_mode():
        exact = copy.deepcopy(module).bfloat16().float()(x.float())
        torch.testing.assert_close(fast(x).float(), exact, rtol=2**-8, atol=1e-2)
