"""Choosing images: some at random, the others by their scores, and no two nearly alike.

Random ones are drawn first and from all candidates, so that labels also show where models are sure and wrong. The draw goes by a hash of the URI: the same lake gives the same images.

Images are read to be compared, in the order of their rank and never more than a few times the budget. One that is gone,
unreadable or another version than the run saw is passed over: its pre-annotations would not fit.
"""

from __future__ import annotations

import bisect
import hashlib
import heapq
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from math import floor
from typing import Any

import numpy as np
import pyarrow as pa
from masklake.model.decode import UndecodableError
from masklake.pipeline.review.candidates import Candidates, Labelled
from masklake.pipeline.review.score import KINDS, Figures
from masklake.pipeline.review.similar import Fingerprint, Gallery, fingerprint
from masklake.pipeline.schema import MANIFEST, Status
from masklake.pipeline.segment.fetch import fetch
from masklake.pipeline.storage.store import Storage, redact

RANDOM, REST = "random", "rest"
"""Kinds beside `KINDS`: drawn at random; and chosen without a reason, because the budget was not used up."""

READS_PER_PICK = 5
_READ_AT_ONCE = 32
_NO_LIMIT = 2**62

_CONTENT_ETAG = re.compile(r"[0-9a-f]{32}(-\d+)?")
"""An etag made from the content, as S3 makes it. That of a file is its time and size, which others may share."""


@dataclass(frozen=True, kw_only=True)
class Pick:
    """A chosen image: a position among the candidates, and the reason: the figure that is furthest above its mean,
    RANDOM or REST."""

    image: int
    kind: str


@dataclass(kw_only=True)
class Picks:
    """The chosen images, the best first and the random ones last, and counts of those passed over, by reason."""

    chosen: list[Pick] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)
    """identical, similar, changed, unreadable."""
    problems: list[tuple[str, str]] = field(default_factory=list)
    """(URI, cause) of images that could not be read."""
    read: int = 0
    stopped: bool = False
    """Whether more might have been found, had more images been read."""


def pick(
    candidates: Candidates,
    figures: Figures,
    known: Labelled | None,
    storage: Storage,
    *,
    budget: int,
    random_share: float,
    compare: bool = True,
) -> Picks:
    """Choose `budget` images or as many as there are, unlike those that are `known`. Without `compare` none is read."""
    picks = Picks()
    sieve = _Sieve(candidates, known, storage, picks, compare=compare)
    drawn = min(budget, floor(budget * random_share + 0.5))
    at_random = heapq.nsmallest(drawn * READS_PER_PICK, _drawn(candidates.uris))
    random = [Pick(image=i, kind=RANDOM) for i in sieve.take((i for _, i in at_random), drawn)]
    score = figures.score
    ranked = np.argsort(-score, kind="stable")
    best = sieve.take(ranked.tolist(), budget - len(random))
    of_kind = np.stack([getattr(figures, kind) for kind in KINDS])
    stands_out = np.where(of_kind > 0, of_kind - of_kind.mean(1, keepdims=True), -1).argmax(0)
    for i in best:
        kind = KINDS[stands_out[i]] if score[i] > 0 else REST
        picks.chosen.append(Pick(image=i, kind=kind))
    picks.chosen += random
    return picks


def _drawn(uris: pa.Array) -> Iterator[tuple[bytes, int]]:
    """A key to draw by for each image. Not that of `labels.split_of`: the lowest of those are all in val."""
    for i, uri in enumerate(uris):
        yield hashlib.sha256(f"review\0{uri.as_py()}".encode("utf-8", "surrogatepass")).digest()[:16], i


