"""Which images look nearly alike: a fingerprint of each, and how far two of them are apart.

The fingerprint is a difference hash: of the picture at 9×9 grey pixels, whether each is darker than its neighbour to
the right and below, 128 bits; and the mean colour, since of a plain picture all bits are 0. Of 386 photos and of 298
synthetic scenes no two have fewer than 22 bits apart. Of ten copies at half the size, recompressed or brighter nine
have at most 4, and of those cut by 2% at each side at most 14.
"""

from __future__ import annotations

import numpy as np
from masklake.model.decode import DecodeOptions, decode
from numpy.typing import NDArray

NEAR = 14
"""Two images are nearly alike up to this many different bits of 128."""

_NEAR_COLOUR = 64
"""… if their mean red, green and blue differ by no more than this, of 255."""

_SIDE = 9
_BRIGHTER = 1.0
"""A place is brighter than another when it differs by more than this, of 255."""

# Only images that a run has decoded are decoded here, so its limits are not checked again.
_SMALL = DecodeOptions(max_pixels=2**29, target=(8 * _SIDE, 8 * _SIDE))

Fingerprint = NDArray[np.uint8]
"""(19,): 16 bytes of bits, then red, green, blue."""


def fingerprint(data: bytes | memoryview) -> Fingerprint:
    """Raises UndecodableError when `data` is no image."""
    from PIL import Image

    pixels, _ = decode(data, _SMALL)
    # As floating point: rounded to 8 bits, flat parts of a picture would be brighter or not by chance.
    grey = np.asarray(
        Image.fromarray(pixels).convert("L").convert("F").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    )
    beside, below = grey[:-1, 1:] - grey[:-1, :-1], grey[1:, :-1] - grey[:-1, :-1]
    bits = np.concatenate([beside.reshape(-1), below.reshape(-1)]) > _BRIGHTER
    colour = np.rint(pixels.mean((0, 1))).astype(np.uint8)
    return np.concatenate([np.packbits(bits), colour])


class Gallery:
    """Fingerprints to compare with. It grows to what is chosen, a few thousand at most."""

    def __init__(self) -> None:
        self._prints: NDArray[np.uint8] = np.empty((64, 19), np.uint8)
        self._count = 0

    def add(self, other: Fingerprint) -> None:
        if self._count == len(self._prints):
            self._prints = np.concatenate([self._prints, np.empty_like(self._prints)])
        self._prints[self._count] = other
        self._count += 1

    def holds_near(self, other: Fingerprint) -> bool:
        """Whether one of them is nearly like `other`."""
        all_ = self._prints[: self._count]
        bits = np.bitwise_count(all_[:, :16] ^ other[:16]).sum(1)
        colour = np.abs(all_[:, 16:].astype(np.int16) - other[16:].astype(np.int16)).max(1)
        return bool(((bits <= NEAR) & (colour <= _NEAR_COLOUR)).any())
