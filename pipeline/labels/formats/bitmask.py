"""Label Studio's bitmasks: a PNG in a data URL, as large as the image, transparent but for the mask (tags Bitmask, BitmaskLabels)."""

from __future__ import annotations

import base64
import binascii
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_HEAD = "data:image/png;base64,"


def decode(url: str, height: int, width: int) -> NDArray[np.bool_]:
    """(H, W) pixels of the mask. Raises ValueError when it is no such PNG, or is not of the frame's size."""
    if not url.startswith(_HEAD):
        raise ValueError("the bitmask is not a PNG in a data URL")
    try:
        data = base64.b64decode(url[len(_HEAD) :], validate=True)
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.size != (width, height):
                raise ValueError(
                    f"the bitmask is {image.width}×{image.height}, and its image {width}×{height} pixels"
                )
            if not image.has_transparency_data:
                raise ValueError("the bitmask has no transparency, which says what is not in the mask")
            alpha = np.asarray(image.convert("RGBA"))[..., 3]
    except (binascii.Error, OSError, SyntaxError) as error:
        raise ValueError(f"the bitmask is no readable PNG ({error})") from None
    return alpha > 0
