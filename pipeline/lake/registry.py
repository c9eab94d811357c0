"""The models of a lake: versions that never change, and aliases that are moved from one version to another.

    LAKE/models/<name>/<version>/model.safetensors, model.json     the version is the model's fingerprint
    LAKE/models/<name>/aliases.json                                production -> version, and how it came there

A version is complete when its model.json is there, which is written last. Aliases change by compare-and-set: of two
processes that move one at the same time, one succeeds and the other gets an error. An alias is the lake's: one model
has it at a time, so that it means a model by itself: see `alias_owner`. The lake's rows name their model as `name@version`.
"""

from __future__ import annotations

import datetime
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.alias_owner import AliasOwner
from masklake.pipeline.lake.record import now
from masklake.pipeline.schema import SCHEMA_VERSION
from masklake.pipeline.storage.conditions import require_conditions
from masklake.pipeline.storage.explain import explaining
from masklake.pipeline.storage.store import UNFINISHED_S, Storage, join

SPEC = "model.json"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_VERSION = re.compile(r"/([A-Za-z0-9][A-Za-z0-9._-]*)/([0-9a-f]{12})/model\.json")


@dataclass(frozen=True, kw_only=True)
class Version:
    """A model of the lake. `uri` is the folder with its files."""

    name: str
    version: str
    uri: str
    added_at: datetime.datetime | None = None

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, kw_only=True)
class Aliases:
    """A model's aliases as they were read. Each alias points to the last of its versions; `rollback` goes back to
    the one before. `log` holds every move."""

    versions: dict[str, list[str]] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)
    etag: str | None = None
    """The file's ETag; None where there is no file yet."""

    def version(self, alias: str) -> str | None:
        """The version to which `alias` points; None where there is no such alias."""
        versions = self.versions.get(alias)
        return versions[-1] if versions else None


