"""What makes an image worth correcting, in three figures from 0 to 1: doubt, dispute and rarity.

doubt: instances with scores between noise and certainty. Each gives 1 - |2 score - 1|; of their sum s, s / (3 + s).
dispute: what the two newest models that have rows of the image do not both find (`review_match`).
rarity: the instance whose class has the fewest labels, times its score. A class without labels is 1, one that has all of
them 0, by logarithms in between. Images of one class are counted as if those before them had been labelled already:
the hundredth is not as rare as the first, so no class takes the whole budget.

An image's score is the mean of the three.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.review import candidates as review_rows
from masklake.pipeline.review import match as review_match
from masklake.pipeline.review.candidates import Bools, CandidateInstances, Candidates, Classes, Floats, Ints

NOISE = 0.1
"""Instances below this score are ignored."""

_SURE = 0.5
"""Where nothing is labelled, detections of at least this score stand for labels."""

_MUCH_DOUBT = 3.0
"""So many wholly doubtful instances make an image half doubtful."""

KINDS = ("doubt", "dispute", "rarity")


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The figures of each candidate, (candidates,). rarest: the class that makes it rare, as a position in `classes`; -1
    where nothing was found."""

    doubt: Floats
    dispute: Floats
    rarity: Floats
    rarest: Ints
    classes: list[str]

    @property
    def score(self) -> Floats:
        # Rounded, so that the rank does not depend on the order of a sum.
        return np.round((self.doubt + self.dispute + self.rarity) / 3, 9)


@dataclass(frozen=True, kw_only=True)
class Reach:
    """What a run could have found at all: the lowest score that it wrote, and its classes (None: not known)."""

    floor: float
    classes: frozenset[str] | None


def reach(lake: Lake, runs: list[str]) -> list[Reach]:
    """The reach of each of `runs`, from their records."""
    reaches = []
    for run in lake.runs(runs):
        options, model = (run.record.all_options, run.record.model) if run.record else ({}, {})
        classes, floor = options.get("classes") or model.get("classes"), options.get("score")
        reaches.append(
            Reach(
                floor=float(floor) if isinstance(floor, int | float) else 0.0,
                classes=frozenset(map(str, classes)) if isinstance(classes, list) and classes else None,
            )
        )
    return reaches


def figures(lake: Lake, chosen: Candidates, labels: Mapping[str, int]) -> Figures:
    """Score the candidates. `labels` counts the labelled instances of each class.

    Memory: a few numbers a candidate, and the instances of those that two models have seen.
    """
    classes = Classes()
    counts = dict(labels) or _count(lake, chosen)
    common = max(sum(counts.values()), 1)
    doubt = np.zeros(len(chosen))
    rarest = np.full(len(chosen), -1)
    rarity, sureness = np.zeros(len(chosen)), np.zeros(len(chosen))
    disputed: list[CandidateInstances] = [_NONE]
    comparable = _Comparable(lake, chosen, classes)
    for instances in review_rows.detections(lake, chosen, classes, NOISE):
        disputed.append(comparable(instances))
        mine = instances.where(instances.side == 0)
        score = mine.score.astype(np.float64)
        np.add.at(doubt, mine.image, (1 - np.abs(2 * score - 1)) / chosen.copies[mine.image])
        rare = score * _rare(_counts(counts, classes)[mine.label], common)
        np.maximum.at(rarity, mine.image, rare)
        best = rare == rarity[mine.image]
        rarest[mine.image[best]], sureness[mine.image[best]] = mine.label[best], score[best]
    doubt /= _MUCH_DOUBT + doubt
    dispute = review_match.disagreement(CandidateInstances.together(disputed), len(chosen))
    before = _before(rarest, doubt + dispute + rarity)
    seen = np.append(_counts(counts, classes), 0)[rarest] + before
    return Figures(
        doubt=doubt,
        dispute=dispute,
        rarity=np.where(rarest >= 0, sureness * _rare(seen, common), 0.0),
        rarest=rarest,
        classes=classes.names,
    )


_NONE = CandidateInstances(
    image=np.empty(0, np.int32),
    side=np.empty(0, np.int8),
    instance=np.empty(0, np.int32),
    label=np.empty(0, np.int32),
    score=np.empty(0, np.float32),
    box=np.empty((0, 4), np.float32),
)


def _rare(labels: Ints, total: int) -> Floats:
    """1 where a class has none of the labels, 0 where it has all."""
    return np.clip(1 - np.log1p(labels) / np.log1p(total), 0.0, 1.0)


def _counts(counts: Mapping[str, int], classes: Classes) -> Ints:
    return np.array([counts.get(name, 0) for name in classes.names], np.int64)


def _count(lake: Lake, chosen: Candidates) -> dict[str, int]:
    """Instances by class."""
    classes = Classes()
    counts: Ints = np.zeros(0, np.int64)
    for instances in review_rows.detections(lake, chosen, classes, _SURE):
        more = np.bincount(instances.label[instances.side == 0], minlength=len(classes.names))
        more[: len(counts)] += counts
        counts = more
    return dict(zip(classes.names, counts.tolist(), strict=True))


def _before(group: Ints, score: Floats) -> Ints:
    """How many of the same group have a higher score, or the same score and an earlier position."""
    order = np.lexsort((-np.round(score, 9), group))
    _, first, size = np.unique(group[order], return_index=True, return_counts=True)
    before = np.empty(len(group), np.int64)
    before[order] = np.arange(len(group)) - np.repeat(first, size)
    return before


class _Comparable:
    """Picks the instances that the other model's run could have found too, in images that have rows of another model.

    That run could not find classes that it does not know, or write scores below its lowest.
    """

    def __init__(self, lake: Lake, chosen: Candidates, classes: Classes) -> None:
        self._chosen = chosen
        self._classes = classes
        self._reaches = reach(lake, chosen.runs) if (chosen.other_run >= 0).any() else []
        self._floor = np.array([reach_.floor for reach_ in self._reaches])
        self._able: Bools = np.empty((len(self._reaches), 0), bool)

    def __call__(self, instances: CandidateInstances) -> CandidateInstances:
        instances = instances.where(self._chosen.other_run[instances.image] >= 0)
        if not len(instances):
            return _NONE
        if self._able.shape[1] < len(self._classes.names):
            self._able = np.array([
                [reach_.classes is None or name in reach_.classes for name in self._classes.names]
                for reach_ in self._reaches
            ])  # fmt: skip
        runs = np.where(
            instances.side == 0, self._chosen.other_run[instances.image], self._chosen.run[instances.image]
        )
        return instances.where((instances.score >= self._floor[runs]) & self._able[runs, instances.label])
