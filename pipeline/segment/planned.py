"""What a run is to do: the source, listed while it is read, without what finished runs cover, into the manifest."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.forgotten import ForgottenSince, RowlessImages, forgets_done
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.lake.run_record import RunFolder
from masklake.pipeline.segment.covered import Covered, CoveringRun, covering_runs
from masklake.pipeline.segment.heed import FORGOTTEN
from masklake.pipeline.segment.job import Job
from masklake.pipeline.segment.listing import gone_on
from masklake.pipeline.segment.manifest import Manifest, ManifestTotals
from masklake.pipeline.storage.explain import explaining
from masklake.pipeline.storage.objects import ObjectInfo
from masklake.pipeline.words import counted

_LISTED_FIRST, _BEGIN_S, _LOOK_AGAIN_S = 2**15, 60.0, 0.25


class Planned:
    """A job's source, listed far enough to know that there is something to do.

    `first` is the first object to process, or None when finished runs have covered them all. Nothing is
    written. Raises UserError when the source is empty or cannot be read.
    """

    def __init__(self, job: Job) -> None:
        record = job.record
        # Before anything else is looked at: what is forgotten from here on is left out.
        self.forgets = record.forgets if job.resume else forgets_done(record.lake, job.storage)
        self.forgotten = ForgottenSince()
        self.lake = Lake(record.lake, job.storage)
        self.totals = ManifestTotals()
        folder = RunFolder(record.lake, record.run, job.storage)
        self._manifest = Manifest(folder.manifest_uri, job.storage)
        stopped: tuple[str, int | None] = ("", None)
        if job.resume:
            with explaining(self._manifest.folder, "read the run's manifest"):
                self.totals = self._manifest.totals()
                if not self.totals.complete:
                    stopped = self._manifest.last(self.totals)
                    self.totals.images = max(self.totals.images, 1 + RowlessImages.load(folder).last)
        self.listing = gone_on(record.source, job.storage, job.every_object, *stopped)
        with explaining(record.lake, "read what finished runs cover"):
            self._covered = Covered(self._covering(job), job.storage)
        self._left = None if job.limit is None else job.limit - self.totals.images
        self._counting_until = math.inf
        self._listed: list[ObjectInfo] = []
        self._objects = iter(()) if self.totals.complete else self._wanted()
        with explaining(record.source, "list the source"):
            self.first = next(self._objects, None)
        if self.first is None and not self.totals.images and not self.totals.covered:
            ignored = f" ({counted(self.listing.ignored, 'objects')} there, not named as images are; --every-object takes them)"
            left_out = "".join(f"; left out {n:,} {reason}" for reason, n in self.listing.left_out.items())
            raise UserError(
                f"{record.source}: holds no images{ignored * bool(self.listing.ignored)}{left_out}; check the prefix"
            )

    def _covering(self, job: Job) -> list[CoveringRun]:
        if job.redo_all or self.totals.complete:
            return []
        return covering_runs(self.lake, job.record.covers, self.listing.prefix)

    def _wanted(self) -> Iterator[ObjectInfo | None]:
        """The objects to process. None comes between them once, when `count` has no more time."""
        for info, covered in self._covered.marked(self.listing):
            if time.monotonic() > self._counting_until:
                self._counting_until = math.inf
                yield None
            if self._left is not None and self._left <= 0:
                return
            if covered:
                self.totals.covered += 1
                continue
            if self._left is not None:
                self._left -= 1
            yield info

    def count(self, most: int, seconds: float) -> int | None:
        """How many images the manifest will hold; None when they are more than `most`, or not listed in so many seconds."""
        self._counting_until = time.monotonic() + seconds
        with explaining(self.listing.source, "list the source"):
            for info in self._objects:
                if info is None:
                    return None
                self._listed.append(info)
                if self.totals.images + 1 + len(self._listed) > most:
                    return None
        images = self.totals.images + (self.first is not None) + len(self._listed)
        return images if images <= most else None

    def objects(self) -> Iterator[ObjectInfo]:
        """The objects to process, `first` included, as they are listed."""
        if self.first is not None:
            yield self.first
        yield from self._listed
        yield from filter(None, self._objects)

    def write(self) -> Iterator[ManifestTotals]:
        """Write the manifest. Yields the totals after each part."""
        if not self.totals.complete:
            for totals in self._manifest.extend(self._remembered(self.objects()), self.totals):
                self._count_left_out()
                yield totals
            self._count_left_out()
            self._manifest.close(self.totals)
        yield self.totals

    def _remembered(self, objects: Iterator[ObjectInfo]) -> Iterator[ObjectInfo]:
        """`objects`, without those that were forgotten since this began."""
        for info in objects:
            if self.forgotten and self.forgotten.has(info.uri):
                self.listing.left_out[FORGOTTEN] += 1
            else:
                yield info

    def _count_left_out(self) -> None:
        self.totals.ignored, self.totals.left_out = self.listing.ignored, dict(self.listing.left_out)


def let_stages_begin(images: int, begun: Callable[[], bool], since: float) -> None:
    """Let the listing of a large source wait until the stages have `begun`: both want the driver's process, and `images` are work
    enough. But not for longer than a minute from `since`: where nodes are still to come, the listing goes on meanwhile."""
    while images >= _LISTED_FIRST and not begun() and time.monotonic() < since + _BEGIN_S:
        time.sleep(_LOOK_AGAIN_S)
