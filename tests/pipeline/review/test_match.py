"""How far two models disagree: by hand, and against going through the pairs one by one."""

from __future__ import annotations

import numpy as np
import pytest
from masklake.pipeline.review.candidates import CandidateInstances
from masklake.pipeline.review.match import SAME, disagreement, matches

Row = tuple[int, int, int, float, tuple[float, float, float, float]]


def detections(*rows: Row) -> CandidateInstances:
    """Rows of image, side, label, score, box."""
    image, side, label, score, box = zip(*rows, strict=True) if rows else ((),) * 5
    return CandidateInstances(
        image=np.array(image, np.int32),
        side=np.array(side, np.int8),
        instance=np.arange(len(rows), dtype=np.int32),
        label=np.array(label, np.int32),
        score=np.array(score, np.float32),
        box=np.array(box, np.float32).reshape(-1, 4),
    )


def test_what_both_find_is_agreed_and_the_rest_is_not() -> None:
    box, near, far = (0, 0, 10, 10), (1, 0, 10, 10), (50, 0, 10, 10)
    instances = detections(
        # 0: both, alike. 1: one alone. 2: another class. 3: another place. 4: less sure. 5: nothing at all.
        (0, 0, 1, 0.9, box), (0, 1, 1, 0.9, near),
        (1, 0, 1, 0.9, box),
        (2, 0, 1, 0.9, box), (2, 1, 2, 0.9, box),
        (3, 0, 1, 0.9, box), (3, 1, 1, 0.9, far),
        (4, 0, 1, 0.9, box), (4, 1, 1, 0.3, box),
    )  # fmt: skip
    assert disagreement(instances, 6) == pytest.approx(
        [0, 1 - 1 / 1.9, 1 - 1 / 2.8, 1 - 1 / 2.8, 1 - 1.6 / 2.2, 0]
    )


def test_rows_that_are_there_twice_count_once() -> None:
    instances = detections((0, 0, 1, 0.9, (0, 0, 10, 10)), (0, 1, 1, 0.9, (0, 0, 10, 10)))
    assert disagreement(CandidateInstances.together([instances, instances]), 1) == pytest.approx([0])


def test_matches_are_those_of_going_through_the_ranks() -> None:
    rng = np.random.default_rng(3)

    def some(side: int) -> CandidateInstances:
        corner = rng.integers(0, 12, (300, 2))
        return detections(
            *((int(i), side, int(c), 0.5, (*xy, 10, 10)) for i, c, xy in zip(
                rng.integers(0, 8, 300), rng.integers(0, 2, 300), corner.tolist(), strict=True
            ))
        )  # fmt: skip

    ours, theirs = some(0), some(1)
    a, b = matches(ours, theirs)

    def iou(i: int, j: int) -> float:
        width, height = (10 - abs(ours.box[i] - theirs.box[j])[:2]).clip(0)
        return float(width * height / (200 - width * height))

    pairs = [
        (i, j)
        for i in range(300)
        for j in range(300)
        if (ours.image[i], ours.label[i]) == (theirs.image[j], theirs.label[j]) and iou(i, j) >= SAME
    ]
    used_a: set[int] = set()
    used_b: set[int] = set()
    greedy = set()
    for i, j in sorted(pairs, key=lambda pair: -iou(*pair)):
        if i not in used_a and j not in used_b:
            greedy.add((i, j))
            used_a.add(i)
            used_b.add(j)
    instances = set(zip(a.tolist(), b.tolist(), strict=True))
    assert len({i for i, _ in instances}) == len({j for _, j in instances}) == len(instances)
    assert instances == greedy
    assert len(greedy) > 50


def test_nothing_matches_nothing() -> None:
    a, b = matches(detections(), detections((0, 1, 1, 0.9, (0, 0, 1, 1))))
    assert (len(a), len(b)) == (0, 0)
