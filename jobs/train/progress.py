"""Progress of a training: a line now and then, or one that changes in place on a terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from masklake.jobs.terminal.text import duration
from masklake.pipeline.words import counted

if TYPE_CHECKING:
    from masklake.pipeline.train.driver import Watch
    from rich.console import Console

_LINE_EVERY_S = 10.0
_SAME_LINE_EVERY_S = 60.0
_RATE_OVER_S = 60.0


class Rate:
    """How fast a training is, by the steps of the last minute."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, int, int]] = []

    def describe(self, report: dict[str, Any], steps: int | None, minutes: float | None) -> str:
        """One line: the step, the losses, images per second, the time that is left."""
        if "step" not in report:
            return "starting the workers"
        step, seconds, images = report["step"], report["seconds"], report["images"]
        if not self._seen or self._seen[-1][1] != step:
            self._seen.append((seconds, step, images))
        if self._seen[-1][1] < self._seen[0][1] or self._seen[-1][0] < self._seen[0][0]:
            self._seen = self._seen[-1:]  # workers were started again from a checkpoint
        while len(self._seen) > 2 and self._seen[-1][0] - self._seen[0][0] > _RATE_OVER_S:
            self._seen.pop(0)
        parts = [f"step {step:,}" + (f" / {steps:,}" if steps else "")]
        losses = {k: v for k, v in report.get("losses", {}).items() if k.startswith("loss_")}
        if losses:
            each = " ".join(f"{k.removeprefix('loss_')} {v:.3f}" for k, v in losses.items())
            parts.append(f"loss {sum(losses.values()):.3f} ({each})")
        (t0, s0, n0), (t1, s1, n1) = self._seen[0], self._seen[-1]
        if t1 > t0 and s1 > s0:
            parts.append(f"{(n1 - n0) / (t1 - t0):.1f} images/s")
            left = (steps - step) * (t1 - t0) / (s1 - s0) if steps else 60 * (minutes or 0) - seconds
            parts.append(f"{duration(max(0, left))} left")
        if report.get("workers", 1) > 1:
            parts.append(f"{report['workers']} workers")
        if report.get("skipped"):
            parts.append(f"{counted(len(report['skipped']), 'images')} could not be read")
        return " · ".join(parts)


@contextlib.contextmanager
def shown(console: Console, steps: int | None, minutes: float | None) -> Iterator[Watch]:
    """A watcher for `pipeline.train.driver.Training` that shows each report on `console`."""
    rate = Rate()
    if console.is_terminal:
        with console.status("starting the workers") as status:
            yield lambda report: status.update(rate.describe(report, steps, minutes))
        return
    last_line, printed_at = "", 0.0

    def watch(report: dict[str, Any]) -> None:
        nonlocal last_line, printed_at
        line = rate.describe(report, steps, minutes)
        if time.monotonic() - printed_at >= (_SAME_LINE_EVERY_S if line == last_line else _LINE_EVERY_S):
            last_line, printed_at = line, time.monotonic()
            console.print(line, highlight=False, markup=False, soft_wrap=True)

    yield watch
