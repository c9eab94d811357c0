"""The one way to object storage: S3, Google Cloud, Azure, local directories, and whatever else fsspec opens.

A URI is `s3://bucket/key` with the key exactly as it is (nothing is percent-decoded), an absolute local path,
or `protocol://…`. Credentials come from the standard AWS environment; none is kept here, so a `Storage` may
be pickled, printed and recorded.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import secrets
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masklake.pipeline.errors import UserError
from masklake.pipeline.storage.clouds import PROTOCOLS, CloudStore
from masklake.pipeline.storage.crash_points import reach
from masklake.pipeline.storage.files import FsspecStore, LocalStore, at_home
from masklake.pipeline.storage.objects import Fetched, ObjectInfo
from masklake.pipeline.storage.s3 import S3Store, split
from masklake.pipeline.storage.s3_walk import walk

if TYPE_CHECKING:
    import pyarrow.fs

UNFINISHED_S = 3600.0
"""Seconds after which no writer is still at work on a file."""

Store = S3Store | LocalStore | CloudStore | FsspecStore

_SECRETS = re.compile(
    r"(?i)((?:AWSAccessKeyId|Signature|X-Amz-[A-Za-z-]+|secret[^=\s]*|token)=)[^&\s\"']+|(://)[^/\s@]+:[^/\s@]+@"
)


_SPARKS_FILE = re.compile(r"(?i)file:/(?!/)")


def redact(text: str) -> str:
    """`text` without the credentials that signed URLs and URLs with a password carry."""
    return _SECRETS.sub(lambda m: f"{m[1] or m[2]}…", text)


def normalise(uri: str) -> str:
    """`uri` in the form that is stored: s3://, an absolute path, or protocol://. A trailing slash is kept.

    S3:// and Hadoop's s3a:// and s3n:// are s3://, gcs:// is gs://, and file:/x, as Spark writes it, is a path.
    """
    if _SPARKS_FILE.match(uri):
        return normalise(uri[len("file:") :])
    protocol, separator, rest = uri.partition("://")
    protocol = protocol.lower()
    if not separator:
        path = _climbed(at_home(uri).absolute())
        return str(path) + ("/" if uri.endswith("/") and str(path) != "/" else "")
    if protocol in ("file", "local"):
        return normalise(rest if rest.startswith("/") else "/" + rest)
    if protocol in ("s3", "s3a", "s3n"):
        if not split(uri)[0]:
            raise UserError(f"{uri}: no bucket is named; write s3://BUCKET/PREFIX")
        return f"s3://{rest}"
    return f"{'gs' if protocol == 'gcs' else protocol}://{rest}"


def _climbed(path: Path) -> Path:
    """`path` without `..`, so that a file has one name. Links before a `..` are followed, as the system does."""
    parts = path.parts
    if ".." not in parts:
        return path
    last = len(parts) - parts[::-1].index("..")
    return Path(os.path.realpath(Path(*parts[:last])), *parts[last:])


def normalise_folder(uri: str) -> str:
    """`uri` as `normalise` gives it, without slashes at its end, so that names can be joined to it."""
    return normalise(uri).rstrip("/") or "/"


def join(base: str, *names: str) -> str:
    """`base` and names below it, joined by single slashes."""
    return "/".join([base.rstrip("/"), *names])


@functools.cache
def _s3_store(storage: Storage) -> S3Store:
    return S3Store(
        storage.endpoint_url,
        storage.profile,
        anonymous=storage.anonymous,
        requester_pays=storage.requester_pays,
        kms_key=storage.kms_key,
    )


@functools.cache
def _cloud_store(protocol: str, anonymous: bool) -> CloudStore:
    return CloudStore(protocol, anonymous=anonymous)


@dataclass(frozen=True, kw_only=True)
class Storage:
    """How to reach storage. Picklable: each process opens its own clients on first use."""

    endpoint_url: str | None = None
    profile: str | None = None
    anonymous: bool = False
    requester_pays: bool = False
    """Whether this account pays for reading from buckets whose owner wants the reader to pay."""
    kms_key: str | None = None
    """The KMS key (its id, alias or ARN) with which S3 encrypts what is written; None: the bucket's default."""

    def store(self, uri: str) -> Store:
        """The store that holds `uri`. Raises UserError for a protocol that fsspec cannot open."""
        protocol, separator, _ = uri.partition("://")
        if not separator:
            return LocalStore()
        if protocol in ("s3", "s3a"):
            return _s3_store(self)
        if protocol in PROTOCOLS:
            return _cloud_store(protocol, self.anonymous)
        import fsspec

        try:
            return FsspecStore(fsspec.filesystem(protocol), protocol)
        except (ValueError, ImportError, TypeError) as error:  # TypeError: it wants a host or a token
            raise UserError(
                f"{uri}: cannot open {protocol}:// ({error}); use s3://, a path, or install the driver"
            ) from error

    def filesystem(self, uri: str) -> tuple[Any, str]:
        """(fsspec filesystem, path) for libraries that want one."""
        import fsspec

        store = self.store(uri)
        fs = fsspec.filesystem("file") if isinstance(store, LocalStore) else store.fs
        return fs, fs._strip_protocol(uri)

    def arrow(self, uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
        """(pyarrow filesystem, path): Arrow's own S3 client starts faster than s3fs and prunes by ranges."""
        import pyarrow.fs

        store = self.store(uri)
        if isinstance(store, LocalStore):
            return pyarrow.fs.LocalFileSystem(), uri
        if isinstance(store, S3Store) and not (self.profile or self.requester_pays or self.kms_key):
            from urllib.parse import urlsplit

            store.require_answer()
            endpoint = urlsplit(store.endpoint_url) if store.endpoint_url else None
            return pyarrow.fs.S3FileSystem(
                anonymous=self.anonymous,
                region=store.region(split(uri)[0]),
                scheme=endpoint.scheme if endpoint else None,
                endpoint_override=endpoint.netloc if endpoint else None,
            ), uri.partition("://")[2]
        return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(store.fs)), store.fs._strip_protocol(uri)

    def read(self, uri: str) -> bytes:
        """The whole object. Raises FileNotFoundError, PermissionError or another OSError."""
        return self.store(uri).read(uri)

    def get_many(self, uris: list[str], max_bytes: int | None = None) -> list[Fetched | Exception]:
        """Objects in the order of `uris`, read concurrently; where one could not be read, the exception stands in its place."""
        return self.store(uris[0]).get_many(uris, max_bytes) if uris else []

    def fetch(self, uri: str) -> Fetched:
        """An object and the version that was read. Raises FileNotFoundError where there is none, and the storage's errors."""
        [answer] = self.get_many([uri])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def write(self, uri: str, data: bytes) -> None:
        """Write the object whole: a reader sees the old content or the new, never a part."""
        reach("write", uri)
        self.store(uri).write(uri, data)
        reach("written", uri)

    def put_new(self, uri: str, data: bytes) -> bool:
        """Write only if there is no such object; False when there is. `data` must differ from what any other writer writes."""
        reach("put", uri)
        won = self.store(uri).put_new(uri, data)
        reach("put, or refused", uri)
        return won

    def replace(self, uri: str, data: bytes, etag: str) -> bool:
        """Compare-and-set: write only while the object still has `etag`; False when it has changed or gone."""
        reach("replace", uri)
        won = self.store(uri).replace(uri, data, etag)
        reach("replaced, or refused", uri)
        return won

    def stat(self, uri: str) -> ObjectInfo | None:
        """The object's version and size, or None when there is none."""
        return self.store(uri).stat(uri)

    def require_writable(self, folder: str) -> None:
        """Raises the error that a write below `folder` would raise. It leaves no object, where this user may delete."""
        if isinstance(self.store(folder), LocalStore):  # no folder is made before there is a file for it
            folder = str(next(path for path in (Path(folder), *Path(folder).parents) if path.exists()))
        uri = join(folder, f".probe-{secrets.token_hex(4)}")
        self.write(uri, b"")
        with contextlib.suppress(OSError):
            self.delete(uri)

    def exists(self, uri: str) -> bool:
        """Whether there is an object of exactly this name."""
        return self.stat(uri) is not None

    def delete(self, uri: str) -> None:
        """Remove one object; one that is already gone is no error."""
        reach("delete", uri)
        self.store(uri).delete(uri)
        reach("deleted", uri)

    def clear_unfinished(self, folder: str, seconds: float = 0.0) -> None:
        """Remove what writers that were killed have left below `folder` beside the objects: no longer written for so many
        seconds. Only directories keep such files; they are no objects, but take room."""
        store = self.store(folder)
        if isinstance(store, LocalStore):
            store.clear_unfinished(folder, seconds)

    def walk(self, uri: str) -> Iterator[ObjectInfo]:
        """Objects below the folder `uri`, as they are listed. A missing folder has none; a missing bucket is an error."""
        store = self.store(uri)
        if isinstance(store, S3Store):
            bucket, prefix = split(uri)
            yield from walk(store, bucket, f"{prefix.rstrip('/')}/" if prefix.strip("/") else "")
        else:
            try:
                yield from store.walk(uri.rstrip("/") or "/")
            except (FileNotFoundError, NotADirectoryError):
                return

    def walk_for(self, uri: str, names: Collection[str]) -> Iterator[ObjectInfo]:
        """Objects `uri`/FOLDER/NAME with one of `names`, for any FOLDER: as `walk`, but in no order, and sooner where folders
        hold many others."""
        store = self.store(uri)
        if isinstance(store, LocalStore):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                yield from store.walk_for(uri.rstrip("/") or "/", names)
            return
        for info in self.walk(uri):
            folder, _, name = info.uri.rpartition("/")
            if name in names and folder.rpartition("/")[0] == uri.rstrip("/"):
                yield info

    def folders(self, uri: str) -> set[str]:
        """The names of the folders directly below the folder `uri`."""
        store = self.store(uri)
        if isinstance(store, S3Store):
            bucket, prefix = split(uri)
            prefix = f"{prefix.rstrip('/')}/" if prefix.strip("/") else ""
            pages = store.pages(bucket, prefix, delimiter="/")
            return {folder[len(prefix) :].rstrip("/") for _, below in pages for folder in below}
        if isinstance(store, LocalStore):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                return set(store.folders(uri))
            return set()
        below = (info.uri[len(uri.rstrip("/")) + 1 :].partition("/") for info in self.walk(uri))
        return {folder for folder, slash, _ in below if slash}

    def list(self, uri: str) -> list[str]:
        """URIs of the objects below the folder `uri`."""
        return [info.uri for info in self.walk(uri)]
