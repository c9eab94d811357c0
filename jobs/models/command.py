"""`masklake models`: the models of a lake, and which of them is in use."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from masklake.jobs.options import add_storage_options, storage_from
from masklake.pipeline.errors import UserError

if TYPE_CHECKING:
    from masklake.pipeline.lake.registry import Registry, Version

SUMMARY = "keep models in a lake: add, list, show, promote, rollback"
DESCRIPTION = """\
A lake keeps models in versions that never change, LAKE/models/NAME/VERSION, and names the ones in use by
aliases. `masklake segment … LAKE --model production` runs what the alias means when the run is planned; the run
records the version. A version is the model's fingerprint, so name@version is what the rows say of their model.

MODEL is NAME@VERSION, NAME:ALIAS, or an alias that only one model has. Of two who move an alias at once, one
wins and the other is told."""
EPILOG = """\
examples:
  masklake models add trained/ s3://lake
  masklake models list s3://lake
  masklake models promote s3://lake photos@0123456789ab
  masklake segment s3://photos/ s3://lake --model production
  masklake models rollback s3://lake photos"""

_ALIAS = "production"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions of `masklake models`."""
    actions = parser.add_subparsers(metavar="ACTION", title="actions", dest="action", required=True)
    for name, summary, arguments in (
        ("list", "every version and alias", ["lake"]),
        ("show", "one version in full", ["lake", "model"]),
        ("add", "keep a model in the lake", ["folder", "lake"]),
        ("promote", "point an alias at a version", ["lake", "model", "--alias"]),
        ("rollback", "point an alias where it pointed before", ["lake", "name", "--alias"]),
    ):
        sub = actions.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        for argument in arguments:
            _ARGUMENTS[argument](sub)
        add_storage_options(sub)
        sub.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
        )


_ARGUMENTS: dict[str, Any] = {
    "lake": lambda p: p.add_argument("lake", metavar="LAKE", help="the lake: s3://…, a directory, …"),
    "model": lambda p: p.add_argument("model", metavar="MODEL", help="NAME@VERSION, NAME:ALIAS or an alias"),
    "name": lambda p: p.add_argument("name", metavar="NAME", help="the model's name"),
    "folder": lambda p: p.add_argument(
        "folder", metavar="DIR", help="a folder or URI with model.safetensors and model.json"
    ),
    "--alias": lambda p: p.add_argument(
        "--alias", default=_ALIAS, metavar="NAME", help="default: %(default)s"
    ),
}


def run(args: argparse.Namespace) -> int:
    """Run the action. Raises UserError or ModelError for a mistake."""
    from masklake.pipeline.lake.registry import Registry
    from masklake.pipeline.storage.store import normalise_folder

    registry = Registry(normalise_folder(args.lake), storage_from(args))
    {"list": _list, "show": _show, "add": _add, "promote": _promote, "rollback": _rollback}[args.action](
        args, registry
    )
    return 0


def _say(text: str) -> None:
    from masklake.jobs.terminal.tables import plain_console
    from masklake.jobs.terminal.text import one_line

    plain_console().print(one_line(text), soft_wrap=True)


def _list(args: argparse.Namespace, registry: Registry) -> None:
    from masklake.jobs.terminal.tables import plain_console, ruled_table

    versions = registry.versions()
    if not versions:
        _say("no models yet")
        return
    table = ruled_table(("model", "aliases", "added (UTC)"))
    for one in versions:
        aliases = registry.aliases(one.name)
        named = sorted(alias for alias in aliases.versions if aliases.version(alias) == one.version)
        table.add_row(
            str(one), ", ".join(named) or "-", f"{one.added_at:%Y-%m-%d %H:%M:%S}" if one.added_at else "-"
        )
    plain_console().print(table)


def _found(registry: Registry, text: str) -> Version:
    found = registry.find(text)
    if found is None:
        raise UserError(
            f"{registry.lake}: has no model or alias {text!r}; write NAME@VERSION or NAME:ALIAS (`masklake models list {registry.lake}`)"
        )
    return found


def _show(args: argparse.Namespace, registry: Registry) -> None:
    import json

    from masklake.jobs.terminal.json import print_json
    from masklake.pipeline.storage.explain import explaining
    from masklake.pipeline.storage.store import join

    found = _found(registry, args.model)
    uri = join(found.uri, "model.json")
    with explaining(uri, "read the model"):
        data = storage_from(args).read(uri)
    try:
        spec = json.loads(data)
    except ValueError as error:
        raise UserError(
            f"{uri}: is not JSON ({error}); remove the version's folder and add it again"
        ) from error
    aliases = registry.aliases(found.name)
    moves = [{k: v for k, v in move.items() if k != "token"} for move in aliases.log]
    named = [alias for alias in aliases.versions if aliases.version(alias) == found.version]
    print_json({"model": str(found), "uri": found.uri, "aliases": named, "moves": moves, "spec": spec})


def _add(args: argparse.Namespace, registry: Registry) -> None:
    from pathlib import Path

    from masklake.jobs.models import resolve as models
    from masklake.model.checkpoint import SPEC, WEIGHTS
    from masklake.model.presets import PRESETS

    if args.folder in PRESETS:
        raise UserError(
            f"{args.folder}: is a preset, which needs no adding (a folder of that name: ./{args.folder})"
        )
    resolved = models.resolve(args.folder, storage_from(args))
    folder = Path(resolved.source.local())
    added = registry.add(
        resolved.spec.name,
        resolved.fingerprint,
        {file: (folder / file).read_bytes() for file in (WEIGHTS, SPEC)},
    )
    model = f"{resolved.spec.name}@{resolved.fingerprint}"
    _say(
        f"{model} {'added' if added else 'is in the lake already'}; masklake models promote {registry.lake} {model}"
    )


def _promote(args: argparse.Namespace, registry: Registry) -> None:
    from masklake.model.presets import PRESETS

    if args.alias in PRESETS:
        raise UserError(f"--alias {args.alias}: is the name of a preset; choose another")
    found = _found(registry, args.model)
    seen = registry.aliases(found.name)
    before = seen.version(args.alias)
    if before == found.version:
        _say(f"{found.name}:{args.alias} is {found} already")
        return
    registry.promote(found, args.alias, seen)
    _say(f"{found.name}:{args.alias} is {found} now" + (f"; it was {found.name}@{before}" if before else ""))


def _rollback(args: argparse.Namespace, registry: Registry) -> None:
    seen = registry.aliases(args.name)
    version = registry.rollback(args.name, args.alias, seen)
    _say(
        f"{args.name}:{args.alias} is {args.name}@{version} again; it was {args.name}@{seen.version(args.alias)}"
    )
