"""Progress of a run: a live display on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from masklake.jobs.terminal.text import duration
from masklake.pipeline.schema import Status
from masklake.pipeline.segment.ledger import STAGES

if TYPE_CHECKING:
    from masklake.pipeline.segment.job import Progress, Watch
    from rich.console import Console

_LINE_EVERY_S = 10.0
_RATE_OVER_S = 30.0


class Rates:
    """Images done, the rate of the last half minute, and what is left."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, int]] = [(time.monotonic(), 0)]

    def describe(self, progress: Progress) -> tuple[int, int, str]:
        """(done, total, a line that says how it goes)."""
        stages = progress.snapshot.get("stages", {})
        fresh = int(stages.get("infer", {}).get("images", 0))
        counts = progress.snapshot.get("counts", {})
        failed = sum(n for status, n in counts.items() if status != Status.OK)
        if not fresh:  # while the workers start there is no rate yet
            self._seen.clear()
        self._seen.append((time.monotonic(), fresh))
        while len(self._seen) > 2 and self._seen[-1][0] - self._seen[0][0] > _RATE_OVER_S:
            self._seen.pop(0)
        (t0, n0), (t1, n1) = self._seen[0], self._seen[-1]
        rate = (n1 - n0) / (t1 - t0) if t1 > t0 else 0.0
        done, total = progress.skipped + fresh, progress.totals.images
        committed = sum(counts.values()) + progress.skipped
        in_lake = f"{committed:,} in the lake" if committed or not fresh else "the first part is not full yet"
        parts = [f"{rate:.1f} images/s", in_lake]
        if progress.stopping:
            parts.insert(0, "stopping: what is done is being written (Ctrl-C again stops at once)")
        if failed:
            parts.append(f"{failed:,} failed")
        if not progress.totals.complete:
            parts.append("still listing")
        elif rate > 0 and total > done:
            parts.append(f"{duration((total - done) / rate)} left")
        return done, total, " · ".join(parts)


def stage_line(progress: Progress) -> str:
    """Worker milliseconds an image by stage, so that a bottleneck shows."""
    stages = progress.snapshot.get("stages", {})
    busy = [(name, stages.get(name, {})) for name in STAGES]
    return " · ".join(
        f"{name} {1000 * s['seconds'] / s['images']:.0f} ms" for name, s in busy if s.get("images")
    )


@contextlib.contextmanager
def shown(console: Console) -> Iterator[Watch]:
    """A watcher for `pipeline.segment.run.run` that shows each report on `console`."""
    if console.is_terminal:
        with _live(console) as watch:
            yield watch
    else:
        yield _plain(console)


def _plain(console: Console) -> Watch:
    rates, last = Rates(), [time.monotonic()]

    def watch(progress: Progress) -> None:
        if time.monotonic() - last[0] < _LINE_EVERY_S:
            return
        last[0] = time.monotonic()
        done, total, line = rates.describe(progress)
        stages = f" · {of_stages}" if (of_stages := stage_line(progress)) else ""
        text = f"{done:,} / {total:,} images · {line}{stages}"
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    return watch


@contextlib.contextmanager
def _live(console: Console) -> Iterator[Watch]:
    from rich.console import Group
    from rich.live import Live
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as Bar
    from rich.text import Text

    bar = Bar(
        SpinnerColumn(), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), console=console
    )
    task = bar.add_task("starting", total=None)
    rates, stages = Rates(), Text("", style="dim")
    with Live(Group(bar, stages), console=console, refresh_per_second=4, transient=True):

        def watch(progress: Progress) -> None:
            done, total, line = rates.describe(progress)
            bar.update(task, completed=done, total=total or None, description=line)
            stages.plain = stage_line(progress)

        yield watch
