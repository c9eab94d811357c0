"""The `masklake` command: finds the command's module, runs it, and turns errors into one line.

Only the chosen command's module is imported, and torch and ray only by what needs them.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, TextIO

from masklake.jobs.exit_codes import MEANINGS, ExitCode
from masklake.jobs.options.command import Command, Group, Line, filled_parser, understand
from masklake.jobs.options.parser import Parser
from masklake.jobs.terminal.interrupts import interrupt_once
from masklake.jobs.terminal.manners import be_quiet
from masklake.jobs.terminal.suggestions import did_you_mean
from masklake.jobs.terminal.text import one_line

COMMANDS = {
    "segment": "masklake.jobs.segment.command",
    "query": "masklake.jobs.query.command",
    "export": "masklake.jobs.export.command",
    "catalog": "masklake.jobs.catalog.command",
    "view": "masklake.jobs.view.command",
    "show": "masklake.jobs.show.command",
    "plot": "masklake.jobs.plot.command",
    "runs": "masklake.jobs.runs.command",
    "labels": "masklake.jobs.labels.command",
    "train": "masklake.jobs.train.command",
    "eval": "masklake.jobs.eval.command",
    "review": "masklake.jobs.review.command",
    "backend": "masklake.jobs.backend.command",
    "models": "masklake.jobs.models.command",
    "compact": "masklake.jobs.tend.compact",
    "forget": "masklake.jobs.tend.forget",
    "submit": "masklake.jobs.submit.command",
    "jobs": "masklake.jobs.submit.jobs_command",
    "schedule": "masklake.jobs.schedule.command",
    "scenes": "masklake.jobs.scenes",
    "demo": "masklake.jobs.demo.command",
    "completion": "masklake.jobs.completion",
}
ALIASES = {"run": "runs"}
"""Older names of commands, which still work."""

_INTRO = """\
A bucket of images in, a lake of instance masks, boxes and keypoints out.

  masklake demo                                        see it work on this machine, nothing to configure
  masklake segment s3://photos/2026/ s3://lake         every image becomes rows in the lake
  masklake query "select label, count(*) from instances group by 1" --lake s3://lake
"""


def top_level(filled: bool = False) -> argparse.ArgumentParser:
    """The parser of all commands: by their names and summaries, or, filled, with all their actions and options."""
    parser = Parser(
        prog="masklake",
        description=_INTRO,
        epilog=MEANINGS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands (masklake COMMAND --help tells more)")
    for name in COMMANDS:
        command = command_named(name)
        parents = [filled_parser(name, command)] if filled else []
        commands.add_parser(name, help=command.summary, parents=parents, add_help=not filled)
    return parser


def command_named(name: str) -> Command | Group:
    """The command; only its module is imported."""
    command: Command | Group = importlib.import_module(COMMANDS[name]).COMMAND
    return command


def understood(arguments: Sequence[str], folder: str | None = None) -> Line:
    """The command line that is `arguments`, as after `masklake`; files of options are looked for below `folder`.

    Raises UserError and ModelError for values that cannot be. Exits with a message for a command or an option that
    does not exist, as argparse does.
    """
    name, *rest = arguments
    name = ALIASES.get(name, name)
    if name not in COMMANDS:
        top_level().error(
            f"there is no command {name!r}; the commands are {', '.join(COMMANDS)}{did_you_mean(name, COMMANDS)}"
        )
    return understand(name, command_named(name), rest, folder)


def main(argv: list[str] | None = None) -> int:
    """Run a command line; its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    # The caller closed it (`>&-`): then nobody reads the output.
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    if argv[:1] == ["--version"]:
        from importlib.metadata import version

        print(f"masklake {version('masklake')}")  # noqa: T201  # what was asked for
        return ExitCode.DONE
    if not argv or argv[0] in ("-h", "--help", "help"):
        top_level().print_help()
        return ExitCode.DONE
    return _run(argv)


def program() -> NoReturn:
    """The command line as a process of its own: `main`, under our handling of Ctrl-C, to the very end of the process."""
    interrupt_once()
    sys.exit(main())


def _run(argv: list[str]) -> int:
    from masklake.model.errors import ModelError
    from masklake.pipeline.errors import OutageError, UserError
    from masklake.pipeline.storage.explain import explain, of_storage

    try:
        line = understood(argv)
        be_quiet(line.quiet)
        code = line.command.run(line.options)
        sys.stdout.flush()  # an error of writing has to show here, and not when Python ends
        return code
    except (UserError, ModelError) as error:
        if "--debug" in argv:
            raise
        # What the message names, such as a key or a class, may be hostile text.
        print(f"masklake: error: {one_line(str(error))}", file=sys.stderr)  # noqa: T201  # the one line that a mistake gets
        return ExitCode.FAILED if isinstance(error, OutageError) else ExitCode.MISTAKE
    except KeyboardInterrupt:
        print("masklake: interrupted", file=sys.stderr)  # noqa: T201  # as above
        return ExitCode.STOPPED
    except BrokenPipeError:  # `masklake query … | head`
        sys.stderr.close()
        return ExitCode.DONE
    except Exception as error:
        if "--debug" in argv or not of_storage(error):
            raise
        # An error that no command has explained; the message names the file if the system does.
        file = getattr(error, "filename", None)
        explained = explain(error, str(file or "standard output"), "go on" if file else "write the result")
        if not file:
            sys.stdout = _nowhere()  # Python flushes it once more when it ends
        print(f"masklake: error: {one_line(str(explained))} (--debug shows where)", file=sys.stderr)  # noqa: T201  # as above
        return ExitCode.FAILED if isinstance(explained, OutageError) else ExitCode.MISTAKE


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w")  # as long as this process lives


if __name__ == "__main__":
    program()
