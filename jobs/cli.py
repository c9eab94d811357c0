"""The `masklake` command: finds the command's module, runs it, and turns errors into one line.

Only the chosen command's module is imported, and torch and ray only by what needs them.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import TextIO

COMMANDS = {
    "segment": "masklake.jobs.segment.command",
    "query": "masklake.jobs.query.command",
    "runs": "masklake.jobs.runs.command",
    "run": "masklake.jobs.runs.show",
    "labels": "masklake.jobs.labels.command",
    "train": "masklake.jobs.train.command",
    "eval": "masklake.jobs.eval.command",
    "review": "masklake.jobs.review.command",
    "models": "masklake.jobs.models.command",
    "submit": "masklake.jobs.submit.command",
    "jobs": "masklake.jobs.submit.jobs_command",
    "schedule": "masklake.jobs.schedule.command",
    "scenes": "masklake.jobs.scenes",
    "demo": "masklake.jobs.demo.command",
}
_USER_MISTAKE = 2
_INTERRUPTED = 130

_INTRO = """\
A bucket of images in, a lake of instance masks, boxes and keypoints out.

  masklake demo                                        see it work on this machine, nothing to configure
  masklake segment s3://photos/2026/ s3://lake         every image becomes rows in the lake
  masklake query "select label, count(*) from instances group by 1" --lake s3://lake
"""


def _top_level() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="masklake", description=_INTRO, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands (masklake COMMAND --help tells more)")
    for name, module in COMMANDS.items():
        commands.add_parser(name, help=importlib.import_module(module).SUMMARY)
    return parser


def parser_of(name: str, module: ModuleType) -> argparse.ArgumentParser:
    """The parser of a command."""
    parser = argparse.ArgumentParser(
        prog=f"masklake {name}",
        description=getattr(module, "DESCRIPTION", module.SUMMARY),
        epilog=getattr(module, "EPILOG", None),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a command line; its exit code: 0 done, 2 a mistake that the message names, 130 interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    # Closed by the caller (`>&-`): then nobody wants to read it.
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    if argv[:1] == ["--version"]:
        from importlib.metadata import version

        print(f"masklake {version('masklake')}")  # noqa: T201  # what was asked for
        return 0
    if not argv or argv[0] not in COMMANDS:
        parser = _top_level()
        if not argv or argv[0] in ("-h", "--help", "help"):
            parser.print_help()
            return 0
        parser.error(f"there is no command {argv[0]!r}; the commands are {', '.join(COMMANDS)}")
    module = importlib.import_module(COMMANDS[argv[0]])
    args = parser_of(argv[0], module).parse_args(argv[1:])
    return _run(module, args)


def _run(module: ModuleType, args: argparse.Namespace) -> int:
    from masklake.model.errors import ModelError
    from masklake.pipeline.errors import UserError
    from masklake.pipeline.storage.explain import explain, of_storage

    try:
        code: int = module.run(args)
        sys.stdout.flush()  # what cannot be written shows here, and not when Python ends
        return code
    except (UserError, ModelError) as error:
        if args.debug:
            raise
        message = " ".join(str(error).split())
        print(f"masklake: error: {message}", file=sys.stderr)  # noqa: T201  # the one line that a mistake gets
        return _USER_MISTAKE
    except KeyboardInterrupt:
        print("masklake: interrupted", file=sys.stderr)  # noqa: T201  # as above
        return _INTERRUPTED
    except BrokenPipeError:  # `masklake query … | head`
        sys.stderr.close()
        return 0
    except Exception as error:
        if args.debug or not of_storage(error):
            raise
        # What no command has explained: the file is told where the system names it.
        file = getattr(error, "filename", None)
        told = explain(error, str(file or "standard output"), "go on" if file else "write the result")
        if not file:
            sys.stdout = _nowhere()  # Python flushes it once more when it ends
        print(f"masklake: error: {told} (--debug shows where)", file=sys.stderr)  # noqa: T201  # as above
        return _USER_MISTAKE


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w")  # as long as this process lives


if __name__ == "__main__":
    sys.exit(main())
