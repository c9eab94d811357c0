"""`masklake models`: the models of a lake, and which of them is in use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.options.command import Command, Group
from masklake.jobs.options.declare import Options, argument, included, option
from masklake.jobs.options.shared import StorageOptions, json_flag, lake_argument
from masklake.jobs.terminal.suggestions import did_you_mean
from masklake.pipeline.errors import UserError

if TYPE_CHECKING:
    from masklake.pipeline.lake.registry import Registry, Version

SUMMARY = "keep models in a lake: add, list, show, promote, rollback, unalias"
DESCRIPTION = """\
A lake keeps models in versions that never change, LAKE/models/NAME/VERSION, and names the ones in use by
aliases. `masklake segment … LAKE --model production` runs what the alias means when the run is planned; the run
records the version. A version is the model's fingerprint, so name@version is what the rows say of their model.

An alias is the lake's: one model has it at a time, and another gets it only after `unalias`. MODEL is NAME@VERSION,
NAME:ALIAS, or an alias. If two processes move an alias at the same time, one succeeds and the other gets an error."""
EPILOG = """\
examples:
  masklake models add trained/ s3://lake
  masklake models list s3://lake
  masklake models promote s3://lake photos@0123456789ab
  masklake segment s3://photos/ s3://lake --model production
  masklake models rollback s3://lake photos
  masklake models unalias s3://lake photos production        # and then another model may have it"""

_MODEL = "NAME@VERSION, NAME:ALIAS or an alias"


@dataclass(frozen=True, kw_only=True)
class ModelsListOptions(Options):
    """The options of `masklake models list`."""

    lake: str = lake_argument()
    json: bool = json_flag("an array with an object per version")
    storage: StorageOptions = included(StorageOptions)


@dataclass(frozen=True, kw_only=True)
class ModelsShowOptions(Options):
    """The options of `masklake models show`."""

    lake: str = lake_argument()
    model: str = argument("MODEL", help=_MODEL)
    json: bool = json_flag("what is shown is JSON in any case")
    storage: StorageOptions = included(StorageOptions)


@dataclass(frozen=True, kw_only=True)
class ModelsAddOptions(Options):
    """The options of `masklake models add`."""

    folder: str = argument("DIR", holds="path", help="a folder or URI with model.safetensors and model.json")
    lake: str = lake_argument()
    storage: StorageOptions = included(StorageOptions)


@dataclass(frozen=True, kw_only=True)
class ModelsPromoteOptions(Options):
    """The options of `masklake models promote`."""

    lake: str = lake_argument()
    model: str = argument("MODEL", help=_MODEL)
    alias: str = option(str, "NAME", default="production", help="the alias to move (default production)")
    storage: StorageOptions = included(StorageOptions)


@dataclass(frozen=True, kw_only=True)
class ModelsRollbackOptions(Options):
    """The options of `masklake models rollback`."""

    lake: str = lake_argument()
    name: str = argument("NAME", help="the name of the model, without a version")
    alias: str = option(str, "NAME", default="production", help="the alias to move (default production)")
    storage: StorageOptions = included(StorageOptions)


@dataclass(frozen=True, kw_only=True)
class ModelsUnaliasOptions(Options):
    """What `masklake models unalias` is told."""

    lake: str = lake_argument()
    name: str = argument("NAME", help="the model's name")
    alias: str = argument("ALIAS", help="which of its aliases")
    storage: StorageOptions = included(StorageOptions)


def _registry(
    options: ModelsListOptions
    | ModelsShowOptions
    | ModelsAddOptions
    | ModelsPromoteOptions
    | ModelsRollbackOptions
    | ModelsUnaliasOptions,
) -> Registry:
    from masklake.pipeline.lake.registry import Registry
    from masklake.pipeline.storage.store import normalise_folder

    return Registry(normalise_folder(options.lake), options.storage.open())


def _say(text: str) -> None:
    from masklake.jobs.terminal.tables import plain_console
    from masklake.jobs.terminal.text import one_line

    plain_console().print(one_line(text), soft_wrap=True)


def list_(options: ModelsListOptions) -> int:
    """Every version and alias."""
    registry = _registry(options)
    from masklake.jobs.terminal.json import print_json
    from masklake.jobs.terminal.tables import plain_console, ruled_table

    versions = registry.versions()
    if options.json:
        print_json([_facts(version, registry) for version in versions])
        return ExitCode.DONE
    if not versions:
        _say("no models yet")
        return ExitCode.DONE
    table = ruled_table(("model", "aliases", "added (UTC)"))
    for version in versions:
        facts = _facts(version, registry)
        added_at = f"{version.added_at:%Y-%m-%d %H:%M:%S}" if version.added_at else "-"
        table.add_row(facts["model"], ", ".join(facts["aliases"]) or "-", added_at)
    plain_console().print(table)
    return ExitCode.DONE


