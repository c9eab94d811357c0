"""How far two models disagree about an image, of many images at once."""

from __future__ import annotations

import numpy as np
from masklake.model.boxes import iou_xywh
from masklake.pipeline.review.candidates import Bools, CandidateInstances, Floats, Ints

SAME = 0.5
"""From this IoU of their boxes on, two instances of one class are the same object."""

_IMAGES_AT_ONCE = 20_000
"""Bounds the pairs of boxes that are held."""


def disagreement(found: CandidateInstances, images: int) -> Floats:
    """0 to 1 for each of `images`: how much of what the two sides found is not found by the other.

    1 - F, with F the Dice coefficient of the two sets of instances, each worth its score: of a matched pair what both
    scores have in common counts as found by both. One half of each is added as if it were agreed upon, so that a
    single faint instance does not make a whole image disputed.
    """
    order = np.argsort(found.image, kind="stable")
    image = found.image[order]
    common, total = np.zeros(images), np.zeros(images)
    for first in range(0, images, _IMAGES_AT_ONCE):
        low, high = np.searchsorted(image, [first, first + _IMAGES_AT_ONCE])
        block = _distinct(found.where(order[low:high]))
        one, other = block.where(block.side == 0), block.where(block.side == 1)
        a, b = matches(one, other)
        np.add.at(common, one.image[a], 2 * np.minimum(one.score[a], other.score[b]))
        np.add.at(total, block.image, block.score)
    return 1 - (common + 1) / (total + 1)


def matches(one: CandidateInstances, other: CandidateInstances) -> tuple[Ints, Ints]:
    """Positions of the instances that are the same object: those of one class that overlap most, each used once."""
    key, other_key = (side.image.astype(np.int64) << 32 | side.label for side in (one, other))
    order = np.argsort(other_key, kind="stable")
    first = np.searchsorted(other_key[order], key, "left")
    count = np.searchsorted(other_key[order], key, "right") - first
    a = np.repeat(np.arange(len(one)), count)
    nth = np.arange(len(a)) - np.repeat(np.cumsum(count) - count, count)
    b = order[np.repeat(first, count) + nth]
    iou = iou_xywh(one.box[a], other.box[b])
    ranked = np.argsort(-iou, kind="stable")
    ranked = ranked[iou[ranked] >= SAME]
    a, b = a[ranked], b[ranked]
    matched_a, matched_b = [a[:0]], [b[:0]]
    while len(a):
        # A pair that is the best left for both of its instances is the one that going through the ranks would take.
        best = _first(a) & _first(b)
        matched_a.append(a[best])
        matched_b.append(b[best])
        free = ~np.isin(a, a[best]) & ~np.isin(b, b[best])
        a, b = a[free], b[free]
    return np.concatenate(matched_a), np.concatenate(matched_b)


def _first(values: Ints) -> Bools:
    """Where a value is met for the first time."""
    found = np.zeros(len(values), bool)
    found[np.unique(values, return_index=True)[1]] = True
    return found


def _distinct(found: CandidateInstances) -> CandidateInstances:
    """Without instances that a killed attempt has left twice."""
    order = np.lexsort((found.instance, found.side, found.image))
    found = found.where(order)
    same = np.ones(len(found), bool)
    same[1:] = (np.diff(found.image) != 0) | (np.diff(found.side) != 0) | (np.diff(found.instance) != 0)
    return found.where(same)
