"""From declared options to argparse, and from options back to arguments."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.options.declare import Entry, Options, entries
from masklake.jobs.terminal.suggestions import did_you_mean
from masklake.jobs.terminal.text import one_line


class Parser(argparse.ArgumentParser):
    """argparse's parser, with did-you-mean for options that it does not know."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]  # argparse's is overloaded
        """Parse; the words of one argument may stand on both sides of options."""
        # argparse alone would take the words of a "*" argument only from before the first option.
        between = any(action.nargs == "*" for action in self._actions if not action.option_strings)
        parse = self.parse_known_intermixed_args if between else self.parse_known_args
        parsed, unknown = parse(args, namespace)
        if unknown:
            self.unknown(unknown)
        return parsed

    def error(self, message: str) -> NoReturn:
        """Exit with one line, as for every mistake."""
        self.exit(
            ExitCode.MISTAKE, f"{self.prog}: error: {one_line(message)} ({self.prog} --help tells more)\n"
        )

    def unknown(self, words: list[str]) -> NoReturn:
        """Exit because of words that are no options."""
        known = [
            name
            for action in self._actions
            for name in action.option_strings
            if action.help != argparse.SUPPRESS
        ]
        options = [
            f"{word.partition('=')[0]}{did_you_mean(word.partition('=')[0], known)}"
            for word in words
            if word.startswith("-")
        ]
        self.error(
            f"there is no option {options[0]}" if options else f"unrecognized arguments: {' '.join(words)}"
        )


def add_options(parser: argparse.ArgumentParser, cls: type[Options], kept: Mapping[str, Any]) -> None:
    """Add the options of `cls` to the parser. Those in `kept` have values already, and need not be given."""
    sections: dict[str, Any] = {}
    excluding: dict[str, Any] = {}
    for entry in entries(cls):
        declared = entry.declared
        place: Any = parser
        if declared.section is not None:
            section = declared.section
            if section.title not in sections:
                sections[section.title] = parser.add_argument_group(section.title, section.text)
            place = sections[section.title]
        if declared.instead_of is not None:
            if declared.instead_of not in excluding:
                excluding[declared.instead_of] = place.add_mutually_exclusive_group()
            place = excluding[declared.instead_of]
        settings = _settings(entry, entry.name in kept)
        place.add_argument(*_names(entry), **settings)
        for name in declared.former:
            place.add_argument(f"--{name}", **(settings | {"help": argparse.SUPPRESS}))
        if declared.positional and declared.short:
            shared = {name: settings[name] for name in ("type", "metavar", "default")}
            place.add_argument(*declared.short, dest=entry.name, help=f"the same as {entry.shown}", **shared)


def _names(entry: Entry) -> list[str]:
    return [entry.name] if entry.declared.positional else [f"--{entry.name}", *entry.declared.short]


def _settings(entry: Entry, known: bool) -> dict[str, Any]:
    declared = entry.declared
    settings: dict[str, Any] = {
        "help": argparse.SUPPRESS if declared.hidden else _help(entry),
        "default": argparse.SUPPRESS,  # the options' class has the defaults; the parser returns only what was given
    }
    if not declared.positional:
        settings["dest"] = entry.name
    if declared.kind is None:
        return settings | {"action": "store_true"}
    settings |= {"type": declared.kind, "metavar": declared.metavar}
    if declared.repeated:
        settings["action"] = "append"
    nargs = declared.nargs
    if declared.positional and nargs is None and (known or not entry.required):
        nargs = "?"
    return settings if nargs is None else settings | {"nargs": nargs}


def _help(entry: Entry) -> str:
    text, default = entry.declared.help, entry.default
    if entry.required or default in (None, False, ()) or "default" in text:
        return text.replace("%", "%%")
    return f"{text} (default {shown(default)})".replace("%", "%%")


def shown(value: Any) -> str:
    """A value as a user types it."""
    if isinstance(value, tuple):
        return (",".join if all(isinstance(part, str) for part in value) else ":".join)(map(shown, value))
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return str(value)


def as_arguments(options: Options, names: frozenset[str] | None = None) -> list[str]:
    """The arguments that give these options again: all that the user gave, or only those in `names`."""
    flags, places = [], []
    for entry in entries(type(options)):
        value = entry.value_in(options)
        wanted = entry.name in options.explicit or (value != entry.default and not entry.required)
        if not (wanted if names is None else entry.name in names) or value is None or value is False:
            continue
        if entry.declared.positional:
            places += [value] if isinstance(value, str) else list(value)
        elif value is True:
            flags.append(f"--{entry.name}")
        elif entry.declared.repeated:
            flags += [f"--{entry.name}={shown(part)}" for part in value]
        else:
            flags.append(f"--{entry.name}={shown(value)}")
    dashed = any(place.startswith("-") for place in places)
    return [*flags, *(["--"] if dashed else []), *places] if dashed else [*places, *flags]


def resuming(options: Options, *more: str) -> list[str]:
    """The arguments of the command that resumes a run: where the run is, and the options that must be given again."""
    again = frozenset(
        entry.name
        for entry in entries(type(options))
        if entry.declared.again and entry.value_in(options) != entry.default
    )
    places = [entry.value_in(options) for entry in entries(type(options)) if entry.declared.positional]
    return [*places, *more, *as_arguments(options, again)]


def typed() -> list[str]:
    """The command line of this process, for records."""
    return ["masklake", *sys.argv[1:]]
