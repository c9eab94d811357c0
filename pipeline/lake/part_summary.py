"""What a finished run's record says of its images parts, so that readers need not open them all.

It holds for exactly the parts that it was made of, which `signature` says: where a part was added, replaced or taken away since, it
counts for nothing, and the parts themselves are read.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from masklake.pipeline.schema import SCHEMA_VERSION


def signature(parts: Iterable[tuple[str, int | None]]) -> str:
    """A digest of `parts`: the (name, bytes) of each."""
    listing = "\n".join(f"{name} {size}" for name, size in sorted(parts, key=lambda part: part[0]))
    return hashlib.blake2b(listing.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, kw_only=True)
class PartSummary:
    """The summary of a run's images parts."""

    signature: str
    schema_version: int
    """The newest schema among the parts."""
    first_uri: str | None
    """The smallest URI of all rows, in the order of code points; None where there are none."""
    last_uri: str | None
    covered_parts: int
    """The number of parts in `runs/<run>/covered` (pipeline/segment/covered.py)."""

    @classmethod
    def of_record(cls, content: dict[str, Any], parts: Iterable[tuple[str, int | None]]) -> Self | None:
        """The summary in a record's `parts`, if it is one of exactly these parts; else None."""
        try:
            summary = cls(**{field.name: content[field.name] for field in dataclasses.fields(cls)})
        except KeyError:
            return None
        numbers = (summary.schema_version, summary.covered_parts)
        uris = (summary.first_uri, summary.last_uri)
        sound = all(isinstance(n, int) for n in numbers) and (
            all(isinstance(uri, str) for uri in uris) or uris == (None, None)
        )
        if not sound or summary.schema_version > SCHEMA_VERSION or summary.signature != signature(parts):
            return None
        return summary

    def may_hold(self, prefix: str) -> bool:
        """Whether a URI that begins with `prefix` can be among the rows."""
        if self.first_uri is None or self.last_uri is None:
            return False
        return self.last_uri >= prefix and (self.first_uri <= prefix or self.first_uri.startswith(prefix))
