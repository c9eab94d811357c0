"""Joints from heat maps, against torchvision's loop."""

import pytest
import torch
from masklake.model.engine import keypoints
from masklake.model.engine.keypoints import place_keypoints
from torchvision.models.detection.roi_heads import heatmaps_to_keypoints


def random_boxes(count: int, largest: float) -> torch.Tensor:
    corner = torch.rand(count, 2) * 300 - 20
    return torch.cat([corner, corner + torch.rand(count, 2) * largest], 1)


def peaks(count: int, n_keypoints: int) -> torch.Tensor:
    """Maps as a trained head gives them: a smooth peak, and noise."""
    y, x = torch.meshgrid(torch.arange(56.0), torch.arange(56.0), indexing="ij")
    middle = torch.rand(count, n_keypoints, 2, 1, 1) * 56
    away = (x - middle[:, :, 0]) ** 2 + (y - middle[:, :, 1]) ** 2
    return 12 * torch.exp(-away / 18) - 4 + torch.randn(count, n_keypoints, 56, 56) * 0.1


@pytest.mark.parametrize("largest", [0.5, 30, 150, 400])
@pytest.mark.parametrize("kind", ["peaks", "noise", "steps", "flat"])
def test_same_places_as_torchvision(largest: float, kind: str) -> None:
    torch.manual_seed(int(largest))
    count = 40 if largest < 100 else 8
    maps = {
        "peaks": peaks(count, 17),
        "noise": torch.randn(count, 17, 56, 56),
        "steps": torch.randint(0, 3, (count, 17, 56, 56)).float(),  # many places are equally high
        "flat": torch.zeros(count, 17, 56, 56),
    }[kind]
    boxes = random_boxes(count, largest)
    places, logits = heatmaps_to_keypoints(maps, boxes)
    located = place_keypoints(maps, boxes)
    assert located.shape == (count, 17, 3)
    torch.testing.assert_close(located[..., :2], places[..., :2], rtol=0, atol=1e-3)
    torch.testing.assert_close(located[..., 2], logits, rtol=1e-5, atol=1e-4)


def test_sizes_of_all_kinds_at_once() -> None:
    """RoIs of no pixel, of one, of a thousand, upside down, and maps with the same height at several places."""
    torch.manual_seed(3)
    boxes = torch.tensor([
        [5, 5, 5, 5], [5, 5, 6, 6], [5.3, 5.2, 5.9, 400], [0, 0, 1000, 1.5], [-20, -30, 980, 770],
        [50, 50, 20, 20], [10, 10, 66, 66], [10, 10, 122, 122], [3.7, 8.1, 90.2, 141.9],
    ])  # fmt: skip
    maps = peaks(len(boxes), 5)
    maps[:, 1] = maps[:, 1].round()
    maps[:, 2] = 0
    maps[:, 2, [0, 20, 20, 55], [55, 7, 40, 0]] = 3
    maps[:, 3] = torch.maximum(maps[:, 3], maps[:, 3].flip(2))
    places, logits = heatmaps_to_keypoints(maps, boxes)
    located = place_keypoints(maps, boxes)
    torch.testing.assert_close(located[..., :2], places[..., :2], rtol=0, atol=1e-3)
    torch.testing.assert_close(located[..., 2], logits, rtol=1e-5, atol=1e-4)


def test_batches_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for maps without a single highest pixel, which on a CPU torch decides."""
    torch.manual_seed(4)
    maps, boxes = torch.randint(0, 3, (4, 17, 56, 56)).float(), random_boxes(4, 90)
    places, logits = heatmaps_to_keypoints(maps, boxes)
    monkeypatch.setattr(keypoints, "_MANY", 1 << 30)
    monkeypatch.setattr(keypoints, "_CELLS", 1000)
    monkeypatch.setattr(keypoints, "_PIXELS", 1000)
    located = place_keypoints(maps, boxes)
    torch.testing.assert_close(located[..., :2], places[..., :2], rtol=0, atol=1e-3)
    torch.testing.assert_close(located[..., 2], logits, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_map_that_is_not_finite_costs_the_others_nothing(value: float) -> None:
    torch.manual_seed(5)
    maps, boxes = peaks(6, 5), random_boxes(6, 90)
    expected = place_keypoints(maps, boxes)
    bad = maps.clone()
    bad[2, 3, 10, 10], bad[4] = value, value
    located = place_keypoints(bad, boxes)
    sound = torch.ones(6, 5, dtype=torch.bool)
    sound[2, 3], sound[4] = False, False
    torch.testing.assert_close(located[sound], expected[sound], rtol=0, atol=0)
    assert located[~sound][:, 2].isnan().all()


def test_no_boxes() -> None:
    assert place_keypoints(torch.zeros(0, 17, 56, 56), torch.zeros(0, 4)).shape == (0, 17, 3)
