"""Google Cloud Storage (gs://) and Azure Blob Storage (az://, abfs://) by obstore, which can write conditionally on both.

Credentials come from each cloud's standard environment: application default credentials or the node's on Google, the
variables AZURE_STORAGE_… or the node's on Azure; STORAGE_EMULATOR_HOST names an emulator of Google's.
"""

from __future__ import annotations

import datetime
import functools
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from masklake.pipeline.storage.objects import Fetched, ObjectInfo, TooLargeError

if TYPE_CHECKING:
    from obstore import UpdateVersion
    from obstore.fsspec import FsspecStore as ObstoreFilesystem
    from obstore.store import AzureStore, GCSStore

PROTOCOLS = frozenset(["gs", "gcs", "az", "azure", "abfs", "abfss"])
_CONCURRENT_GETS = 32
_Result = TypeVar("_Result")


def _etag(meta: Any) -> str | None:
    """The ETag in one spelling: other answers put quotes around it, listings do not."""
    etag = meta["e_tag"]
    return None if etag is None else str(etag).strip('"')


def _short(error: Exception) -> str:
    """The message of obstore's error, without its internal details."""
    return str(error).partition("\n\nDebug source")[0]


def _calling(call: Callable[[], _Result]) -> _Result:
    """The result of `call`. Errors of obstore are raised as the ones that Python has for files."""
    from obstore import exceptions

    try:
        return call()
    except exceptions.NotFoundError as error:
        raise FileNotFoundError(_short(error)) from error
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
        raise PermissionError(_short(error)) from error
    except (exceptions.PreconditionError, exceptions.AlreadyExistsError):
        raise
    except exceptions.BaseError as error:
        raise OSError(_short(error)) from error


class CloudStore:
    """Object operations on the containers of one cloud. `anonymous` sends no credentials."""

    conditional: str | None = None

    def __init__(self, protocol: str, *, anonymous: bool) -> None:
        self.protocol = protocol
        self._anonymous = anonymous

    @functools.cached_property
    def fs(self) -> ObstoreFilesystem:
        """For libraries that want an fsspec filesystem."""
        from obstore.fsspec import FsspecStore

        fs: ObstoreFilesystem = FsspecStore(self.protocol, config=self._config)  # type: ignore[call-overload]  # of either cloud
        return fs

    @property
    def _config(self) -> dict[str, Any]:
        """The settings that obstore does not take from the environment by itself."""
        config: dict[str, Any] = {"skip_signature": True} if self._anonymous else {}
        if self.protocol == "gs" and (emulator := os.environ.get("STORAGE_EMULATOR_HOST")):
            account = {"gcs_base_url": emulator, "disable_oauth": True}
            nobody = dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
            config["service_account_key"] = json.dumps(account | nobody)
        return config

    @functools.cache  # noqa: B019  # as many as there are containers; the store lives as long as the process
    def _container(self, root: str) -> AzureStore | GCSStore:
        from obstore.store import AzureStore, GCSStore

        kind = GCSStore if self.protocol == "gs" else AzureStore
        return kind.from_url(root, config=self._config)  # type: ignore[arg-type]  # of either cloud

    def _store_of(self, uri: str) -> tuple[AzureStore | GCSStore, str]:
        """The container's store and the key, exactly as it is."""
        container, _, key = uri.partition("://")[2].partition("/")
        return self._container(f"{self.protocol}://{container}"), key

    def _get(self, uri: str, max_bytes: int | None = None) -> Fetched:
        import obstore

        store, key = self._store_of(uri)

        def get() -> Fetched:
            result = obstore.get(store, key)
            meta = result.meta
            if max_bytes is not None and meta["size"] > max_bytes:
                raise TooLargeError(meta["size"], max_bytes)
            return Fetched(bytes(result.bytes()), _etag(meta), meta["size"], meta["last_modified"])

        return _calling(get)

    def get_many(self, uris: list[str], max_bytes: int | None = None) -> list[Fetched | Exception]:
        def get(uri: str) -> Fetched | Exception:
            try:
                return self._get(uri, max_bytes)
            except (OSError, ValueError) as error:  # ValueError: a key that this cloud's client cannot send
                return error

        with ThreadPoolExecutor(_CONCURRENT_GETS) as threads:
            return list(threads.map(get, uris))

    def read(self, uri: str) -> bytes:
        return self._get(uri).data

    def write(self, uri: str, data: bytes) -> None:
        import obstore

        store, key = self._store_of(uri)
        _calling(lambda: obstore.put(store, key, data))

    def put_new(self, uri: str, data: bytes) -> bool:
        return self._put(uri, data, "create")

    def replace(self, uri: str, data: bytes, etag: str) -> bool:
        import obstore

        store, key = self._store_of(uri)
        try:
            meta = _calling(lambda: obstore.head(store, key))
        except FileNotFoundError:
            return False
        if _etag(meta) != etag:
            return False
        # Google compares the generation, Azure the ETag: both are taken from the answer about this version.
        seen: UpdateVersion = {"e_tag": meta["e_tag"], "version": meta["version"]}
        return self._put(uri, data, {k: v for k, v in seen.items() if v is not None})

    def _put(self, uri: str, data: bytes, mode: Any) -> bool:
        import obstore
        from obstore import exceptions

        store, key = self._store_of(uri)
        try:
            _calling(lambda: obstore.put(store, key, data, mode=mode))
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
            # perhaps this process wrote it, and only the answer was lost: every writer's content is its own
            try:
                return self.read(uri) == data
            except FileNotFoundError:
                return False
        except FileNotFoundError:
            if mode == "create":
                raise  # the container is missing
            return False
        return True

    def stat(self, uri: str) -> ObjectInfo | None:
        import obstore

        store, key = self._store_of(uri)
        try:
            meta = _calling(lambda: obstore.head(store, key))
        except FileNotFoundError:
            return None
        return ObjectInfo(uri, _etag(meta), meta["size"], meta["last_modified"])

    def delete(self, uri: str) -> None:
        import obstore

        store, key = self._store_of(uri)
        try:
            _calling(lambda: obstore.delete(store, key))
        except FileNotFoundError:
            return

    def signed(self, uri: str, seconds: int) -> str:
        """A URL with which anybody can open the object until it expires."""
        import obstore

        store, key = self._store_of(uri)
        return str(_calling(lambda: obstore.sign(store, "GET", key, datetime.timedelta(seconds=seconds))))

    def walk(self, root: str) -> Iterator[ObjectInfo]:
        """Objects below the folder `root`, a page at a time, in the order of their keys."""
        import obstore

        store, prefix = self._store_of(root)
        base = root[: len(root) - len(prefix)].rstrip("/")
        pages = iter(obstore.list(store, prefix or None))
        while (page := _calling(lambda: next(pages, None))) is not None:
            for meta in page:
                yield ObjectInfo(f"{base}/{meta['path']}", _etag(meta), meta["size"], meta["last_modified"])
