"""What `masklake forget` has taken out, so that nothing that began before it was done brings it back.

    LAKE/forgotten/<id>.parquet          digests of the images, folders of images, or the run, that one call took out
    LAKE/runs/<run>/forgotten.json       of a run that is not complete: its images that need no row, as they are forgotten

`replacements.json` names the calls that have committed, in their order. Whoever writes rows notes their number when it begins (a run in its record).
Before it writes it shows that it is at work, and then reads the number again: what was forgotten since it leaves out. `forget` commits,
and then looks who is at work: so one of the two sees the other. No clock decides.

There are digests in place of names, because names would be just what is not to be kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.replacements import Replacements
from masklake.pipeline.lake.run_record import RunFolder
from masklake.pipeline.storage.explain import explaining
from masklake.pipeline.storage.parquet import read_table, write_table
from masklake.pipeline.storage.store import Storage, join

FOLDER = "forgotten"
_IMAGE, _PREFIX, _RUN = "image", "folder", "run"
_SCHEMA = pa.schema(
    [pa.field("kind", pa.string(), nullable=False), pa.field("digest", pa.binary(16), nullable=False)]
)


def forgets_done(lake: str, storage: Storage) -> int:
    """How many calls of forget are done: what those took out may be taken in by who begins now. Raises UserError."""
    return Replacements.load(lake, storage).forgets_done


def write_forgotten(
    lake: str, storage: Storage, id_: str, uris: Iterable[str], folders: Iterable[str], run: str | None
) -> None:
    """Write what the call `id_` takes out; it counts once replacements.json names that call. Raises UserError."""
    named = [(_IMAGE, uri) for uri in uris] + [(_PREFIX, folder) for folder in folders]
    named += [] if run is None else [(_RUN, run)]
    rows = sorted((kind, _digest(kind, text)) for kind, text in named)
    columns = zip(zip(*rows, strict=True), _SCHEMA, strict=True)
    table = pa.table([pa.array(values, field.type) for values, field in columns], schema=_SCHEMA)
    uri = _uri(lake, id_)
    with explaining(uri, "write what is forgotten"):
        write_table(table, uri, storage)


def _uri(lake: str, id_: str) -> str:
    return join(lake, FOLDER, f"{id_}.parquet")


def uris(lake: str, storage: Storage) -> dict[str, str]:
    """The objects of all calls, by id; one that replacements.json does not name was left by a killed call. Raises UserError."""
    folder = join(lake, FOLDER)
    with explaining(folder, "list it"):
        listed = storage.list(folder)
    return {uri.rpartition("/")[2].removesuffix(".parquet"): uri for uri in listed}


def _digest(kind: str, text: str) -> bytes:
    return hashlib.blake2b(f"{kind}\0{text}".encode("utf-8", "surrogatepass"), digest_size=16).digest()


@dataclass(frozen=True)
class ForgottenSince:
    """What was forgotten after a moment: 16 bytes for each image."""

    images: frozenset[bytes] = frozenset()
    folders: frozenset[bytes] = frozenset()
    runs: frozenset[bytes] = frozenset()

    @classmethod
    def load(cls, lake: str, storage: Storage, since: int) -> tuple[ForgottenSince, int]:
        """What calls of forget after the first `since` took out, and how many there are. Raises UserError."""
        calls = Replacements.load(lake, storage).forgets
        digests: dict[str, set[bytes]] = {_IMAGE: set(), _PREFIX: set(), _RUN: set()}
        for uri in [_uri(lake, id_) for id_ in calls[since:]]:
            with explaining(uri, "read what was forgotten"):
                table = read_table(uri, storage)
            for kind, digest in zip(table["kind"].to_pylist(), table["digest"].to_pylist(), strict=True):
                digests[kind].add(digest)
        return cls(*map(frozenset, digests.values())), len(calls)

    def __bool__(self) -> bool:
        return bool(self.images or self.folders or self.runs)

    def has(self, uri: str) -> bool:
        """Whether this image was forgotten, by its name or with a folder that it is below."""
        if self.images and _digest(_IMAGE, uri) in self.images:
            return True
        return bool(self.folders) and any(
            _digest(_PREFIX, uri[: i + 1]) in self.folders
            for i, character in enumerate(uri)
            if character == "/"
        )

    def has_run(self, run: str) -> bool:
        """Whether this run was forgotten."""
        return _digest(_RUN, run) in self.runs


@dataclass(frozen=True)
class RowlessImages:
    """The content of a run's forgotten.json, and the version that was read (None: there is none)."""

    image_ids: frozenset[int] = frozenset()
    forgets: int = 0
    """So many calls of forget the run has heeded: it writes no row of what they took out."""
    etag: str | None = None

    @property
    def last(self) -> int:
        """The largest number among them, -1 where there are none."""
        return max(self.image_ids, default=-1)

    @classmethod
    def load(cls, folder: RunFolder) -> RowlessImages:
        """What is noted. Raises OSError, and UserError where it cannot be understood."""
        [fetched] = folder.storage.get_many([folder.forgotten_uri])
        if isinstance(fetched, FileNotFoundError | NotADirectoryError):
            return cls()
        if isinstance(fetched, Exception):
            raise fetched
        try:
            content = json.loads(fetched.data)
            return cls(frozenset(content["image_ids"]), int(content["forgets"]), fetched.etag)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{folder.forgotten_uri}: is not what Masklake writes ({error!r}); restore it, or forget the run"
            ) from error

    @classmethod
    def note(cls, folder: RunFolder, image_ids: set[int], forgets: int = 0) -> None:
        """Add `image_ids`, and that so many calls of forget are heeded; what another process notes meanwhile stays. Raises OSError."""
        while True:
            known = cls.load(folder)
            wanted = cls(known.image_ids | image_ids, max(known.forgets, forgets), known.etag)
            if wanted == known:
                return
            data = json.dumps({"image_ids": sorted(wanted.image_ids), "forgets": wanted.forgets}).encode()
            if known.etag is None:
                saved = folder.storage.put_new(folder.forgotten_uri, data)
            else:
                saved = folder.storage.replace(folder.forgotten_uri, data, known.etag)
            if saved:
                return
