"""The input of a predictor, decoded or encoded images, as uint8 (H, W, 3) arrays."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from masklake.model.decode import DecodeOptions, UndecodableError, decode
from masklake.model.detections import PredictFailure
from masklake.model.errors import ModelError
from numpy.typing import NDArray
from torch import Tensor

Image = NDArray[np.uint8] | Tensor | bytes
"""RGB pixels, uint8: a numpy array (H, W, 3) or a torch tensor (3, H, W); or the bytes of a file (`model.decode`)."""


def to_arrays(images: Sequence[Image]) -> list[NDArray[np.uint8] | PredictFailure]:
    """uint8 (H, W, 3) of each image: a view of it, or, for encoded images, the decoded pixels, upright by EXIF.

    Bytes that `model.decode` refuses give PredictFailure. Raises ModelError for anything else.
    """
    encoded = [image for image in images if isinstance(image, bytes)]
    if not encoded:
        return [_checked(image, index) for index, image in enumerate(images)]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        decoded = iter(list(pool.map(_decoded, encoded)))
    return [
        next(decoded) if isinstance(image, bytes) else _checked(image, index)
        for index, image in enumerate(images)
    ]


def _decoded(data: bytes) -> NDArray[np.uint8] | PredictFailure:
    try:
        pixels, _ = decode(data, DecodeOptions())
    except UndecodableError as error:
        return PredictFailure(f"cannot be decoded: {error}")
    return pixels


def _checked(image: Image, index: int) -> NDArray[np.uint8]:
    if isinstance(image, bytes) or not isinstance(image, np.ndarray | Tensor):
        raise ModelError(f"image {index} is {type(image).__name__}, not a numpy array, torch tensor or bytes")
    is_array = isinstance(image, np.ndarray)
    shape, dtype = tuple(image.shape), str(image.dtype).removeprefix("torch.")
    expected = "(H, W, 3)" if is_array else "(3, H, W)"
    if dtype != "uint8" or len(shape) != 3 or shape[2 if is_array else 0] != 3 or 0 in shape:
        raise ModelError(
            f"image {index} is {dtype} {shape}, not uint8 {expected} with at least 1 pixel; convert it to RGB"
        )
    return image.permute(1, 2, 0).cpu().numpy() if isinstance(image, Tensor) else image
