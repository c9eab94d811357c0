"""Label Studio's brush format: round trips, and streams of another writer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from masklake.pipeline.labels.formats.brush_rle import decode, encode

HEAD = f"{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))


def stream(values: int, *blocks: str) -> list[int]:
    """Bytes of a stream of `values` values, from its bits, padded."""
    text = f"{values:032b}{HEAD}{''.join(blocks)}"
    text += "0" * (8 - len(text) % 8)  # the converter pads a whole byte where none is needed
    return list(int(text, 2).to_bytes(len(text) // 8))


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from([0, 0.02, 0.5, 1]), st.integers(0, 2**32 - 1))
def test_what_is_encoded_is_decoded(height: int, width: int, share: float, seed: int) -> None:
    pixels = np.random.default_rng(seed).random((height, width)) < share
    assert (decode(encode(pixels), height, width) == pixels).all()


def test_runs_longer_than_sixteen_bits() -> None:
    pixels = np.zeros((300, 400), bool)
    pixels[100:] = True
    assert (decode(encode(pixels), 300, 400) == pixels).all()


def test_literals_and_colours_of_label_studio() -> None:
    """Two pixels of a colour of their own, as its editor writes them: a literal block, and alpha decides."""
    literal = "0" + "00" + f"{7:03b}" + "".join(f"{v:08b}" for v in (200, 10, 10, 0, 0, 0, 0, 12))
    assert decode(stream(8, literal), 1, 2).tolist() == [[False, True]]
    run = "1" + "10" + f"{15:08b}" + f"{90:08b}"
    assert decode(stream(16, run), 2, 2).all()


@pytest.mark.parametrize(("data", "problem"), [
    ([], "ends before"),
    (encode(np.ones((2, 2)))[:-1], "ends before"),
    (encode(np.ones((2, 3))), "has 24 values, and an image of 2×2 needs 16"),
    (stream(16, "1" + "11" + f"{40:016b}" + f"{255:08b}"), "more values than its image"),
    ([256], "not a list of bytes"),
    (["1"], "not a list of bytes"),
    ([1.5], "not a list of bytes"),
])  # fmt: skip
def test_a_broken_stream_is_refused(data: list[int], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        decode(data, 2, 2)


def test_an_image_beyond_all_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="268,435,456 are read at most"):
        decode([1], 40_000, 50_000)
