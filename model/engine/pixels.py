"""What a predictor is given: decoded images or encoded ones, made uint8 (3, H, W) tensors on the CPU."""

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


def to_tensors(images: Sequence[Image]) -> list[Tensor | PredictFailure]:
    """uint8 (3, H, W) of each image, EXIF orientation applied to encoded ones, which are decoded side by side.

    Bytes that `model.decode` refuses give PredictFailure. Raises ModelError for anything else.
    """
    encoded = [image for image in images if isinstance(image, bytes)]
    if not encoded:
        return [_checked(image, at) for at, image in enumerate(images)]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        decoded = iter(list(pool.map(_decoded, encoded)))
    return [
        next(decoded) if isinstance(image, bytes) else _checked(image, at) for at, image in enumerate(images)
    ]


def _decoded(data: bytes) -> Tensor | PredictFailure:
    try:
        pixels, _ = decode(data, DecodeOptions())
    except UndecodableError as error:
        return PredictFailure(f"cannot be decoded: {error}")
    return _from_array(pixels)


def _checked(image: Image, at: int) -> Tensor:
    if isinstance(image, bytes) or not isinstance(image, np.ndarray | Tensor):
        raise ModelError(f"image {at} is {type(image).__name__}, not a numpy array, torch tensor or bytes")
    is_array = isinstance(image, np.ndarray)
    shape, dtype = tuple(image.shape), str(image.dtype).removeprefix("torch.")
    wanted = "(H, W, 3)" if is_array else "(3, H, W)"
    if dtype != "uint8" or len(shape) != 3 or shape[2 if is_array else 0] != 3 or 0 in shape:
        raise ModelError(
            f"image {at} is {dtype} {shape}, not uint8 {wanted} with at least 1 pixel; convert it to RGB"
        )
    return image.contiguous() if isinstance(image, Tensor) else _from_array(image)


def _from_array(image: NDArray[np.uint8]) -> Tensor:
    # torch has no read-only tensors (arrays from shared memory are read-only) and no negative strides.
    return torch.from_numpy(np.require(image.transpose(2, 0, 1), requirements=["C", "W"]))
