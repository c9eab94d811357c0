"""`masklake labels check`: mistakes in the labels that training would learn from."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from masklake.jobs.options import storage_from

if TYPE_CHECKING:
    from masklake.pipeline.labels.check import Problem

SUMMARY = "find empty masks, boxes that do not fit, duplicates, unknown classes"
DESCRIPTION = """\
Look through the newest label set of every image for what cannot be meant: empty masks, boxes without area, boxes
that are not around their mask (corners, a centre or fractions where x, y, width, height in pixels belong), boxes and
joints that leave the image by more than a pixel, instances that are there twice, and, with --model,
classes that the model does not know."""
EPILOG = """\
examples:
  masklake labels check s3://lake --model coco
  masklake labels check lake/ --json | jq -r '.[].uri' | sort -u

exit codes: 0 nothing found · 1 problems found · 2 a mistake that the message names"""

_PROBLEMS_FOUND = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("lake", metavar="LAKE", help="the lake: s3://…, a directory, …")
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="check class names: demo, coco, one of the lake's, a directory or a URI",
    )
    parser.add_argument("--weights-dir", metavar="DIR", help="where the weights of --model coco lie")
    parser.add_argument("--json", action="store_true", help="one JSON array with an object per problem")


def run(args: argparse.Namespace) -> int:
    """Check; 1 when something is wrong. Raises UserError or ModelError when lake or model cannot be read."""
    from masklake.pipeline.labels import check as label_check
    from masklake.pipeline.labels import store as label_store
    from masklake.pipeline.lake.lake import Lake

    storage = storage_from(args)
    lake = Lake(args.lake, storage)
    lake.require()
    classes = None
    if args.model:
        from masklake.jobs.models import resolve as models

        classes = {
            one.name
            for one in models.resolve(args.model, storage, args.weights_dir, lake=lake.uri).spec.classes
        }
    sets = label_store.newest(lake)
    found = list(label_check.problems(sets, classes))
    if args.json:
        from masklake.jobs.terminal.json import print_json

        print_json([asdict(one) for one in found])
    else:
        _print(found, len(sets), sum(len(one.instances) for one in sets))
    return _PROBLEMS_FOUND if found else 0


def _print(found: list[Problem], images: int, instances: int) -> None:
    from masklake.jobs.terminal.tables import plain_console
    from masklake.jobs.terminal.text import one_line

    console = plain_console()
    for one in found:
        text = f"{one.uri}: instance {one.instance} ({one.label}): {one.problem}"
        console.print(one_line(text), soft_wrap=True)
    console.print(
        f"{len(found):,} problem{'' if len(found) == 1 else 's'} in {instances:,} instances of {images:,} images"
    )
