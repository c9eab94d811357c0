"""Which model of a lake may have an alias: one object per alias, which each of two promoters has to write.

    LAKE/models/<alias>.alias.json   {"model": name, "settled": whether the alias was moved, "token": …}

A model's aliases are in a file of its own, so a conditional write of that file keeps no other model away. Who gives an
alias to a model claims it here first, moves it, and settles the claim. Each write is on condition that nobody has written
since: another model's claim in between takes this one over, and who cannot settle takes the move back. So the last who
claims wins, and a promoter that died in between holds up nobody.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass

from masklake.pipeline.lake.record import now
from masklake.pipeline.storage.conditions import require_conditions
from masklake.pipeline.storage.explain import explaining
from masklake.pipeline.storage.store import Storage, join


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The model that has or gets an alias, and the ETag of the object that says so; None and None where none ever did."""

    model: str | None = None
    etag: str | None = None


@dataclass(frozen=True, kw_only=True)
class AliasOwner:
    """The object that says who owns the alias `alias` of `lake`."""

    lake: str
    alias: str
    storage: Storage

    @property
    def _uri(self) -> str:
        return join(self.lake, "models", f"{self.alias}.alias.json")

    def read(self) -> Owner:
        """Who owns the alias now."""
        with explaining(self._uri, "read who has the alias"):
            try:
                fetched = self.storage.fetch(self._uri)
            except FileNotFoundError:
                return Owner()
        try:
            return Owner(model=str(json.loads(fetched.data)["model"]), etag=fetched.etag)
        except (
            ValueError,
            KeyError,
            TypeError,
        ):  # nobody owns what cannot be read: the next claim replaces it
            return Owner(etag=fetched.etag)

    def claim(self, model: str, before: Owner) -> str | None:
        """Claim the alias for `model`, if it is still owned as `before`: the claim's ETag; None where another model was
        faster. Claims of one model do not compete: its file of aliases decides between them."""
        if before.model == model:
            return before.etag
        if claimed := self._write(model, False, before.etag):
            return claimed
        owner = self.read()
        return owner.etag if owner.model == model else None

    def settle(self, model: str, claim: str) -> bool:
        """Note that the alias was moved to `model`; False where someone else has claimed it since."""
        return self._write(model, True, claim) is not None

    def _write(self, model: str, settled: bool, etag: str | None) -> str | None:
        """The ETag of what was written, unless the object has no longer the one that is given."""
        content = {"model": model, "settled": settled, "at": now(), "token": secrets.token_hex(8)}
        data = json.dumps(content).encode()
        with explaining(self._uri, "write who has the alias"):
            require_conditions(self.lake, self.storage)
            won = (
                self.storage.put_new(self._uri, data)
                if etag is None
                else self.storage.replace(self._uri, data, etag)
            )
            if not won:
                return None
            written = self.storage.fetch(self._uri)
        return written.etag if written.data == data else None  # else someone has claimed it in the meantime
