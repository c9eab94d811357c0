"""What a run leaves on the screen when it ends."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from masklake.jobs.terminal.text import duration
from masklake.pipeline.schema import Status
from masklake.pipeline.segment.ledger import STAGES
from masklake.pipeline.words import counted

if TYPE_CHECKING:
    from masklake.pipeline.lake.run_record import RunRecord
    from masklake.pipeline.segment.job import Progress
    from rich.console import Console


_SURE = 0.5
"""From here on most detections are right; rows below it are kept for those who weigh detections by score, as AP does."""


def summarise(record: RunRecord, progress: Progress, again: str, console: Console) -> None:
    """State, counts, per-stage accounting, and what to type next. `again` is the line that says how to resume."""

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    totals, skipped, seconds = progress.totals, progress.skipped, max(progress.seconds, 1e-9)
    rows = sum(record.counts.values())
    fresh = rows - skipped
    say(
        f"{record.state}: {rows:,} of {counted(totals.images, 'images')} in the lake, {counted(record.instances, 'instances')}, "
        f"{duration(seconds)} ({fresh / seconds:.1f} images/s)"
    )
    if skipped:
        say(f"  resumed: skipped {counted(skipped, 'images')} in the lake already")
    if totals.covered:
        say(f"  skipped {counted(totals.covered, 'images')} that finished runs cover (--all redoes them)")
    if totals.ignored:
        say(
            f"  ignored {counted(totals.ignored, 'objects')} not named as images are (--every-object takes them)"
        )
    for reason, lines in totals.left_out.items():
        say(f"  left out {lines:,} {reason}")
    counts = sorted(record.counts.items(), key=lambda count: -count[1])
    if counts:
        say("  " + " · ".join(f"{status} {n:,}" for status, n in counts))
    proof = record.verification
    if proof and proof["doubled"]:
        say(f"  mended: {counted(proof['doubled'], 'images')} had been written twice by a killed attempt")
    if proof and proof.get("forgotten"):
        say(
            f"  without {counted(proof['forgotten'], 'images')} forgotten since the run began (masklake forget)"
        )
    if record.error:
        say(f"  because: {record.error}")
    infer = record.stages.get("infer", {})
    used = [name.removesuffix("_workers") for name in infer if name.endswith("_workers")]
    if used:
        redone = infer.get("redone_images", 0)
        note = f"; {redone:,.0f} images overflowed there and were done again in float32" if redone else ""
        say(f"  in {' and '.join(sorted(used))}{note}")
    _stages(record, console)
    lake = shlex.quote(record.lake)
    if record.state != "complete":
        say(again)
    elif any(status != Status.OK for status in record.counts):
        sql = "select status, error, uri from errors"
        say(f'failures:  masklake query "{sql}" --lake {lake}')
    else:
        sql = "select label, count(*) n from instances group by 1 order by n desc"
        say(f'next:  masklake query "{sql}" --lake {lake}')
    if record.instances and record.options.get("score", 1.0) < _SURE:
        say(
            f"note: rows begin at score {record.options['score']:g}; for what the model is rather sure of, "
            f"add: where score > {_SURE:g}"
        )


def _stages(record: RunRecord, console: Console) -> None:
    """The per-stage accounting as a table: worker seconds, and CPU and wall milliseconds an image."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2))
    for name in ("stage", "images", "worker s", "ms/image", "CPU ms/image"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for stage in STAGES:
        figures = record.stages.get(stage)
        if not figures or not figures.get("images"):
            continue
        images = int(figures["images"])
        per_image = [1000 * figures[kind] / images for kind in ("seconds", "cpu_seconds")]
        table.add_row(stage, f"{images:,}", f"{figures['seconds']:.1f}", *(f"{ms:.1f}" for ms in per_image))
    if idle := record.stages.get("infer", {}).get("idle_seconds"):
        table.add_row("idle (infer)", "", f"{idle:.1f}", "", "")
    if table.row_count:
        console.print(table)
