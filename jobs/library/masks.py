"""Masks of a lake's rows as pixels. Free of torch, Ray and storage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def decode_mask(row: Mapping[str, Any]) -> NDArray[np.bool_]:
    """(H, W) bool: the mask of a row of `instances` or `labels`, in the frame of the upright image.

    row: the row as a dict (`table.to_pylist()[0]`, `frame.to_dicts()[0]`, `frame.iloc[0]`, …), or its column `mask` alone:
        COCO's compressed RLE, {"size": [height, width], "counts": text or bytes}.
    Raises ValueError where there is no mask (`mask` is null where the model, or the label, has none), or a broken one.
    """
    import numpy as np
    from pycocotools import mask as coco_mask

    rle = row if "counts" in row else row["mask"]
    if rle is None:
        raise ValueError("the row has no mask (null): the model that made it, or the label, has a box only")
    counts, (height, width) = rle["counts"], (int(side) for side in rle["size"])
    encoded = counts.encode("ascii") if isinstance(counts, str) else bytes(counts)
    # Run lengths that end early leave the rest of the memory unset: only ones are mask.
    pixels: NDArray[np.bool_] = coco_mask.decode({"size": [height, width], "counts": encoded}) == 1
    return np.ascontiguousarray(pixels)
