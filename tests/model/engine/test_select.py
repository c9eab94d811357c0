"""Boxes of a batch at once against torchvision's own selection, image by image."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from masklake.model.engine.rois import Rois
from masklake.model.engine.select import FixedShapes, Rule, TrueCounts, UnsettledError, survivors
from torch import Tensor
from torchvision.ops import nms

OUTPUTS = torch.arange(1, 6)


def boxes(generator: torch.Generator, *shape: int, side: float = 100) -> Tensor:
    """(..., 4), many of which overlap."""
    centre, half = (torch.rand(*shape, 2, generator=generator) * scale for scale in (side, side / 3))
    return torch.cat([(centre - half).clamp(min=0), (centre + half).clamp(max=side)], -1)


def scores(generator: torch.Generator, *shape: int) -> Tensor:
    """No two alike in a row: the order of equal ones is left open by torch's sort."""
    n = int(np.prod(shape[1:]))
    order = torch.stack([torch.randperm(n, generator=generator) for _ in range(shape[0])])
    return (order.float() / n).view(*shape)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 60),
    st.floats(0.05, 0.95),
    st.sampled_from([3.0, 20.0, 100.0]),
    st.booleans(),
)
def test_nms_by_rounds_is_torchvisions(
    seed: int, s: int, threshold: float, grid: float, grouped: bool
) -> None:
    """Also where boxes are alike, empty or of no use, and where overlaps are as large as the threshold."""
    generator = torch.Generator().manual_seed(seed)
    boxes_NS4 = (boxes(generator, 3, s) / 100 * grid).round() * (100 / grid)
    alive_NS = torch.rand(3, s, generator=generator) > 0.2
    group_NS = torch.randint(0, 3, (3, s), generator=generator) if grouped else torch.zeros(3, s).long()
    keep_NS, settled_N = survivors(boxes_NS4, alive_NS, threshold, group_NS, rounds=s + 1)
    assert settled_N.all()
    for row, keep_S in enumerate(keep_NS):
        expected = []
        for group in range(3):
            rows = torch.where(alive_NS[row] & (group_NS[row] == group))[0]
            falling = torch.arange(len(rows), 0, -1).float()
            expected += rows[nms(boxes_NS4[row, rows], falling, threshold)].tolist()
        assert torch.where(keep_S)[0].tolist() == sorted(expected)


def test_a_threshold_that_float32_rounds_up() -> None:
    """0.3 is less than the nearest float32, so that an overlap of just that is more than 0.3; 0.7 is more than its."""
    for threshold, expected in ((0.3, 1), (0.7, 2)):
        overlap = float(np.float32(threshold))
        pair = torch.tensor([[0, 0, 1, 1], [0, 0, 1, overlap]])
        keep, _ = survivors(pair[None], torch.ones(1, 2, dtype=torch.bool), threshold, rounds=3)
        assert keep.sum() == len(nms(pair, torch.tensor([1.0, 0.5]), threshold)) == expected


def test_a_chain_longer_than_the_rounds_is_told() -> None:
    """Each box suppresses the next alone: every second stays, which takes as many rounds as there are boxes."""
    left = torch.arange(20.0)[:, None]
    chain = torch.cat([left, left * 0, left + 2.2, left * 0 + 1], 1)[None]
    alive = torch.ones(1, 20, dtype=torch.bool)
    for rounds in (5, 30):
        keep, settled = survivors(chain, alive, 0.3, rounds=rounds)
        assert bool(settled) == (rounds == 30)
    assert keep[0].tolist() == [True, False] * 10


LEVELS = [40, 25, 7]
PROPOSALS = Rule(min_side=1, min_score=0.1, threshold=0.6, most=30)
DETECTIONS = Rule(min_score=0.3, threshold=0.5, most=12)


def proposed(generator: torch.Generator, most: int = 30) -> tuple[Rois, Rois]:
    candidates = boxes(generator, 4, sum(LEVELS))
    candidates[1, 10:] = 0  # of no size: an image with few proposals
    candidates[2] = 0  # and one with none
    ranked = [
        part.sort(1, descending=True).values for part in scores(generator, 4, sum(LEVELS)).split(LEVELS, 1)
    ]
    rule = Rule(min_side=1, min_score=0.1, threshold=0.6, most=most)
    true, fixed = (
        way.proposals(candidates, torch.cat(ranked, 1), LEVELS, rule)
        for way in (TrueCounts(OUTPUTS), FixedShapes())
    )
    return true, fixed


def test_proposals_of_fixed_shapes_are_those_of_true_counts() -> None:
    true, fixed = proposed(torch.Generator().manual_seed(1))
    assert fixed.counts == [30] * 4
    assert fixed.present is not None
    assert fixed.settled is not None
    assert fixed.settled.all()
    assert true.counts == fixed.present.view(4, 30).sum(1).tolist()
    assert true.counts[2] == 0 < true.counts[1] < true.counts[0] == 30
    assert torch.equal(true.boxes, fixed.boxes[fixed.present])
    assert torch.equal(true.image, fixed.image[fixed.present])


def chosen(
    generator: torch.Generator, most: int, **limits: int
) -> tuple[tuple[Tensor, Tensor, Tensor, list[int]], tuple[Tensor, Tensor, Tensor, list[int]]]:
    true, fixed = proposed(generator)
    assert fixed.present is not None
    scores_RK = scores(generator, 1, len(fixed.boxes), 5)[0]
    deltas_RK4 = torch.rand(len(fixed.boxes), 5, 4, generator=generator) * 20
    rule = Rule(min_score=0.3, threshold=0.5, most=most)
    selected = []
    for way, rois, rows in (
        (TrueCounts(OUTPUTS), true, torch.where(fixed.present)[0]),
        (FixedShapes(**limits), fixed, torch.arange(len(fixed.boxes))),
    ):

        def decode(r: Tensor, k: Tensor, rois: Rois = rois, rows: Tensor = rows) -> Tensor:
            return rois.boxes[r] + deltas_RK4[rows[r], k]

        detected = way.detections(rois, scores_RK[rows], decode, rule)
        assert detected.kinds.tolist() == detected.kinds_on_host.tolist()
        selected.append((detected.rois.boxes, detected.scores, detected.kinds, detected.rois.counts))
    return selected[0], selected[1]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("most", "limits"), [(12, {}), (500, {}), (3, {"candidates": 30})])
def test_detections_of_fixed_shapes_are_those_of_true_counts(
    seed: int, most: int, limits: dict[str, int]
) -> None:
    true, fixed = chosen(torch.Generator().manual_seed(seed), most, **limits)
    assert true[3] == fixed[3]
    assert true[3][2] == 0 < true[3][1] <= true[3][0]
    for a, b in zip(true[:3], fixed[:3], strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("limits", [{"candidates": 20}, {"rounds": 1}])
def test_limits_that_do_not_suffice_are_told(limits: dict[str, int]) -> None:
    with pytest.raises(UnsettledError):
        chosen(torch.Generator().manual_seed(0), 500, **limits)
