"""A set of 128-bit digests that may be larger than memory: sorted in memory while it is small, and on disk beyond that."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path

import numpy as np

IN_MEMORY = 2**21
"""Digests, of 16 bytes each, that a set gathers before it goes to disk."""
_BUCKETS = 256
_FIRST_HALVES = np.arange(1, _BUCKETS, dtype=np.uint64) << np.uint64(56)


def digests(objects: Iterable[tuple[str, str | None]]) -> np.ndarray:
    """The digests, uint64 n × 2, of `objects`: (URI, etag) each.

    128 bits make it practically impossible for two objects to be taken for one, and BLAKE2b makes it so for keys that
    somebody has chosen.
    """
    blake = hashlib.blake2b
    joined = b"".join(
        [blake(f"{u}\0{e}".encode("utf-8", "surrogatepass"), digest_size=16).digest() for u, e in objects]
    )
    return np.frombuffer(joined, "<u8").reshape(-1, 2)


class DigestSet:
    """Add digests, `seal` it, and then ask it. Its files are in the system's temporary folder, and go with it."""

    def __init__(self) -> None:
        self._held: list[np.ndarray] = []
        self._n_held = 0
        self._folder: Path | None = None
        self._first = self._second = np.empty(0, np.uint64)

    def __len__(self) -> int:
        return len(self._first)

    def add(self, pairs: np.ndarray) -> None:
        """Add digests, uint64 n × 2. Raises OSError where the temporary folder is full."""
        self._held.append(pairs)
        self._n_held += len(pairs)
        if self._n_held >= IN_MEMORY:
            self._spill()

    def _gathered(self) -> np.ndarray:
        """What is held, sorted by the first halves."""
        pairs = np.concatenate([np.empty((0, 2), np.uint64), *self._held])
        self._held, self._n_held = [], 0
        return pairs[np.argsort(pairs[:, 0])]

    def _spill(self) -> None:
        """Append what is held to the bucket files, by the first byte."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="masklake-covered-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        pairs = self._gathered()
        for number, bucket in enumerate(np.split(pairs, np.searchsorted(pairs[:, 0], _FIRST_HALVES))):
            with self._bucket(number).open("ab") as file:
                file.write(bucket.tobytes())

    def _bucket(self, number: int) -> Path:
        assert self._folder is not None  # noqa: S101  # narrows the type: `_spill` makes it
        return self._folder / f"{number:03d}"

    def seal(self) -> None:
        """Sort what was added; nothing is added after this."""
        if self._folder is None:
            pairs = self._gathered()
            self._first, self._second = pairs[:, 0].copy(), pairs[:, 1].copy()
            return
        self._spill()
        halves = [self._folder / name for name in ("first", "second")]
        with halves[0].open("wb") as first, halves[1].open("wb") as second:
            for number in range(_BUCKETS):
                pairs = np.fromfile(self._bucket(number), np.uint64).reshape(-1, 2)
                self._bucket(number).unlink()
                pairs = pairs[np.argsort(pairs[:, 0])]
                first.write(pairs[:, 0].tobytes())
                second.write(pairs[:, 1].tobytes())
        self._first, self._second = (np.memmap(half, np.uint64, "r") for half in halves)

    def contains(self, pairs: np.ndarray) -> np.ndarray:
        """Which of the digests, uint64 n × 2, are in the set: bool n."""
        present = np.zeros(len(pairs), bool)
        asked = np.arange(len(pairs))
        positions = np.searchsorted(self._first, pairs[:, 0])
        while len(asked):
            inside = positions < len(self._first)
            asked, positions = asked[inside], positions[inside]
            same = self._first[positions] == pairs[asked, 0]
            asked, positions = asked[same], positions[same]
            equal = self._second[positions] == pairs[asked, 1]
            present[asked[equal]] = True
            asked, positions = asked[~equal], positions[~equal] + 1
        return present
