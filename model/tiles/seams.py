"""One instance for each thing, from overlapping tiles that saw it several times. Free of torch.

A thing that goes over a tile's border is *cut* there. The tiles overlap and come in levels (`model.tiles.tiling`), so that
some other tile mostly has it *whole*. In three steps:

1. Of whole instances that agree, the best one is kept: non-maximum suppression, but by masks. Where a view
   shows a thing and another inside it, both stay.
2. A cut instance is dropped where a whole one explains it.
3. The cut instances that remain are joined where they agree in what both tiles show: together they are a thing that no
   tile has seen whole.

Masks stay COCO RLE from end to end: comparing them costs by their runs, not by the image.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from masklake.model.boxes import as_xywh, iou_xywh
from masklake.model.detections import Detections
from masklake.model.masks.rle import area, iou, rectangles
from masklake.model.masks.rle_text import Rle
from masklake.model.tiles.tiling import Tiling, View
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

_SAME_IOU = 0.5
"""Masks of one thing agree at least so far: COCO's loosest match."""
_SAME_SHOWN_IOU = 0.35
"""And so far in what both tiles show, where one has cut the thing: it is outlined worse without the rest of it."""
_COVERED = 0.7
"""The share of a mask that lies in another, from which it is a piece of that one."""
_REPLACED = 0.5
"""The share of a mask that finer instances take up, from which they replace it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sightings:
    """N instances as tiles saw them, in pixels of the image.

    boxes (N, 4) float32, labels (N,) int32, scores (N,) float32, keypoints (N, K, 3) float32 or None: as in
    `Detections`; rles: of the whole image; views: (N,) positions among the views; small: (N,) whether a lower level
    has seen such a thing whole, so that this one only tells things apart; masked: whether the rles are masks, and not
    boxes.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int32]
    scores: NDArray[np.float32]
    rles: list[Rle]
    keypoints: NDArray[np.float32] | None
    views: NDArray[np.int64]
    small: NDArray[np.bool_]
    masked: bool


def joined(parts: Sequence[Sightings]) -> Sightings:
    """The sightings of all `parts` (at least one), in their order."""
    arrays = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in fields(Sightings)
        if isinstance(getattr(parts[0], field.name), np.ndarray)
    }
    return Sightings(
        **{"keypoints": None, **arrays},  # type: ignore[arg-type]  # by name, as they were taken
        rles=[rle for part in parts for rle in part.rles],
        masked=parts[0].masked,
    )


def merge(sightings: Sightings, views: Sequence[View], tiling: Tiling, size: tuple[int, int]) -> Detections:
    """One instance for each thing, highest score first. size: the image's height and width, pixels."""
    cut, whole_elsewhere = _cut(sightings, views, tiling, size)
    compare = _Comparison(sightings, views, np.flatnonzero(~cut), size)
    wholes = _best(compare, np.flatnonzero(~cut & ~sightings.small))
    left = np.flatnonzero(cut & ~whole_elsewhere & ~sightings.small)
    pieces = [i for i in left.tolist() if not _accounted_for(compare, i, wholes)]
    groups = [[i] for i in wholes] + _groups(compare, pieces)
    order = np.argsort([-max(sightings.scores[group]) for group in groups], kind="stable")
    return _detections(sightings, [groups[i] for i in order])


