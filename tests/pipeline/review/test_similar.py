"""Fingerprints of pictures: copies are near, others are not."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from masklake.model.decode import UndecodableError
from masklake.pipeline.review.similar import NEAR, Gallery, fingerprint
from PIL import Image

from tests.helpers.images import as_stored, oriented, save, solid
from tests.helpers.review_lakes import picture


def near(first: bytes, other: bytes) -> bool:
    gallery = Gallery()
    gallery.add(fingerprint(first))
    return gallery.holds_near(fingerprint(other))


def test_copies_are_near_and_others_are_not() -> None:
    first = picture(1)
    assert near(first, first)
    assert near(first, picture(1, (400, 300)))
    assert near(first, picture(1, format_="JPEG", quality=60))
    assert not near(first, picture(2))
    assert not near(solid((255, 255, 255)), solid((0, 0, 90)))  # plain: only the colour tells
    assert near(solid((200, 0, 0)), solid((210, 5, 5)))


def test_a_turned_copy_is_seen_as_people_see_it() -> None:
    pixels = np.asarray(Image.open(io.BytesIO(picture(1))))
    assert near(picture(1), save(as_stored(pixels, 6), "PNG", exif=oriented(6)))


def test_a_gallery_grows() -> None:
    prints = [fingerprint(picture(seed, (16, 12))) for seed in range(150)]
    gallery = Gallery()
    for first in prints:
        assert not gallery.holds_near(first)
        gallery.add(first)
    assert all(gallery.holds_near(first) for first in prints)


def test_what_is_no_image_has_none() -> None:
    with pytest.raises(UndecodableError):
        fingerprint(b"garbage")


def test_real_photos_are_told_apart_and_their_copies_found(photos: Path) -> None:
    files = sorted((photos / "images").iterdir())
    prints = np.array([fingerprint(file.read_bytes()) for file in files])
    bits = np.bitwise_count(prints[:, None, :16] ^ prints[None, :, :16]).sum(-1)
    assert bits[np.triu_indices(len(files), 1)].min() > NEAR
    for file in files[:40]:
        whole = Image.open(file).convert("RGB")
        assert near(
            file.read_bytes(), save(whole.resize((whole.width // 2, whole.height // 2)), "JPEG", quality=50)
        )
