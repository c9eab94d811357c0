"""Options are fields of frozen dataclasses, declared once: name, default, kind, help.

    @dataclass(frozen=True, kw_only=True)
    class SegmentOptions(Options):
        lake: str = argument("LAKE", help="where the results go")
        score: float = option(fraction, "0..1", default=0.05, help="leave out instances below this score")
        storage: StorageOptions = included(StorageOptions)

From that come the parser (`parser`), the keys of a file (`job_file`), and the check of what Python code passes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass
from typing import Any, Literal

from masklake.jobs.options.kinds import Kind
from masklake.pipeline.errors import UserError

_KEY = "masklake option"


@dataclass(frozen=True)
class Section:
    """A part of a command's help."""

    title: str
    text: str | None = None


@dataclass(frozen=True, kw_only=True)
class Declared:
    """What is declared of one option."""

    help: str
    kind: Callable[[str], Any] | None = None
    """Makes the value from text; None for a flag."""
    metavar: str | None = None
    name: str | None = None
    """The option's name where it differs from the field's."""
    short: tuple[str, ...] = ()
    """Other spellings of the option, such as --output for --out."""
    former: tuple[str, ...] = ()
    """Names that it had before, without dashes: they still work, on the command line and in files, and are not shown."""
    positional: bool = False
    nargs: str | int | None = None
    repeated: bool = False
    section: Section | None = None
    instead_of: str | None = None
    """Of all options with the same word here only one may be given."""
    holds: Literal["path", "model"] | None = None
    """path: the value names a local file unless it has a protocol; model: it does if it looks like a path."""
    again: bool = False
    """Whether it must be given again to resume a run."""
    kept: bool = True
    """Whether it is written into the file of options that a run leaves."""
    hidden: bool = False


def option(
    kind: Callable[[str], Any],
    metavar: str | None = None,
    *,
    help: str,  # noqa: A002  # argparse's word
    default: Any = None,
    **more: Any,
) -> Any:
    """An option with a value. If `default` is None it need not be given, and the help says what happens then."""
    declared = Declared(help=help, kind=kind, metavar=metavar, **more)
    return dataclasses.field(default=default, metadata={_KEY: declared})


def flag(*, help: str, **more: Any) -> Any:  # noqa: A002  # as above
    """An option that is given or not."""
    return dataclasses.field(default=False, metadata={_KEY: Declared(help=help, **more)})


def argument(
    metavar: str,
    *,
    help: str,  # noqa: A002  # as above
    kind: Callable[[str], Any] = str,
    default: Any = MISSING,
    **more: Any,
) -> Any:
    """A value that is known by its position. With a `default` it need not be given."""
    declared = Declared(help=help, kind=kind, metavar=metavar, positional=True, **more)
    return dataclasses.field(default=default, metadata={_KEY: declared})


def included(part: type[Options]) -> Any:
    """The options of `part`, on the same command line as those of the class that includes it."""
    return dataclasses.field(default_factory=part, metadata={_KEY: part})


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a command, or of a part of it. Values are checked, from the command line, a file or Python."""

    explicit: frozenset[str] = dataclasses.field(default=frozenset(), repr=False, compare=False)
    """The options that the user gave, on the command line or in a file."""

    def __post_init__(self) -> None:
        """Raises UserError, which names option and value, for a value that is not of its option's kind."""
        for entry in entries(type(self), into=False):
            value = getattr(self, entry.field)
            kind = entry.declared.kind
            if isinstance(kind, Kind) and value is not None and not kind.holds(value):
                raise UserError(f"{entry.shown}: {kind.refusal(value)}")
        self._refuse_both()
        self.validate()

    def _refuse_both(self) -> None:
        first: dict[str, Entry] = {}
        for entry in entries(type(self), into=False):
            if (word := entry.declared.instead_of) and getattr(self, entry.field) != entry.default:
                if word in first:
                    raise UserError(f"{entry.shown}: not with {first[word].shown}; give one of them")
                first[word] = entry

    def validate(self) -> None:
        """Check what must hold between options. Raises UserError."""

    def explicit_values(self) -> dict[str, Any]:
        """The fields of this part that the user gave, or that Python code set to another value than the default."""
        values = {entry: getattr(self, entry.field) for entry in entries(type(self), into=False)}
        return {
            entry.field: value
            for entry, value in values.items()
            if entry.name in self.explicit or value != entry.default
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """One option of a command: its place in the dataclasses, and its declaration."""

    path: tuple[str, ...]
    """The fields that lead from the command's options to it."""
    declared: Declared
    default: Any
    """MISSING if the option must be given."""

    @property
    def field(self) -> str:
        return self.path[-1]

    @property
    def required(self) -> bool:
        return self.default is MISSING

    @property
    def name(self) -> str:
        """Its name in files, and on the command line without the dashes."""
        return self.declared.name or self.field.rstrip("_").replace("_", "-")

    @property
    def shown(self) -> str:
        """Its name in messages."""
        return (self.declared.metavar or self.name) if self.declared.positional else f"--{self.name}"

    def value_in(self, options: Options) -> Any:
        """Its value in `options`."""
        value: Any = options
        for name in self.path:
            value = getattr(value, name)
        return value


def entries(cls: type[Options], *, into: bool = True) -> Iterator[Entry]:
    """The options of a command, in the order of their declaration; with `into` those of included parts too."""
    for field in dataclasses.fields(cls):
        declared = field.metadata.get(_KEY)
        if isinstance(declared, Declared):
            yield Entry(path=(field.name,), declared=declared, default=field.default)
        elif declared is not None and into:
            for entry in entries(declared):
                yield dataclasses.replace(entry, path=(field.name, *entry.path))


def build(cls: type[Options], by_name: dict[str, Any]) -> Any:
    """The options with these values, which are given by option name. Raises UserError for values that are refused."""
    known = {entry.name: entry for entry in entries(cls, into=False)}
    own = {entry.field: by_name[name] for name, entry in known.items() if name in by_name}
    for field in dataclasses.fields(cls):
        part = field.metadata.get(_KEY)
        if part is not None and not isinstance(part, Declared):
            own[field.name] = build(part, by_name)
    names = {entry.name for entry in entries(cls)}
    return cls(explicit=frozenset(by_name) & names, **own)


def values(options: Options) -> dict[str, Any]:
    """The value of every option, by name."""
    return {entry.name: entry.value_in(options) for entry in entries(type(options))}