class Registry:
    """The models below `lake`, a normalised URI."""

    def __init__(self, lake: str, storage: Storage) -> None:
        self.lake = lake
        self._storage = storage
        self._root = join(lake, "models")

    def versions(self) -> list[Version]:
        """Every complete version, by name, the newest first."""
        with explaining(self._root, "list the models"):
            listed = list(self._storage.walk(self._root))
        versions = [
            Version(
                name=match[1], version=match[2], uri=info.uri.removesuffix(f"/{SPEC}"), added_at=info.modified
            )
            for info in listed
            if (match := _VERSION.fullmatch(info.uri.removeprefix(self._root)))
        ]
        oldest = datetime.datetime.min.replace(tzinfo=datetime.UTC)
        versions.sort(key=lambda version: version.added_at or oldest, reverse=True)
        return sorted(versions, key=lambda version: version.name)

    def add(self, name: str, version: str, files: Mapping[str, bytes]) -> bool:
        """Add a version; False when it was there. Raises UserError for a name that cannot be a folder's."""
        check_name(name, "model")
        folder = join(self._root, name, version)
        self._storage.clear_unfinished(folder, UNFINISHED_S)
        for file in sorted(files.keys() - {SPEC}):
            self._put_once(join(folder, file), files[file])
        uri = join(folder, SPEC)
        with explaining(uri, "write the model"):
            # The parts that are not in the fingerprint (lineage, metrics) stay as they were first written.
            return not self._storage.exists(uri) and self._storage.put_new(uri, files[SPEC])

    def _put_once(self, uri: str, data: bytes) -> None:
        with explaining(uri, "write the model"):
            if self._storage.put_new(uri, data) or self._storage.read(uri) == data:
                return
        raise UserError(
            f"{uri}: is there with another content, though versions never change; remove its folder and add again"
        )

    def find(self, text: str) -> Version | None:
        """The version that `text` names now: `name@version`, `name:alias`, or an alias that only one model has.

        None where `text` is none of these. Raises UserError where the model has no such version or alias, and where more
        than one model has the alias.
        """
        match = re.fullmatch(rf"({_NAME.pattern})(?:([@:])({_NAME.pattern}))?", text)
        if not match:
            return None
        versions = self.versions()
        names = {version.name for version in versions}
        name, sign, which = match.groups()
        if sign is None:
            having = [n for n in sorted(names) if self.aliases(n).version(text)]
            if len(having) > 1:  # lakes of before may, and two who promoted at the same moment
                raise UserError(
                    f"{self.lake}: {len(having)} models have an alias {text!r}; write {having[0]}:{text}, or take it from "
                    f"the others: masklake models unalias {self.lake} {having[1]} {text}"
                )
            if not having:
                return None
            name, sign, which = having[0], ":", text
        if name not in names:
            return None
        chosen = self.aliases(name).version(which) if sign == ":" else which
        for version in versions:
            if (version.name, version.version) == (name, chosen):
                return version
        what = f"alias {which!r}" if sign == ":" and chosen is None else f"version {chosen!r}"
        raise UserError(
            f"{self.lake}: model {name!r} has no {what}; `masklake models list {self.lake}` shows what it has"
        )

    def aliases(self, name: str) -> Aliases:
        """The aliases of a model. Raises UserError when the file is broken or of a newer Masklake."""
        uri = self._aliases_uri(name)
        with explaining(uri, "read the aliases"):
            try:
                fetched = self._storage.fetch(uri)
            except FileNotFoundError:
                return Aliases()
        try:
            content = json.loads(fetched.data)
            newer = content["schema_version"] > SCHEMA_VERSION
            versions = {alias: list(map(str, before)) for alias, before in content["aliases"].items()}
            log = list(content["log"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{uri}: is not a file of aliases ({error!r}); restore it, or remove it and promote again"
            ) from error
        if newer:
            raise UserError(f"{uri}: was written by a newer Masklake; upgrade this one")
        return Aliases(versions=versions, log=log, etag=fetched.etag)

    def require_alias(self, name: str, alias: str) -> None:
        """Raises UserError where the model `name` may not have `alias`: another model has it, or it is no name."""
        check_name(alias, "alias")
        if self.aliases(name).version(alias):
            return
        for other in sorted({version.name for version in self.versions()} - {name}):
            if self.aliases(other).version(alias):
                raise UserError(
                    f"{self.lake}: {alias} is the alias of the model {other!r}, and with two of them it would mean neither; "
                    f"give {name!r} another by --alias, or take it from that one: masklake models unalias {self.lake} "
                    f"{other} {alias}"
                )

    def promote(self, version: Version, alias: str, seen: Aliases) -> None:
        """Point `alias` at `version`, if the aliases are still as they were `seen`. Raises UserError if not, and where
        another model has the alias."""
        versions = [*seen.versions.get(alias, []), version.version]
        if seen.version(alias):
            self._move(version.name, alias, versions, seen)
            return
        check_name(alias, "alias")
        owner = AliasOwner(lake=self.lake, alias=alias, storage=self._storage)
        before = owner.read()  # first: who gets the alias after this look has changed it, and the claim fails
        self.require_alias(version.name, alias)
        claim = owner.claim(version.name, before)
        if claim is not None:
            self._move(version.name, alias, versions, seen)
            if owner.settle(version.name, claim):
                return
            self._move(version.name, alias, [], self.aliases(version.name))
        raise UserError(
            f"{self.lake}: the alias {alias} was claimed by someone else just now; `masklake models list {self.lake}` "
            "shows what it means, run this again if it is still wanted"
        )

    def rollback(self, name: str, alias: str, seen: Aliases) -> str:
        """Point `alias` to the version before, and return that. Raises UserError if there is none, or if it was moved."""
        before = seen.versions.get(alias, [])[:-1]
        if not before:
            raise UserError(f"{self.lake}: alias {name}:{alias} has no version before to go back to")
        self._move(name, alias, before, seen)
        return before[-1]

    def unalias(self, name: str, alias: str, seen: Aliases) -> str:
        """Take `alias` from the model; the version where it pointed. Raises UserError if it has none, or it was moved."""
        check_name(name, "model")
        version = seen.version(alias)
        if version is None:
            having = ", ".join(sorted(seen.versions)) or "none"
            raise UserError(f"{self.lake}: model {name!r} has no alias {alias!r} (its aliases: {having})")
        self._move(name, alias, [], seen)
        return version

    def _move(self, name: str, alias: str, versions: list[str], seen: Aliases) -> None:
        """Write that `alias` has been at `versions`, the last of them now; nowhere where there are none."""
        to = versions[-1] if versions else None
        move = {"at": now(), "alias": alias, "from": seen.version(alias), "to": to}
        # The token makes the content this writer's own, so that it knows its own write from another's.
        log = [*seen.log, move | {"token": secrets.token_hex(4)}]
        aliases = {name: before for name, before in (seen.versions | {alias: versions}).items() if before}
        content = {"schema_version": SCHEMA_VERSION, "aliases": aliases, "log": log}
        data = json.dumps(content, indent=1).encode()
        uri = self._aliases_uri(name)
        with explaining(uri, "write the aliases"):
            require_conditions(self.lake, self._storage)
            won = (
                self._storage.put_new(uri, data)
                if seen.etag is None
                else self._storage.replace(uri, data, seen.etag)
            )
        if not won:
            raise UserError(
                f"{self.lake}: the aliases of {name} were moved by someone else just now ({alias} is "
                f"{self.aliases(name).version(alias)}); look at it, and run this again if it is still wanted"
            )

    def _aliases_uri(self, name: str) -> str:
        return join(self._root, name, "aliases.json")


def check_name(name: str, what: str) -> None:
    """Raises UserError for a name that some storage would refuse as a folder's; `what` says what it names."""
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{what} name {name!r}: use letters, digits, dots, dashes and underscores, a letter or digit first"
        )
