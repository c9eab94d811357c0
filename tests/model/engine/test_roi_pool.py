"""RoIAlign by rows against torchvision's MultiScaleRoIAlign."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from masklake.model.engine.roi_pool import RoiPool
from masklake.model.engine.rois import Rois
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

SCALES = [1 / 4, 1 / 8, 1 / 16]
HEIGHT, WIDTH = 96, 160


def pool_of(cells: int, samples: int, levels: int = 3) -> MultiScaleRoIAlign:
    pool = MultiScaleRoIAlign([str(i) for i in range(levels)], cells, samples)
    pool.scales = SCALES[:levels]
    pool.map_levels = LevelMapper(2, 1 + levels, canonical_scale=64, canonical_level=3)
    return pool


def features(images: int, levels: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        str(i): torch.randn(images, 8, int(HEIGHT * s), int(WIDTH * s), generator=generator)
        for i, s in enumerate(SCALES[:levels])
    }


coordinate = st.floats(-60, 260, width=32)


@given(
    st.lists(st.tuples(coordinate, coordinate, coordinate, coordinate), max_size=6),
    st.sampled_from([(7, 2), (14, 2), (3, 1), (5, 3)]),
    st.sampled_from([1, 3]),
)
def test_as_torchvision(corners: list[tuple[float, ...]], grid: tuple[int, int], levels: int) -> None:
    """Boxes inside, across and outside the frame, and of no size."""
    a, b = torch.tensor(corners, dtype=torch.float32).reshape(-1, 2, 2).unbind(1)
    boxes = torch.cat([torch.minimum(a, b), torch.maximum(a, b)], 1)
    split = [boxes[: len(boxes) // 2], boxes[len(boxes) // 2 :]]
    pool, maps = pool_of(*grid, levels), features(2, levels)
    expected = pool(maps, split, [(HEIGHT, WIDTH)] * 2)
    maps = {name: m.contiguous(memory_format=torch.channels_last) for name, m in maps.items()}
    pooled = RoiPool(pool)(maps, Rois.of_images(split))
    torch.testing.assert_close(pooled, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(RoiPool(pool, at_once=True)(maps, Rois.of_images(split)), pooled)


def test_results_lie_channels_last_in_the_features_dtype() -> None:
    maps = {
        name: m.bfloat16().contiguous(memory_format=torch.channels_last) for name, m in features(1).items()
    }
    boxes = [torch.tensor([[3.0, 4.0, 50.0, 60.0], [0.0, 0.0, 150.0, 90.0]])]
    pooled = RoiPool(pool_of(7, 2))(maps, Rois.of_images(boxes))
    assert pooled.dtype == torch.bfloat16
    assert pooled.is_contiguous(memory_format=torch.channels_last)
    expected = pool_of(7, 2)({name: m.float() for name, m in maps.items()}, boxes, [(HEIGHT, WIDTH)])
    torch.testing.assert_close(pooled.float(), expected, rtol=0.02, atol=0.02)


def test_a_pool_without_scales_is_refused() -> None:
    with pytest.raises(ValueError, match="no scales"):
        RoiPool(MultiScaleRoIAlign(["0"], 7, 2))
