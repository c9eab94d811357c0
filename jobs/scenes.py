"""`masklake scenes`: synthetic images with ground truth, for trying things out at any size."""

from __future__ import annotations

import argparse
from pathlib import Path

from masklake.jobs.options import positive

SUMMARY = "write synthetic scenes with ground truth (shapes, and figures with joints)"
DESCRIPTION = """\
Write N images of overlapping shapes and articulated figures, and annotations.json, their truth in COCO's
format (masks, boxes, COCO's 17 joints). The same seed gives the same scenes on every machine."""
EPILOG = """\
example:
  masklake scenes scenes/ --images 500 --seed 7
  masklake segment scenes/ lake/ --model demo"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `masklake scenes`."""
    parser.add_argument(
        "directory", metavar="DIR", type=Path, help="where the files go; it is made if needed"
    )
    parser.add_argument("--images", type=positive, default=100, metavar="N", help="how many (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="which stream of scenes (default 0)")


def run(args: argparse.Namespace) -> int:
    """Write the scenes."""
    from masklake.model import scenes
    from masklake.pipeline.storage.explain import explaining

    with explaining(str(args.directory), "write the scenes"):
        truth = scenes.write(args.directory, args.images, args.seed)
    print(f"{args.images:,} scenes in {args.directory}, their truth in {truth}")  # noqa: T201  # the command's result
    return 0