def _facts(version: Version, registry: Registry) -> dict[str, Any]:
    aliases = registry.aliases(version.name)
    return {
        "model": str(version),
        "aliases": sorted(alias for alias in aliases.versions if aliases.version(alias) == version.version),
        "added_at": version.added_at and version.added_at.isoformat(),
        "uri": version.uri,
    }


def _version(registry: Registry, text: str) -> Version:
    from masklake.jobs.models.resolve import names_in

    version = registry.find(text)
    if version is None:
        raise UserError(
            f"{registry.lake}: has no model or alias {text!r}; write NAME@VERSION or NAME:ALIAS (`masklake models list {registry.lake}`)"
            f"{did_you_mean(text, names_in(registry))}"
        )
    return version


def show(options: ModelsShowOptions) -> int:
    """One version in full. Raises UserError where there is none."""
    registry = _registry(options)
    import json

    from masklake.jobs.terminal.json import print_json
    from masklake.pipeline.storage.explain import explaining
    from masklake.pipeline.storage.store import join

    version = _version(registry, options.model)
    uri = join(version.uri, "model.json")
    with explaining(uri, "read the model"):
        data = options.storage.open().read(uri)
    try:
        spec = json.loads(data)
    except ValueError as error:
        raise UserError(
            f"{uri}: is not JSON ({error}); remove the version's folder and add it again"
        ) from error
    aliases = registry.aliases(version.name)
    moves = [{k: v for k, v in move.items() if k != "token"} for move in aliases.log]
    named = [alias for alias in aliases.versions if aliases.version(alias) == version.version]
    print_json({"model": str(version), "uri": version.uri, "aliases": named, "moves": moves, "spec": spec})
    return ExitCode.DONE


def add(options: ModelsAddOptions) -> int:
    """Keep a model in the lake. Raises UserError or ModelError for one that cannot be."""
    registry = _registry(options)
    from pathlib import Path

    from masklake.jobs.models import resolve as models
    from masklake.model.checkpoint import SPEC, WEIGHTS, require_safetensors
    from masklake.model.presets import PRESETS

    if options.folder in PRESETS:
        raise UserError(
            f"{options.folder}: is a preset, which needs no adding (a folder of that name: ./{options.folder})"
        )
    resolved = models.resolve(options.folder, options.storage.open())
    folder = Path(resolved.source.local())
    require_safetensors(folder)
    added = registry.add(
        resolved.spec.name,
        resolved.fingerprint,
        {file: (folder / file).read_bytes() for file in (WEIGHTS, SPEC)},
    )
    model = f"{resolved.spec.name}@{resolved.fingerprint}"
    _say(
        f"{model} {'added' if added else 'is in the lake already'}; masklake models promote {registry.lake} {model}"
    )
    return ExitCode.DONE


def promote(options: ModelsPromoteOptions) -> int:
    """Point an alias at a version. Raises UserError where that is not possible."""
    registry = _registry(options)
    from masklake.jobs.models.resolve import require_alias

    version = _version(registry, options.model)
    require_alias(registry, version.name, options.alias)
    aliases = registry.aliases(version.name)
    before = aliases.version(options.alias)
    if before == version.version:
        _say(f"{version.name}:{options.alias} is {version} already")
        return ExitCode.DONE
    registry.promote(version, options.alias, aliases)
    earlier = f"; it was {version.name}@{before}" if before else ""
    _say(f"{version.name}:{options.alias} is {version} now{earlier}")
    return ExitCode.DONE


def rollback(options: ModelsRollbackOptions) -> int:
    """Point an alias where it pointed before. Raises UserError where it never did."""
    registry = _registry(options)
    aliases = registry.aliases(options.name)
    version = registry.rollback(options.name, options.alias, aliases)
    _say(
        f"{options.name}:{options.alias} is {options.name}@{version} again; it was {options.name}@{aliases.version(options.alias)}"
    )
    return ExitCode.DONE


def unalias(options: ModelsUnaliasOptions) -> int:
    """Take an alias from a model. Raises UserError where it has none."""
    registry = _registry(options)
    version = registry.unalias(options.name, options.alias, registry.aliases(options.name))
    _say(f"{options.name} has no alias {options.alias} any more; it was {options.name}@{version}")
    return ExitCode.DONE


COMMAND = Group(
    summary=SUMMARY,
    description=DESCRIPTION,
    epilog=EPILOG,
    actions={
        "list": Command(summary="every version and alias", options=ModelsListOptions, run=list_),
        "show": Command(summary="one version in full", options=ModelsShowOptions, run=show),
        "add": Command(summary="keep a model in the lake", options=ModelsAddOptions, run=add),
        "promote": Command(summary="point an alias at a version", options=ModelsPromoteOptions, run=promote),
        "rollback": Command(
            summary="point an alias where it pointed before", options=ModelsRollbackOptions, run=rollback
        ),
        "unalias": Command(summary="take an alias from a model", options=ModelsUnaliasOptions, run=unalias),
    },
)
