"""Options in a TOML file: read for --config, written for what a run used.

Keys are the options' names without dashes, as `masklake COMMAND --help` shows them; SOURCE and LAKE are `source` and
`lake`. A file has no sections, and no credentials are ever written into one.
"""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from masklake.jobs.options.declare import Entry, Options, entries
from masklake.jobs.options.parser import shown
from masklake.jobs.terminal.suggestions import did_you_mean
from masklake.jobs.terminal.text import printable
from masklake.pipeline.errors import UserError
from masklake.pipeline.storage.explain import explaining
from masklake.pipeline.storage.files import at_home
from masklake.pipeline.storage.store import Storage, redact

NAME = "options.toml"
"""The file's name in the folder of a run."""


def read(
    file: str, cls: type[Options], command: str, folder: str | None = None, storage: Storage | None = None
) -> dict[str, Any]:
    """The values that a file, a path or a URI, gives to the options of `cls`, by name; a relative path is below `folder`.

    Raises UserError, which names the key, for a file that cannot be read, keys that are no options, and values that
    these cannot have.
    """
    place = file if "://" in file else str(Path(folder or "", at_home(file)))
    with explaining(place, "read the options (--config)"):
        data = (storage or Storage()).read(place)
    try:
        content = tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"--config {file}: is not TOML: {error}") from error
    known = {entry.name: entry for entry in entries(cls)}
    former = {name: entry.name for entry in known.values() for name in entry.declared.former}
    values = {}
    for key, value in content.items():
        name = key.replace("_", "-") if key not in known else key
        name = former.get(name, name)
        if name not in known:
            raise UserError(
                f"--config {file}: {printable(key)!r} is no option of masklake {command}{did_you_mean(name, known)}"
            )
        values[name] = _value(known[name], value, f"--config {file}: {name} = {value!r}")
    _refuse_excluding([known[name] for name in values], file)
    return values


def _refuse_excluding(in_file: list[Entry], file: str) -> None:
    by_word: dict[str, Entry] = {}
    for entry in in_file:
        if (word := entry.declared.instead_of) is None:
            continue
        if word in by_word:
            raise UserError(f"--config {file}: give {by_word[word].name} or {entry.name}, not both")
        by_word[word] = entry


def _value(entry: Entry, value: Any, where: str) -> Any:
    kind = entry.declared.kind
    if kind is None:
        if not isinstance(value, bool):
            raise UserError(f"{where}: {entry.name} is given or not; write true or false")
        return value
    many = entry.declared.nargs is not None or entry.declared.repeated
    if many and isinstance(value, list):
        return [_value_of(kind, part, where) for part in value]
    return _value_of(kind, value, where)


def _value_of(kind: Callable[[str], Any], value: Any, where: str) -> Any:
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        value = ",".join(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"{where}: write a text or a number, as on the command line")
    try:
        return kind(str(value))
    except argparse.ArgumentTypeError as error:
        raise UserError(f"{where}: {error}") from error
    except ValueError as error:
        raise UserError(f"{where}: cannot be read ({error})") from error


def written(options: Options, command: str, comment: str) -> bytes:
    """The content of a file that gives these options again, defaults included, credentials left out."""
    lines = [f"# {comment}", f"# again: masklake {command} --config {NAME}"]
    for entry in entries(type(options)):
        value = entry.value_in(options)
        excluded = entry.declared.instead_of is not None and value == entry.default
        if value is None or excluded or entry.declared.hidden or not entry.declared.kept:
            continue
        lines.append(f"{entry.name} = {_toml(value)}")
    # TOML has no form for what is not Unicode (names of files in another encoding): such a line is a comment, for people to read.
    whole = [line if _is_unicode(line) else f"# not Unicode: {line}" for line in lines]
    return ("\n".join(whole) + "\n").encode("utf-8", "backslashreplace")


def _is_unicode(text: str) -> bool:
    return not any(0xD800 <= ord(character) < 0xE000 for character in text)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        return f"[{', '.join(map(_toml, value))}]"
    escaped = re.sub(
        r'["\\\x00-\x1f\x7f]', _escaped, redact(value if isinstance(value, str) else shown(value))
    )
    return f'"{escaped}"'


def _escaped(match: re.Match[str]) -> str:
    return f"\\{match[0]}" if match[0] in '"\\' else f"\\u{ord(match[0]):04x}"
