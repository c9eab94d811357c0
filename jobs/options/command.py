"""What a command is: its texts, its options, what it runs; and how a command line becomes options."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from masklake.jobs.options import job_file
from masklake.jobs.options.declare import Options, build, entries
from masklake.jobs.options.parser import Parser, add_options
from masklake.jobs.terminal.suggestions import did_you_mean
from masklake.pipeline.storage.store import Storage


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command, or an action of one: from options to an exit code."""

    summary: str
    options: type[Options]
    run: Callable[[Any], int]
    """Raises UserError or ModelError for a mistake."""
    description: str | None = None
    epilog: str | None = None
    usage: str | None = None
    """The usage line after the command's name; None: the one that argparse makes."""
    from_file: bool = False
    """Whether --config takes its options from a file."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """A command that has actions."""

    summary: str
    actions: Mapping[str, Command]
    description: str | None = None
    epilog: str | None = None
    usual: str | None = None
    """The action that runs when none is named; None: one must be named."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A command line that was understood."""

    command: Command
    options: Any
    """An instance of `command.options`."""
    action: str | None = None
    """None where the command has no actions, or none was named and the usual one runs."""
    config: str | None = None
    """The file of --config, from which some of the options come."""
    quiet: bool = False
    """Whether only the result and errors are to be said."""


def understand(
    name: str, command: Command | Group, arguments: Sequence[str], folder: str | None = None
) -> Line:
    """The command line `masklake NAME ARGUMENTS…`; relative paths of option files are below `folder`.

    Raises UserError for values that cannot be, and for a file of options that cannot be read. Exits as argparse does,
    with 2 and a message, for arguments that it does not know, and for --help.
    """
    if isinstance(command, Group):
        action, rest = _action(name, command, list(arguments))
        named = f"{name} {action}" if action else name
        line = understand(named, command.actions[action or command.usual or ""], rest, folder)
        return replace(line, action=action)
    file, storage = _config_in(arguments) if command.from_file else (None, Storage())
    kept = {} if file is None else job_file.read(file, command.options, name, folder, storage)
    explicit = vars(parser_of(name, command, kept).parse_args(arguments))
    explicit.pop("debug", None)
    quiet = explicit.pop("quiet", False)
    config = explicit.pop("config", None)
    values = explicit | _not_contradicted(command.options, kept, explicit)
    return Line(command=command, options=build(command.options, values), config=config, quiet=quiet)


def parser_of(name: str, command: Command, kept: Mapping[str, Any] | None = None) -> Parser:
    """The parser of a command; `kept`: the values that a file of options gives."""
    parser = Parser(
        prog=f"masklake {name}",
        usage=f"masklake {name} {command.usage}" if command.usage else None,
        description=command.description or _sentence(command.summary),
        epilog=command.epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    add_options(parser, command.options, kept or {})
    common = parser.add_argument_group("any command")
    if command.from_file:
        common.add_argument(
            "--config",
            metavar="FILE",
            help="take options from this TOML file, a path or a URI (s3://…), by their names without dashes (batch-size = 32); what is given here "
            "as well counts. A run leaves the options it used as such a file",
        )
    common.add_argument(
        "-q", "--quiet", action="store_true", help="no progress and no remarks: only the result, and errors"
    )
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def filled_parser(name: str, command: Command | Group) -> Parser:
    """A parser that knows the command's actions and options, for tools that read parsers."""
    if isinstance(command, Command):
        return parser_of(name, command)
    parser = Parser(prog=f"masklake {name}")
    actions = parser.add_subparsers(metavar="ACTION")
    for action, inner in command.actions.items():
        parents = [parser_of(f"{name} {action}", inner)]
        actions.add_parser(action, help=inner.summary, parents=parents, add_help=False)
    return parser


def _action(name: str, group: Group, arguments: list[str]) -> tuple[str | None, list[str]]:
    """The name of the action and its arguments; None where none is named and the usual one runs. Options may come first."""
    for position, word in enumerate(arguments):
        if word in group.actions and _only_options(group, arguments[:position]):
            return word, arguments[:position] + arguments[position + 1 :]
        if word in ("-h", "--help") and (group.usual is None or position == 0):
            _group_parser(name, group).parse_args(["--help"])
    if group.usual is not None:
        return None, arguments
    parser = _group_parser(name, group)
    known = ", ".join(group.actions)
    words = [word for word in arguments if not word.startswith("-")]
    if not words:
        parser.error(f"say what to do: {known}")
    parser.error(
        f"there is no action {words[0]!r}; the actions are {known}{did_you_mean(words[0], group.actions)}"
    )
    raise AssertionError  # error() exits


def _only_options(group: Group, words: list[str]) -> bool:
    """Whether these words are all options and their values."""
    with_value = {
        f"--{entry.name}"
        for action in group.actions.values()
        for entry in entries(action.options)
        if entry.declared.kind is not None
    }
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            return False
        if word in with_value and next(rest, None) is None:
            return False
    return True


def _group_parser(name: str, group: Group) -> Parser:
    parser = Parser(
        prog=f"masklake {name}",
        description=group.description or _sentence(group.summary),
        epilog=group.epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    title = f"actions (default {group.usual})" if group.usual else "actions"
    actions = parser.add_subparsers(
        metavar="ACTION", title=f"{title}; masklake {name} ACTION --help tells more"
    )
    for action, command in group.actions.items():
        actions.add_parser(action, help=command.summary)
    return parser


def _config_in(arguments: Sequence[str]) -> tuple[str | None, Storage]:
    """The file that --config names, and how the line reaches storage: it is read before the rest is parsed, since arguments
    that it holds need not be given again."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--config")
    for name in ("endpoint-url", "profile"):
        finder.add_argument(f"--{name}")
    for name in ("anonymous", "requester-pays"):
        finder.add_argument(f"--{name}", action="store_true")
    try:
        given = vars(finder.parse_known_args(list(arguments))[0])
    except argparse.ArgumentError:
        return None, Storage()  # the whole parser says what is wrong
    return given.pop("config"), Storage(**given)


def _not_contradicted(
    cls: type[Options], kept: Mapping[str, Any], explicit: Mapping[str, Any]
) -> dict[str, Any]:
    """The file's values that the command line leaves standing; of options that exclude each other the line's counts."""
    excluding = {entry.name: entry.declared.instead_of for entry in entries(cls)}
    decided = {excluding[name] for name in explicit} - {None}
    return {
        name: value for name, value in kept.items() if name not in explicit and excluding[name] not in decided
    }


def _sentence(summary: str) -> str:
    return f"{summary[0].upper()}{summary[1:]}."
