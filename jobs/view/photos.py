"""The photos of a gallery: read where they lie, upright, no larger than asked for, never the bytes of the object."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from masklake.model.decode import DecodeOptions, UndecodableError, decode
from masklake.pipeline.errors import UserError
from masklake.pipeline.storage.explain import explain, of_storage
from masklake.pipeline.storage.objects import Fetched, TooLargeError

if TYPE_CHECKING:
    import numpy as np
    from masklake.pipeline.storage.store import Storage
    from numpy.typing import NDArray

MOST_BYTES = 256 * 2**20
QUALITY = 80
TYPES = {"webp": "image/webp", "jpeg": "image/jpeg"}


class NoPhotoError(Exception):
    """Why there is no photo to show: gone, changed since, not readable."""


def fetch(storage: Storage, images: Sequence[dict[str, Any]]) -> list[bytes | NoPhotoError]:
    """The objects of `images` (rows of a gallery with uri and etag), each in the version that its rows speak of."""
    return [
        _checked(image, outcome)
        for image, outcome in zip(
            images, storage.get_many([image["uri"] for image in images], MOST_BYTES), strict=True
        )
    ]


def _checked(image: dict[str, Any], outcome: Fetched | Exception) -> bytes | NoPhotoError:
    if isinstance(outcome, Fetched):
        if image.get("etag") and outcome.etag and outcome.etag != image["etag"]:
            return NoPhotoError("the image has changed since the model saw it; masks would not fit")
        return outcome.data
    if isinstance(outcome, FileNotFoundError):
        return NoPhotoError("the image is gone since, or this machine does not have it")
    if isinstance(outcome, UserError | TooLargeError):
        return NoPhotoError(str(outcome))
    if of_storage(outcome):
        return NoPhotoError(str(explain(outcome, image["uri"], "read it")))
    return NoPhotoError(f"could not be read: {type(outcome).__name__}")


def pixels(data: bytes, side: int | None = None) -> NDArray[np.uint8]:
    """(H, W, 3) RGB, upright. With `side` a large JPEG is decoded at a fraction that is no smaller. Raises NoPhotoError."""
    try:
        return decode(data, DecodeOptions(target=None if side is None else (side, side)))[0]
    except UndecodableError as error:
        raise NoPhotoError(str(error)) from error


def preview(data: bytes, side: int, format_: str) -> tuple[bytes, tuple[int, int]]:
    """The photo, its longer side at most `side`, as a webp or jpeg of its own, and its (width, height).

    Raises NoPhotoError.
    """
    from PIL import Image

    picture = Image.fromarray(pixels(data, side))
    picture.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    sink = io.BytesIO()
    picture.save(sink, format_.upper(), quality=QUALITY)
    return sink.getvalue(), picture.size
