"""Lakes of pictures that really are there, for tests of `masklake review`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from masklake.pipeline.storage.store import Storage
from PIL import Image

from tests.helpers.images import save
from tests.helpers.lakes import image, instance


def picture(seed: int, size: tuple[int, int] = (64, 48), format_: str = "PNG", **options: Any) -> bytes:
    """A file of coarse noise: no two seeds look alike, and one seed looks the same at any size."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return save(Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC), format_, **options)


def on_disk(folder: Path, name: str, seed: int, **fields: Any) -> dict[str, Any]:
    """Write a picture, and give its row of `images`."""
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_bytes(picture(seed))
    return row_of(str(file), **fields)


def row_of(uri: str, **fields: Any) -> dict[str, Any]:
    """The row of `images` of an object as it is now."""
    info = Storage().stat(uri)
    assert info is not None
    return image(uri, etag=info.etag, size_bytes=info.size, **fields)


def dogs(*scores: float) -> list[dict[str, Any]]:
    """Instances side by side."""
    return [instance("dog", score, (8 * i, 4, 8, 12)) for i, score in enumerate(scores)]
