"""Textures of scenes: smooth noise, backgrounds, mottle and stripes, colours that stand apart."""

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray
from PIL import Image

Colour = tuple[int, int, int]


def _noise(rng: RandomState, height: int, width: int, cell: int, channels: int) -> NDArray[np.int16]:
    """Smooth noise of about `cell` pixels a feature: (H, W, channels) in -128 … 127."""
    rows, columns = max(2, height // cell), max(2, width // cell)
    grid = np.frombuffer(rng.bytes(rows * columns * channels), np.uint8).reshape(rows, columns, channels)
    layers = [
        np.asarray(Image.fromarray(grid[:, :, c]).resize((width, height), Image.Resampling.BILINEAR))
        for c in range(channels)
    ]
    return np.stack(layers, axis=-1).astype(np.int16) - 128


def background(rng: RandomState, base: NDArray, height: int, width: int) -> NDArray[np.uint8]:
    """(H, W, 3) uint8: noise in three sizes, a slope and sometimes stripes, around the colour `base`."""
    side = min(height, width)
    picture = base.astype(np.int16) + (_noise(rng, height, width, side // 3, 3) * 3) // 8
    picture += _noise(rng, height, width, max(2, side // 16), 3) // int(rng.choice([5, 8, 16]))
    x, y = np.arange(width, dtype=np.int32), np.arange(height, dtype=np.int32)[:, None]
    step_x, step_y = rng.randint(-60, 61, 2)
    picture += (x * step_x // width + y * step_y // height).astype(np.int16)[:, :, None]
    if rng.random_sample() < 0.4:
        period, strength = int(rng.randint(6, 41)), int(rng.randint(6, 31))
        run_x, run_y = rng.randint(-4, 5, 2)
        wave = np.abs((x * run_x + y * run_y) // 2 % period * 2 - period)
        picture += (wave * strength // period).astype(np.int16)[:, :, None]
    return np.clip(picture, 0, 255).astype(np.uint8)


def texture(
    rng: RandomState, picture: NDArray, segments: NDArray[np.uint8], n_objects: int
) -> NDArray[np.uint8]:
    """Give each object a texture of its own (mottle, stripes or none), then the whole picture some grain."""
    height, width = segments.shape
    mottle = np.concatenate([[0], rng.randint(0, 33, n_objects)]).astype(np.int16)
    striped = np.concatenate([[0], rng.randint(8, 29, n_objects) * (rng.random_sample(n_objects) < 0.3)])
    run_x, run_y = rng.randint(-3, 4, (2, n_objects + 1)).astype(np.int16)
    noise = _noise(rng, height, width, 6, 1)[:, :, 0]
    x, y = np.arange(width, dtype=np.int16), np.arange(height, dtype=np.int16)[:, None]
    phase = (x * run_x[segments] + y * run_y[segments]) >> 3
    change = (noise * mottle[segments]) // 128 + ((phase & 1) * 2 - 1) * striped.astype(np.int16)[segments]
    grain = np.frombuffer(rng.bytes(height * width), np.int8).reshape(height, width)
    change += grain // int(rng.choice([8, 12, 24]))
    return np.clip(picture.astype(np.int16) + change[:, :, None], 0, 255).astype(np.uint8)


def colour(rng: RandomState, apart_from: NDArray) -> Colour:
    """A random colour that is easily distinguished from `apart_from`, the background's colour."""
    while True:
        colour = rng.randint(0, 256, 3)
        if np.abs(colour - apart_from).sum() >= 130:
            return int(colour[0]), int(colour[1]), int(colour[2])


def blend(colour: Colour, towards: int, share: float) -> Colour:
    """`colour` mixed with the grey `towards` (0 to 255) by `share`, 0 to 1."""
    red, green, blue = (round(c + (towards - c) * share) for c in colour)
    return red, green, blue
