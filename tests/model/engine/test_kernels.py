"""Our CUDA kernels and the layers fused on a GPU, against the ways that a CPU goes."""

import copy
import functools
import importlib.resources
import shutil
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from masklake.model.engine import fused_gpu, kernel_check, roi_pool, select
from masklake.model.engine.box_deltas import decode
from masklake.model.engine.fold import fold_norms
from masklake.model.engine.fuse import fuse
from masklake.model.engine.roi_pool import RoiPool
from masklake.model.engine.rois import Rois
from masklake.model.engine.rpn import SparseConv
from masklake.model.engine.select import survivors
from masklake.model.networks.build import build
from torch import nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

from tests.helpers import reference as ref
from tests.helpers.cuda_on_host import on_host

gpu = pytest.mark.gpu
without = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")


def boxes(generator: torch.Generator, *shape: int, side: float) -> torch.Tensor:
    centre, half = (torch.rand(*shape, 2, generator=generator) * scale for scale in (side, side / 4))
    return torch.cat([centre - half, centre + half], -1)


def test_boxes_are_torchvisions_to_the_last_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    for weights in ((1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)):
        coder = BoxCoder(weights)
        deltas = torch.randn(500, 4, generator=generator) * 9
        deltas[:3] = torch.tensor([torch.nan, torch.inf, -torch.inf])[:, None]
        anchors = boxes(generator, 500, side=300)
        for part in (slice(0, 500), slice(0, 0)):
            expected = coder.decode_single(deltas[part], anchors[part])
            np.testing.assert_array_equal(decode(coder, deltas[part], anchors[part]), expected)


def test_what_a_gpu_fuses() -> None:
    """1 x 1 convolutions become matrix products, others take their activation and shortcut with them; the rest stays."""
    spec = ref.spec("faster_rcnn", ref.CLASSES[:3], backbone="resnet50-fpn")
    backbone = fold_norms(ref.excite(build(spec), 0).backbone)  # type: ignore[arg-type, union-attr]  # one R-CNN
    fast = fuse(copy.deepcopy(backbone), fused_gpu.layer)
    kinds = [type(module) for module in fast.modules()]
    assert kinds.count(fused_gpu.CudnnConv) == 33  # the stem, 16 of 3 x 3, 16 with a shortcut
    assert kinds.count(fused_gpu.CublasLinear) == 16 + 1 + 4  # before them; the first shortcut; the pyramid's
    assert kinds.count(nn.Conv2d) == 3 + 4  # shortcuts of stride 2; the pyramid's outputs
    assert nn.ReLU not in kinds


def test_layers_that_no_library_fuses_stay() -> None:
    def layer(module: nn.Module, activation: str, adds: bool = False) -> nn.Module | None:
        return fused_gpu.layer(module, activation, [], adds)

    assert layer(nn.Conv2d(8, 8, 3), "hardswish") is None
    assert layer(nn.Conv2d(8, 8, 3, groups=8), "relu") is None
    assert layer(nn.Conv2d(8, 8, 3, bias=False), "relu") is None
    assert layer(nn.Conv2d(8, 8, 3), "none", adds=True) is None
    linear = layer(nn.Conv2d(8, 4, 1), "relu")
    assert isinstance(linear, fused_gpu.CublasLinear)


def test_a_convolution_of_1_x_1_as_a_product() -> None:
    conv = nn.Conv2d(16, 24, 1)
    x = torch.randn(2, 16, 9, 7).contiguous(memory_format=torch.channels_last)
    for activation in ("none", "relu"):
        fast = fused_gpu.layer(conv, activation, [], False)
        assert fast is not None
        with torch.inference_mode():
            expected = conv(x).relu() if activation == "relu" else conv(x)
            result = fast(x)
            torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
            assert result.is_contiguous(memory_format=torch.channels_last)
            assert fast(x[:0]).shape == (0, 24, 9, 7)


@gpu
@without
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_fused_layer_of_a_backbone(dtype: torch.dtype) -> None:
    spec = ref.spec("faster_rcnn", ref.CLASSES[:3], backbone="resnet50-fpn")
    backbone = fold_norms(ref.excite(build(spec), 0).backbone)  # type: ignore[arg-type, union-attr]  # one R-CNN
    exact = copy.deepcopy(backbone).cuda().double()
    plain = copy.deepcopy(backbone).cuda().to(dtype).to(memory_format=torch.channels_last)
    fast = fuse(copy.deepcopy(plain), fused_gpu.layer)
    images = torch.rand(2, 3, 96, 128).cuda()
    x = images.to(dtype).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected, rough, result = exact(images.double()), plain(x), fast(x)
        for level, features in expected.items():
            error, usual = ((maps[level] - features).norm() / features.norm() for maps in (result, rough))
            assert error < 1.5 * usual + 1e-6


@pytest.fixture(scope="module")
def kernels_on_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Kernels that are asked for on a CPU run there, compiled as C++."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ on this machine")
    folder = tmp_path_factory.mktemp("kernels")

    @functools.cache
    def kernel(name: str, device: torch.device, define: str = "") -> Callable[..., None]:
        assert device.type == "cpu"
        return on_host(name, define, folder)

    with pytest.MonkeyPatch.context() as patch:
        for user in (select, roi_pool):
            patch.setattr(user, "kernel", kernel)
        yield


