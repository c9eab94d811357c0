"""Whether our own CUDA kernels do what torch's operators do, tried on the device where they are to be used."""

import functools
import logging

import torch
from masklake.model.engine.roi_pool import RoiPool
from masklake.model.engine.rois import Rois
from masklake.model.engine.select import survivors
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

_log = logging.getLogger(__name__)

_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.float16: 1e-2}


@functools.cache
def agree(device: torch.device) -> bool:
    """Whether kernels can be trusted on a device; where they cannot, that is logged, and torch's operators do their work."""
    try:
        trusted = _suppression_agrees(device) and all(_pool_agrees(device, dtype) for dtype in _TOLERANCE)
    except RuntimeError as error:
        _log.warning("%s: our CUDA kernels do not run: %s", device, error)
        return False
    if not trusted:
        _log.warning("%s: our CUDA kernels do not give what torch's operators do; they are not used", device)
    return trusted


def _boxes(generator: torch.Generator, *shape: int) -> Tensor:
    """(..., 4), many of which overlap, some beyond a frame of 160 pixels a side."""
    centre, half = (torch.rand(*shape, 2, generator=generator) * side for side in (160, 40))
    return torch.cat([centre - half, centre + half], -1)


def _suppression_agrees(device: torch.device) -> bool:
    generator = torch.Generator().manual_seed(0)
    boxes_NS4 = _boxes(generator, 2, 150).round().to(device)
    alive_NS = (torch.rand(2, 150, generator=generator) > 0.1).to(device)
    group_NS = torch.randint(0, 2, (2, 150), generator=generator).to(device)
    kept = [survivors(boxes_NS4, alive_NS, 0.5, group_NS, rounds=151, kernels=k)[0] for k in (True, False)]
    return torch.equal(*kept)


def _pool_agrees(device: torch.device, dtype: torch.dtype) -> bool:
    generator = torch.Generator().manual_seed(0)
    pool = MultiScaleRoIAlign(["0", "1"], 7, 2)
    pool.scales, pool.map_levels = [1 / 4, 1 / 8], LevelMapper(2, 3, canonical_scale=64, canonical_level=3)
    maps = {
        str(level): torch.randn(2, 16, 40 >> level, 40 >> level, generator=generator)
        .to(device, dtype)
        .contiguous(memory_format=torch.channels_last)
        for level in (0, 1)
    }
    rois = Rois.of_images(list(_boxes(generator, 2, 30).to(device)))
    ours, usual = (RoiPool(pool, at_once=True, kernels=k)(maps, rois).float() for k in (True, False))
    return torch.allclose(ours, usual, rtol=_TOLERANCE[dtype], atol=_TOLERANCE[dtype])
