"""The objects that finished runs have covered already: what a new run of the same options may skip."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from masklake.pipeline.schema import Status
from masklake.pipeline.storage.objects import ObjectInfo
from masklake.pipeline.storage.parquet import read_table
from masklake.pipeline.storage.store import Storage

_STATS_AT_ONCE = 16
_SETTLED = frozenset(str(status) for status in Status if status.settled)


def _digest(uri: str, etag: str | None) -> bytes:
    return hashlib.blake2b(f"{uri}\0{etag}".encode("utf-8", "surrogatepass"), digest_size=16).digest()


class Covered:
    """Objects (URI and etag) with a settled row in `image_parts`: 16 bytes each, whatever the URI's length.

    128-bit digests make it practically impossible for two objects to be taken for one.
    """

    def __init__(self, image_parts: Iterable[str], storage: Storage) -> None:
        chunks = [self._part(uri, storage) for uri in image_parts]
        keys = np.concatenate(chunks) if chunks else np.empty((0, 2), np.uint64)
        self._keys = keys[np.lexsort((keys[:, 1], keys[:, 0]))]
        self._storage = storage

    @staticmethod
    def _part(uri: str, storage: Storage) -> np.ndarray:
        table = read_table(uri, storage, ["uri", "etag", "status"])
        rows = zip(*(table[name].to_pylist() for name in ("uri", "etag", "status")), strict=True)
        digests = b"".join(_digest(u, e) for u, e, status in rows if status in _SETTLED)
        return np.frombuffer(digests, np.uint64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, info: ObjectInfo) -> bool:
        high, low = np.frombuffer(_digest(info.uri, info.etag), np.uint64)
        first = np.searchsorted(self._keys[:, 0], high)
        while first < len(self._keys) and self._keys[first, 0] == high:
            if self._keys[first, 1] == low:
                return True
            first += 1
        return False

    def versioned(self, listed: Iterable[ObjectInfo]) -> Iterator[ObjectInfo]:
        """`listed`, with etags: where a list gives only URIs, the storage is asked for them."""
        if not len(self):
            yield from listed
            return
        rest = iter(listed)
        with ThreadPoolExecutor(_STATS_AT_ONCE) as threads:
            while chunk := list(itertools.islice(rest, 8 * _STATS_AT_ONCE)):
                yield from threads.map(self._versioned, chunk)

    def _versioned(self, info: ObjectInfo) -> ObjectInfo:
        if info.etag is not None:
            return info
        try:
            stored = self._storage.stat(info.uri)
        except OSError:  # it will be fetched, and the row will say why this failed
            return info
        return info if stored is None else stored._replace(line=info.line)