class _Comparison:
    """How far masks agree; lists of positions in, arrays of shares out."""

    def __init__(
        self, sightings: Sightings, views: Sequence[View], uncut: NDArray[np.int64], size: tuple[int, int]
    ) -> None:
        self.sightings = sightings
        self._uncut = uncut
        self.areas = area(sightings.rles).astype(np.float64)
        self.levels = np.asarray([view.level for view in views])[sightings.views]
        self._rectangles = rectangles(np.asarray([view[:4] for view in views]), size)
        self._shown: dict[tuple[int, int], float] = {}

    def near(self, i: int, among: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those `among` whose boxes overlap that of i."""
        boxes, box = self.sightings.boxes[among], self.sightings.boxes[i]
        return among[((boxes[:, :2] < box[2:]) & (boxes[:, 2:] > box[:2])).all(axis=1)]

    def shared(self, i: int, others: NDArray[np.int64]) -> NDArray[np.float64]:
        """Pixels that the masks of i and of each of the others have in common."""
        rles = [self.sightings.rles[j] for j in others]
        return iou([self.sightings.rles[i]], rles, [True] * len(rles)).reshape(-1) * self.areas[i]

    def shown(self, i: int, view: int) -> float:
        """Pixels of the mask of i that a view shows."""
        if (i, view) not in self._shown:
            share = iou([self.sightings.rles[i]], [self._rectangles[view]], [True])
            self._shown[i, view] = float(share[0, 0] * self.areas[i])
        return self._shown[i, view]

    def agree(self, i: int, j: int, shared: float) -> bool:
        """Whether the two masks are the same where both views show them; `shared` is what they have in common."""
        both = self.shown(i, self.sightings.views[j]) + self.shown(j, self.sightings.views[i]) - shared
        return shared >= _SAME_SHOWN_IOU * max(both, 1.0)

    def beside(self, i: int, j: int) -> bool:
        """Whether the view of j shows, beside j, the thing i too, uncut."""
        views, labels, uncut = self.sightings.views, self.sightings.labels, self._uncut
        others = uncut[(views[uncut] == views[j]) & (labels[uncut] == labels[i]) & (uncut != j)]
        near = self.near(i, others)
        shared = self.shared(i, near)
        return bool((shared >= _SAME_IOU * (self.areas[i] + self.areas[near] - shared)).any())


def _cut(
    sightings: Sightings, views: Sequence[View], tiling: Tiling, size: tuple[int, int]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(N,) whether an instance is cut by its tile, and whether another tile of the level shows all of it uncut."""
    height, width = size
    inner = np.asarray([view[:4] for view in views], np.float64)  # what does not come near an inner border
    levels = np.asarray([view.level for view in views])
    margins = np.asarray([tiling.margin(view.level) for view in views])
    far = np.asarray([width, height])
    inner[:, :2] = np.where(inner[:, :2] > 0, inner[:, :2] + margins[:, None], -np.inf)
    inner[:, 2:] = np.where(inner[:, 2:] < far, inner[:, 2:] - margins[:, None], np.inf)

    def inside(boxes: NDArray[np.float32], limits: NDArray[np.float64]) -> NDArray[np.bool_]:
        after, before = boxes[..., :2] >= limits[..., :2], boxes[..., 2:] <= limits[..., 2:]
        return np.asarray((after & before).all(-1))

    cut = ~inside(sightings.boxes, inner[sightings.views])
    elsewhere = np.zeros_like(cut)
    for i in np.flatnonzero(cut):
        same_level = levels == levels[sightings.views[i]]
        elsewhere[i] = (inside(sightings.boxes[i], inner) & same_level).any()
    return cut, elsewhere


def _best(compare: _Comparison, wholes: NDArray[np.int64]) -> list[int]:
    """Of uncut instances that agree, the best by score.

    Two are the same thing where their masks overlap much: boxes of two things do, masks hardly. Two classes of one level
    are left alone, as the network leaves them; between levels a thing that has become another class, for being too large
    or too small, is still the same thing. Of one view the network has compared the boxes: two whose boxes overlap much
    are left alone too, and two stay unless their masks agree where the boxes did not. Instances of one class from two
    views are compared further, by `_repeats`.
    """
    sightings, levels, areas = compare.sightings, compare.levels, compare.areas
    extents = as_xywh(sightings.boxes)
    remaining = wholes[np.argsort(-sightings.scores[wholes], kind="stable")]
    best: list[int] = []
    while len(remaining):
        i, remaining = int(remaining[0]), remaining[1:]
        best.append(i)
        near = compare.near(i, remaining)
        shared = compare.shared(i, near)
        same_class = sightings.labels[near] == sightings.labels[i]
        same = shared >= _SAME_IOU * (areas[i] + areas[near] - shared)
        same &= same_class | (levels[near] != levels[i])
        apart = sightings.views[near] != sightings.views[i]
        same &= apart | (iou_xywh(extents[i], extents[near]) < _SAME_IOU)
        for row in np.flatnonzero(same_class & ~same & apart):
            same[row] = _repeats(compare, int(near[row]), i, float(shared[row]))
        remaining = remaining[~np.isin(remaining, near[same])]
    return [i for i in best if not _is_several_others(compare, i, np.asarray(best))]


def _repeats(compare: _Comparison, j: int, i: int, shared: float) -> bool:
    """Whether j is what another view made of the thing i: one is a part of the other, or the view of j has cut it,
    unknown to the network.

    Not so where a view has told the two apart, as a thing and one inside it.
    """
    areas, views = compare.areas, compare.sightings.views
    part = shared >= _COVERED * min(areas[i], areas[j])
    # Of two that agree where both views show them, the one that goes on behind the other's border is whole.
    within = compare.shown(j, views[i]) * areas[i] >= compare.shown(i, views[j]) * areas[j]
    if not part and not (within and compare.agree(i, j, shared)):
        return False
    return not (compare.beside(i, j) or compare.beside(j, i))


def _is_several_others(compare: _Comparison, i: int, among: NDArray[np.int64]) -> bool:
    """Whether instances of lower levels, with scores as high, take up half of the mask: small things that from far
    looked like a large one."""
    sightings, levels = compare.sightings, compare.levels
    finer = among[(levels[among] < levels[i]) & (sightings.scores[among] >= sightings.scores[i])]
    finer = compare.near(i, finer)
    if not len(finer):
        return False
    together = coco_mask.merge([sightings.rles[j] for j in finer])
    return bool(iou([sightings.rles[i]], [together], [True])[0, 0] >= _REPLACED)


def _accounted_for(compare: _Comparison, piece: int, wholes: Sequence[int]) -> bool:
    """Whether an uncut instance has the piece within it, or is what the piece is a piece of."""
    near = compare.near(piece, np.asarray(wholes, np.int64))
    labels = compare.sightings.labels
    return any(
        shared >= _COVERED * compare.areas[piece]
        or (labels[j] == labels[piece] and compare.agree(piece, j, shared))
        for j, shared in zip(near.tolist(), compare.shared(piece, near).tolist(), strict=True)
    )


def _groups(compare: _Comparison, pieces: Sequence[int]) -> list[list[int]]:
    """The pieces of each thing: pieces of one class, from two views or more, that agree one with the next."""
    sightings, areas = compare.sightings, compare.areas
    parents = {i: i for i in pieces}

    def root(i: int) -> int:
        while parents[i] != i:
            parents[i] = i = parents[parents[i]]
        return i

    for position, i in enumerate(pieces):
        near = compare.near(i, np.asarray(pieces[position + 1 :], np.int64))
        near = near[
            (sightings.labels[near] == sightings.labels[i]) & (sightings.views[near] != sightings.views[i])
        ]
        for j, shared in zip(near.tolist(), compare.shared(i, near).tolist(), strict=True):
            if shared >= _COVERED * min(areas[i], areas[j]) or compare.agree(i, j, shared):
                parents[root(i)] = root(j)
    groups: dict[int, list[int]] = {}
    for i in pieces:
        groups.setdefault(root(i), []).append(i)
    return list(groups.values())


def _detections(sightings: Sightings, groups: Sequence[list[int]]) -> Detections:
    """The instance that each group makes: all its pixels, its best score, each keypoint where its logit is highest."""
    first = np.asarray([group[int(np.argmax(sightings.scores[group]))] for group in groups], np.int64)
    boxes, scores = sightings.boxes[first], sightings.scores[first]
    keypoints = None if sightings.keypoints is None else sightings.keypoints[first]
    rles = [sightings.rles[i] for i in first]
    for row, group in enumerate(groups):
        if len(group) == 1:
            continue
        boxes[row, :2], boxes[row, 2:] = (
            sightings.boxes[group, :2].min(axis=0),
            sightings.boxes[group, 2:].max(axis=0),
        )
        rles[row] = coco_mask.merge([sightings.rles[i] for i in group])
        if keypoints is not None and sightings.keypoints is not None:
            group_keypoints = sightings.keypoints[group]
            surest = np.argmax(np.nan_to_num(group_keypoints[:, :, 2], nan=-np.inf), axis=0)
            keypoints[row] = group_keypoints[surest, np.arange(group_keypoints.shape[1])]
    return Detections(
        boxes=boxes,
        labels=sightings.labels[first],
        scores=scores,
        keypoints=keypoints,
        rles=rles if sightings.masked else None,
    )
