"""`masklake scenes`: synthetic images with ground truth, for trying things out at any size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.options.command import Command
from masklake.jobs.options.declare import Options, argument, option
from masklake.jobs.options.kinds import positive, whole

DESCRIPTION = """\
Write N images of overlapping shapes and articulated figures, and annotations.json, their truth in COCO's
format (masks, boxes, COCO's 17 keypoints). The same seed gives the same scenes on every machine."""
EPILOG = """\
example:
  masklake scenes scenes/ --images 500 --seed 7
  masklake segment scenes/ lake/ --model demo"""


@dataclass(frozen=True, kw_only=True)
class ScenesOptions(Options):
    """The options of `masklake scenes`."""

    directory: str = argument("DIR", help="where the files go; it is made if needed")
    images: int = option(positive, "N", default=100, help="how many images to write")
    seed: int = option(whole, "SEED", default=0, help="the same seed gives the same scenes (default 0)")


def run(options: ScenesOptions) -> int:
    """Write the scenes."""
    from masklake.model import scenes
    from masklake.pipeline.storage.explain import explaining

    folder = Path(options.directory)
    with explaining(options.directory, "write the scenes"):
        truth = scenes.write(folder, options.images, options.seed)
    print(f"{options.images:,} scenes in {folder}, their truth in {truth}")  # noqa: T201  # the command's result
    return ExitCode.DONE


COMMAND = Command(
    summary="write synthetic scenes with ground truth (shapes, and figures with keypoints)",
    description=DESCRIPTION,
    epilog=EPILOG,
    options=ScenesOptions,
    run=run,
)
