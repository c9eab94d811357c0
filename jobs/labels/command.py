"""`masklake labels`: gather labels in a lake, give them out again, look at them."""

from __future__ import annotations

import argparse
import importlib

from masklake.jobs.options import add_storage_options

SUMMARY = "gather labels in a lake: import, export, stats, check"
DESCRIPTION = """\
Labels are what people, or tools that they trust, say of an image: every instance with its class, its box, its
mask, its joints. They lie beside the results, in LAKE/labels, and are only ever added to: the newest label set
of an image counts, and the older ones stay (`all_labels` in masklake query)."""
EPILOG = """\
examples:
  masklake labels import instances.json person_keypoints.json s3://lake
  masklake labels stats s3://lake
  masklake labels check s3://lake --model coco
  masklake labels export s3://lake labels.json
  masklake query "select label, count(*) from labels group by 1" --lake s3://lake

masklake labels ACTION --help tells more of each"""

ACTIONS = {
    "import": "masklake.jobs.labels.importing",
    "export": "masklake.jobs.labels.exporting",
    "stats": "masklake.jobs.labels.stats",
    "check": "masklake.jobs.labels.check",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions of `masklake labels`, each a module with options of its own."""
    actions = parser.add_subparsers(metavar="ACTION", title="actions", dest="action", required=True)
    for name, module in ACTIONS.items():
        action = importlib.import_module(module)
        sub = actions.add_parser(
            name,
            help=action.SUMMARY,
            description=action.DESCRIPTION,
            epilog=action.EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        action.add_arguments(sub)
        add_storage_options(sub)
        # The command's own parser has it too; left out here it must not undo what stood before the action.
        sub.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
        )


def run(args: argparse.Namespace) -> int:
    """Run the action. Raises UserError for a mistake; the exit code otherwise."""
    code: int = importlib.import_module(ACTIONS[args.action]).run(args)
    return code
