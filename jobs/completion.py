"""`masklake completion`: what a shell needs to complete commands, options and files."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.options.command import Command
from masklake.jobs.options.declare import Options, argument
from masklake.jobs.options.kinds import one_of

SHELLS = ("bash", "zsh", "fish")
DESCRIPTION = """\
Print the completion of masklake's commands and options for a shell. Its file holds until the next version."""
EPILOG = """\
examples:
  masklake completion bash > ~/.local/share/bash-completion/completions/masklake
  masklake completion zsh > ~/.zfunc/_masklake          (with fpath+=~/.zfunc before compinit in ~/.zshrc)
  masklake completion fish > ~/.config/fish/completions/masklake.fish"""
_FILES = {"FILE", "DIR", "SOURCE", "LAKE", "FOLDER", "URI", "LIST"}
"""Metavariables whose values may be local files."""


@dataclass(frozen=True, kw_only=True)
class CompletionOptions(Options):
    """The options of `masklake completion`."""

    shell: str = argument("SHELL", kind=one_of(*SHELLS), help="bash, zsh or fish")


def script(shell: str) -> str:
    """What the shell is to read."""
    import shtab
    from masklake.jobs.cli import top_level

    parser = top_level(filled=True)
    _with_files(parser, shtab.FILE)
    return str(shtab.complete(parser, shell))


def _with_files(parser: argparse.ArgumentParser, files: object) -> None:
    for action in parser._actions:  # argparse has no public list; shtab reads this one
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _with_files(inner, files)
        elif action.metavar in _FILES:
            action.complete = files  # type: ignore[attr-defined]  # shtab's own attribute


def run(options: CompletionOptions) -> int:
    """Print the script."""
    sys.stdout.write(script(options.shell))
    return ExitCode.DONE


COMMAND = Command(
    summary="completion of commands and options for bash, zsh and fish",
    description=DESCRIPTION,
    epilog=EPILOG,
    options=CompletionOptions,
    run=run,
)
