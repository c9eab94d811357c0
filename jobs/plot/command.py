"""`masklake plot`: a lake in one picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.options.command import Command
from masklake.jobs.options.declare import Options, included, option
from masklake.jobs.options.kinds import local_file
from masklake.jobs.options.shared import StorageOptions, json_flag, lake_argument, run_option
from masklake.pipeline.errors import UserError
from masklake.pipeline.words import counted

SUMMARY = "plot a lake: classes, scores, sizes, images a second, AP by model"
DESCRIPTION = """\
One picture of a lake: instances by class, images by status, the scores and sizes of instances, the images a second of a
run, and the AP of each model that `masklake eval` has measured here."""
EPILOG = """\
examples:
  masklake plot s3://lake --out lake.png
  masklake plot s3://lake --run last --out last.svg"""
_FORMATS = ("png", "svg")


@dataclass(frozen=True, kw_only=True)
class PlotOptions(Options):
    """The options of `masklake plot`."""

    lake: str = lake_argument()
    out: str | None = option(local_file, "FILE", short=("--output",), help="the picture: .png or .svg")
    run: str | None = run_option("only this run (default: of each image its newest run)")
    json: bool = json_flag("the numbers of all panels")
    storage: StorageOptions = included(StorageOptions)

    def validate(self) -> None:
        """Raises UserError where there is nothing to write, or not in this format."""
        if self.out is None and not self.json:
            raise UserError("name the picture: --out FILE.png, or FILE.svg; or --json for the numbers")
        if self.out is not None and Path(self.out).suffix.lower().lstrip(".") not in _FORMATS:
            raise UserError(f"--out {self.out}: is neither .png nor .svg")


def run(options: PlotOptions) -> int:
    """Plot. Raises UserError where the lake cannot be read, or the picture not written."""
    from masklake.jobs.plot import figures as lake_figures
    from masklake.jobs.query.database import Database
    from masklake.pipeline.lake.lake import Lake

    lake = Lake(options.lake, options.storage.open())
    lake.require()
    chosen = lake.resolve(options.run) if options.run else None
    with Database(lake, run=chosen) as database:
        figures = lake_figures.read(lake, database, chosen)
    if options.out is not None:
        from masklake.jobs.plot.panels import draw
        from masklake.pipeline.storage.explain import explaining

        picture = draw(figures, Path(options.out).suffix.lower().lstrip("."))
        with explaining(options.out, "write the picture"):
            Path(options.out).write_bytes(picture)
    if options.json:
        from masklake.jobs.terminal.json import print_json

        print_json(figures.as_json())
    else:
        from masklake.jobs.terminal.tables import plain_console
        from masklake.jobs.terminal.text import say

        instances = sum(count for _, count in figures.classes)
        say(
            plain_console(),
            f"{counted(instances, 'instances')} of {counted(len(figures.classes), 'classes')} plotted: {options.out}",
        )
    return ExitCode.DONE


COMMAND = Command(summary=SUMMARY, description=DESCRIPTION, epilog=EPILOG, options=PlotOptions, run=run)
