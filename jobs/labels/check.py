"""`masklake labels check`: mistakes in the labels that training would learn from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.options.command import Command
from masklake.jobs.options.declare import Options, included, option
from masklake.jobs.options.shared import StorageOptions, json_flag, lake_argument
from masklake.pipeline.words import counted

if TYPE_CHECKING:
    from masklake.pipeline.labels.check import Problem

SUMMARY = "find empty masks, boxes that do not fit, duplicates, unknown classes"
DESCRIPTION = """\
Look through the newest label set of every image for what cannot be meant: empty masks, boxes without area, boxes
that are not around their mask (corners, a centre or fractions where x, y, width, height in pixels belong), boxes and
keypoints that leave the image by more than a pixel, instances that are there twice, and, with --model,
classes that the model does not know."""
EPILOG = """\
examples:
  masklake labels check s3://lake --model coco
  masklake labels check lake/ --json | jq -r '.[].uri' | sort -u

exit codes: 0 nothing found · 1 problems found · 2 a mistake that the message names"""


@dataclass(frozen=True, kw_only=True)
class CheckOptions(Options):
    """The options of `masklake labels check`."""

    lake: str = lake_argument()
    model: str | None = option(
        str,
        "MODEL",
        holds="model",
        help="check class names: demo, coco, one of the lake's, a directory or a URI",
    )
    weights_dir: str | None = option(
        str, "DIR", holds="path", help="a folder with the published weights for --model coco"
    )
    json: bool = json_flag("an array with an object per problem")
    storage: StorageOptions = included(StorageOptions)


def run(options: CheckOptions) -> int:
    """Check; 1 when something is wrong. Raises UserError or ModelError when lake or model cannot be read."""
    from masklake.pipeline.labels import check as label_check
    from masklake.pipeline.labels import store as label_store
    from masklake.pipeline.lake.lake import Lake

    storage = options.storage.open()
    lake = Lake(options.lake, storage)
    lake.require()
    classes = None
    if options.model:
        from masklake.jobs.models import resolve as models

        classes = {
            info.name
            for info in models.resolve(
                options.model, storage, options.weights_dir, lake=lake.uri
            ).spec.classes
        }
    sets = label_store.newest(lake)
    problems = list(label_check.problems(sets, classes))
    if options.json:
        from masklake.jobs.terminal.json import print_json

        print_json([asdict(problem) for problem in problems])
    else:
        _print(problems, len(sets), sum(len(label_set.instances) for label_set in sets))
    return ExitCode.FAILED if problems else ExitCode.DONE


COMMAND = Command(summary=SUMMARY, description=DESCRIPTION, epilog=EPILOG, options=CheckOptions, run=run)


def _print(problems: list[Problem], images: int, instances: int) -> None:
    from masklake.jobs.terminal.tables import plain_console
    from masklake.jobs.terminal.text import one_line

    console = plain_console()
    for problem in problems:
        text = f"{problem.uri}: instance {problem.instance} ({problem.label}): {problem.problem}"
        console.print(one_line(text), soft_wrap=True)
    console.print(
        f"{counted(len(problems), 'problems')} in {counted(instances, 'instances')} of {counted(images, 'images')}"
    )
