"""How far two models disagree about an image, computed for many images at once."""

from __future__ import annotations

import numpy as np
from masklake.model.boxes import iou_xywh
from masklake.pipeline.review.candidates import Bools, CandidateInstances, Floats, Ints

SAME = 0.5
"""From this IoU of their boxes on, two instances of one class are the same object."""

_IMAGES_AT_ONCE = 20_000
"""Bounds the number of pairs of boxes in memory."""


def disagreement(instances: CandidateInstances, images: int) -> Floats:
    """0 to 1 for each of `images`: the share of the two sides' instances that the other side did not find.

    1 - F, with F the Dice coefficient of the two sets of instances, each weighted by its score: in a matched pair, the
    smaller score counts as found by both. Each side gets half an agreed instance more, so that a single faint
    instance does not make a whole image disputed.
    """
    order = np.argsort(instances.image, kind="stable")
    image = instances.image[order]
    common, total = np.zeros(images), np.zeros(images)
    for first in range(0, images, _IMAGES_AT_ONCE):
        low, high = np.searchsorted(image, [first, first + _IMAGES_AT_ONCE])
        block = _distinct(instances.where(order[low:high]))
        ours, theirs = block.where(block.side == 0), block.where(block.side == 1)
        a, b = matches(ours, theirs)
        np.add.at(common, ours.image[a], 2 * np.minimum(ours.score[a], theirs.score[b]))
        np.add.at(total, block.image, block.score)
    return 1 - (common + 1) / (total + 1)


def matches(ours: CandidateInstances, theirs: CandidateInstances) -> tuple[Ints, Ints]:
    """Positions of the instances that are the same object: those of one class that overlap most, each used once."""
    key, their_key = (side.image.astype(np.int64) << 32 | side.label for side in (ours, theirs))
    order = np.argsort(their_key, kind="stable")
    first = np.searchsorted(their_key[order], key, "left")
    count = np.searchsorted(their_key[order], key, "right") - first
    a = np.repeat(np.arange(len(ours)), count)
    nth = np.arange(len(a)) - np.repeat(np.cumsum(count) - count, count)
    b = order[np.repeat(first, count) + nth]
    iou = iou_xywh(ours.box[a], theirs.box[b])
    ranked = np.argsort(-iou, kind="stable")
    ranked = ranked[iou[ranked] >= SAME]
    a, b = a[ranked], b[ranked]
    matched_a, matched_b = [a[:0]], [b[:0]]
    while len(a):
        # A pair that is the best remaining one for both of its instances is the one that a greedy pass would take.
        best = _first(a) & _first(b)
        matched_a.append(a[best])
        matched_b.append(b[best])
        free = ~np.isin(a, a[best]) & ~np.isin(b, b[best])
        a, b = a[free], b[free]
    return np.concatenate(matched_a), np.concatenate(matched_b)


def _first(values: Ints) -> Bools:
    """True where a value appears for the first time."""
    is_first = np.zeros(len(values), bool)
    is_first[np.unique(values, return_index=True)[1]] = True
    return is_first


def _distinct(instances: CandidateInstances) -> CandidateInstances:
    """The instances, each once: a killed attempt may have left some twice."""
    order = np.lexsort((instances.instance, instances.side, instances.image))
    instances = instances.where(order)
    same = np.ones(len(instances), bool)
    same[1:] = (
        (np.diff(instances.image) != 0) | (np.diff(instances.side) != 0) | (np.diff(instances.instance) != 0)
    )
    return instances.where(same)
