"""What a run would do, told without doing it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from masklake.jobs.exit_codes import ExitCode
from masklake.pipeline.words import counted

if TYPE_CHECKING:
    from masklake.jobs.models.resolve import Resolved
    from masklake.pipeline.segment.job import Job
    from masklake.pipeline.segment.planned import Planned
    from rich.console import Console


def dry_run(planned: Planned, job: Job, model: Resolved, console: Console) -> ExitCode:
    images = size = 0
    for info in planned.objects():
        images += 1
        size += info.size or 0
    left = "more " if job.resume else ""
    console.print(
        f"would run {model.spec.name}@{model.fingerprint} over {counted(images, f'{left}images', f'{left}image')}, {size:,} bytes",
        highlight=False,
        soft_wrap=True,
    )
    if planned.totals.covered:
        console.print(
            f"would skip {planned.totals.covered:,} that finished runs cover (--all redoes them)",
            highlight=False,
            soft_wrap=True,
        )
    if planned.listing.ignored:
        console.print(
            f"would ignore {counted(planned.listing.ignored, 'objects')} not named as images are (--every-object takes them)",
            highlight=False,
            soft_wrap=True,
        )
    for reason, lines in planned.listing.left_out.items():
        console.print(f"would leave out {lines:,} {reason}", highlight=False, soft_wrap=True, markup=False)
    console.print("nothing was written", highlight=False, soft_wrap=True)
    return ExitCode.DONE