class _Sieve:
    """Lets an image pass when it can be read and is unlike all that passed before it."""

    def __init__(
        self, candidates: Candidates, known: Labelled | None, storage: Storage, picks: Picks, *, compare: bool
    ) -> None:
        self._candidates = candidates
        self._storage = storage
        self._picks = picks
        self._compare = compare
        self._tried: set[int] = set()
        self._seen: dict[int, Fingerprint | tuple[str, str]] = {}
        """Of images that were read: the fingerprint, or (reason, cause) of the failure."""
        self._objects = set(candidates.labelled_objects)
        self._gallery = Gallery()
        self._labelled = sorted(known.uris.to_pylist()) if known is not None and compare else []
        self._labelled_read: set[str] = set()

    def take(self, order: Iterable[int], wanted: int) -> list[int]:
        """The first `wanted` of `order` that pass."""
        taken: list[int] = []
        most = self._picks.read + wanted * READS_PER_PICK
        waiting = (i for i in order if i not in self._tried)
        while len(taken) < wanted and (block := list(islice(waiting, self._block(wanted - len(taken))))):
            if self._picks.read >= most:
                self._picks.stopped = True
                break
            if self._compare:
                self._read([i for i in block if i not in self._seen and self._object(i) not in self._objects])
            for i in block:
                if len(taken) == wanted:
                    break
                self._tried.add(i)
                reason = self._why_not(i)
                if reason is None:
                    taken.append(i)
                else:
                    self._picks.passed[reason] += 1
        return taken

    def _block(self, wanted: int) -> int:
        """How many images are read at once: some more than are wanted, as some will not pass."""
        return min(wanted + wanted // 4 + 1, _READ_AT_ONCE) if self._compare else wanted

    def _why_not(self, i: int) -> str | None:
        """The reason that keeps image `i` out; None when it passes, and then it is remembered."""
        if (known := self._object(i)) in self._objects:
            return "identical"
        seen = self._seen.get(i)
        if isinstance(seen, tuple):
            reason, cause = seen
            self._picks.problems.append((self._candidates.uris[i].as_py(), cause))
            return reason
        if seen is not None:
            if self._gallery.holds_near(seen):
                return "similar"
            self._gallery.add(seen)
        if known is not None:
            self._objects.add(known)
        return None

    def _object(self, i: int) -> tuple[str, int] | None:
        """(etag, size) when they identify the content of image `i`, else None."""
        etag, size = self._candidates.etags[i].as_py(), self._candidates.sizes[i].as_py()
        return (etag, size) if etag and size is not None and _CONTENT_ETAG.fullmatch(etag) else None

    def _read(self, block: list[int]) -> None:
        uris = [self._candidates.uris[i].as_py() for i in block]
        etags = [self._candidates.etags[i].as_py() for i in block]
        self._picks.read += len(block)
        for i, etag, row in zip(block, etags, self._fetched(uris), strict=True):
            if row["status"] == Status.OK and etag is not None and row["etag"] != etag:
                self._seen[i] = "changed", "it has changed since the run; `masklake segment` looks at it anew"
            else:
                self._seen[i] = _look(row)
        near = list(dict.fromkeys(neighbour for uri in uris for neighbour in self._beside(uri)))
        self._labelled_read.update(near)
        for row in self._fetched(near):
            if not isinstance(look := _look(row), tuple):
                self._gallery.add(look)

    def _beside(self, uri: str) -> list[str]:
        """The labelled images before and after `uri` in its folder, not read yet: the frames of a burst lie side by side."""
        place = bisect.bisect(self._labelled, uri)
        folder = uri[: uri.rfind("/") + 1]
        return [
            neighbour
            for neighbour in self._labelled[max(place - 1, 0) : place + 1]
            if neighbour.startswith(folder) and neighbour not in self._labelled_read
        ]

    def _fetched(self, uris: list[str]) -> list[dict[str, Any]]:
        rows = [{"image_id": i, "uri": uri} for i, uri in enumerate(uris)]
        fetched: list[dict[str, Any]] = fetch(
            pa.Table.from_pylist(rows, MANIFEST), self._storage, _NO_LIMIT
        ).to_pylist()
        return fetched


def _look(row: dict[str, Any]) -> Fingerprint | tuple[str, str]:
    if row["status"] != Status.OK:
        return "unreadable", row["error"]
    try:
        return fingerprint(row["data"])
    except UndecodableError as error:
        return "unreadable", redact(str(error))