@pytest.mark.usefixtures("kernels_on_host")
@pytest.mark.parametrize(
    ("device", "s"),
    [
        *(("cpu", s) for s in (1, 64, 65, 130)),
        *(pytest.param("cuda", s, marks=[gpu, without]) for s in (1, 65, 1000, 2049)),
    ],
)
@pytest.mark.parametrize("side", [3.0, 100.0])
def test_a_kernel_suppresses_what_rounds_do(s: int, side: float, device: str) -> None:
    generator = torch.Generator().manual_seed(s)
    boxes_NS4 = (boxes(generator, 3, s, side=side) * 8).round() / 8
    alive_NS = torch.rand(3, s, generator=generator) > 0.2
    for groups in (None, torch.randint(0, 3, (3, s), generator=generator)):
        expected, settled = survivors(boxes_NS4, alive_NS, 0.5, groups, rounds=s + 1)
        assert settled.all()
        there = None if groups is None else groups.to(device)
        keep, _ = survivors(boxes_NS4.to(device), alive_NS.to(device), 0.5, there, rounds=s + 1, kernels=True)
        assert torch.equal(keep.cpu(), expected)


@pytest.mark.usefixtures("kernels_on_host")
@pytest.mark.parametrize(
    ("device", "dtype"),
    [
        ("cpu", torch.float32),
        ("cpu", torch.bfloat16),
        *(
            pytest.param("cuda", dtype, marks=[gpu, without])
            for dtype in (torch.float32, torch.bfloat16, torch.float16)
        ),
    ],
)
@pytest.mark.parametrize(("cells", "samples", "levels"), [(7, 2, 3), (14, 2, 3), (5, 3, 1)])
def test_a_kernel_aligns_as_torchvision(
    dtype: torch.dtype, device: str, cells: int, samples: int, levels: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    pool = MultiScaleRoIAlign([str(i) for i in range(levels)], cells, samples)
    pool.scales = [1 / 4, 1 / 8, 1 / 16][:levels]
    pool.map_levels = LevelMapper(2, 1 + levels, canonical_scale=64, canonical_level=3)
    maps = {
        str(i): torch.randn(2, 40, 96 >> i, 160 >> i, generator=generator).to(dtype) for i in range(levels)
    }
    split = [boxes(generator, 20, side=400), boxes(generator, 0, side=400)]
    for half in (split, split[::-1], [split[1], split[1]]):
        expected = pool({name: level.float() for name, level in maps.items()}, half, [(384, 640)] * 2)
        there = {name: m.to(device).contiguous(memory_format=torch.channels_last) for name, m in maps.items()}
        ours = RoiPool(pool, at_once=True, kernels=True)
        result = ours(there, Rois.of_images([part.to(device) for part in half]))
        assert result.dtype == dtype
        assert result.is_contiguous(memory_format=torch.channels_last)
        tolerance = {torch.float32: 2e-4, torch.bfloat16: 1e-2, torch.float16: 3e-3}[dtype]
        torch.testing.assert_close(result.float().cpu(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.usefixtures("kernels_on_host")
def test_kernels_are_tried_before_they_are_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kernel_check, "_TOLERANCE", {torch.float32: 1e-3, torch.bfloat16: 3e-2})
    check = kernel_check.agree.__wrapped__
    assert check(torch.device("cpu"))
    right = roi_pool.kernel
    monkeypatch.setattr(
        roi_pool, "kernel", lambda *args: lambda grid, block, args: args[5].fill_(1.0) if right else None
    )
    assert not check(torch.device("cpu"))
    assert "they are not used" in caplog.text


@pytest.mark.parametrize("capability", ["75", "80", "90"])
@pytest.mark.parametrize(
    ("name", "define"),
    [("overlaps", ""), ("sweep", ""), *(("roi_align", d) for d in roi_pool._MACROS.values())],
)
def test_every_kernel_compiles_for_every_gpu(name: str, define: str, capability: str) -> None:
    """NVRTC needs no GPU; torch brings it."""
    compiling = pytest.importorskip("torch.cuda._utils")
    source = (importlib.resources.files("masklake.model.engine") / f"{name}.cu").read_text()
    try:
        compiling._get_gpu_rtc_library()
    except (AttributeError, OSError) as error:
        pytest.skip(f"no NVRTC on this machine: {error}")
    whole = f"#define {define}\n{source}" if define else source
    binary, _ = compiling._nvrtc_compile(whole, name, compute_capability=capability)
    assert len(binary) > 1000


@gpu
@without
def test_products_in_two_parts_are_nearly_float32s() -> None:
    conv = nn.Conv2d(64, 32, 3, padding=1).cuda()
    x = torch.randn(2, 64, 12, 10).cuda().bfloat16()
    position = torch.randint(0, 120, (2, 50)).cuda()
    with torch.inference_mode():
        result = SparseConv(conv, once=False)(x, position)
        maps = copy.deepcopy(conv).double()(x.double()).relu().flatten(2).transpose(1, 2)
        expected = maps.gather(1, position[..., None].expand(-1, -1, 32))
        torch.testing.assert_close(result.double(), expected, rtol=1e-4, atol=1e-4)
