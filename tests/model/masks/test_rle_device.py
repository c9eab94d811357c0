"""RLE made on the device against `model.masks.rle`, which is held to torchvision and pycocotools."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from masklake.model.errors import ModelError
from masklake.model.masks import rle, rle_device

from tests.model.masks.test_rle import grids

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
        ],
    ),
]


def same(probs: np.ndarray, boxes: np.ndarray, size: tuple[int, int], device: str) -> None:
    found = rle_device.encode_masks(
        torch.from_numpy(probs).to(device), torch.from_numpy(boxes).to(device), size
    )
    assert found == rle.encode_masks(probs, boxes, size)


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["blob", "noise", "flat", "steps", "half", "near"]),
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    scale=st.floats(0.003, 3),
    side=st.sampled_from([28, 28, 1, 7]),
    pixels=st.sampled_from([1 << 24, 500, 1]),
)
def test_the_same_bytes(
    device: str, seed: int, kind: str, height: int, width: int, scale: float, side: int, pixels: int
) -> None:
    """Boxes across and outside the frame, of hardly any size, the whole frame; in one batch and in many."""
    rng = np.random.default_rng(seed)
    frame = np.array([width, height])
    middle = rng.uniform(-0.2, 1.2, (4, 2)) * frame
    reach = rng.uniform(0.3, 1, (4, 2)) * frame * scale / 2
    boxes = np.concatenate([middle - reach, middle + reach], axis=1).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rle_device, "_PIXELS", pixels)
        same(grids(rng, kind, 4, side), boxes, (height, width), device)


@pytest.mark.parametrize("device", DEVICES)
def test_full_frames_touching_columns_and_one_pixel(device: str) -> None:
    ones = np.ones((3, 28, 28), np.float32)
    for size in ((1, 1), (5, 9), (480, 640)):
        height, width = size
        boxes = np.array(
            [[0, 0, width, height], [-9, -9, width + 9, height + 9], [width, 0, width + 5, height]],
            np.float32,
        )
        same(ones, boxes, size, device)


def test_none() -> None:
    assert rle_device.encode_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), (5, 5)) == []


def test_bad_input_is_named() -> None:
    with pytest.raises(ModelError, match=r"\(1, 28, 27\).*not \(N, M, M\)"):
        rle_device.encode_masks(torch.zeros(1, 28, 27), torch.zeros(1, 4), (5, 5))
    with pytest.raises(ModelError, match="not finite"):
        rle_device.encode_masks(torch.full((1, 28, 28), torch.nan), torch.zeros(1, 4), (5, 5))
