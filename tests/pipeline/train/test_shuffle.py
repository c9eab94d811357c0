"""Batches are a function of seed and step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from masklake.pipeline.train.shuffle import BatchOrder


@given(images=st.integers(1, 60), batch=st.integers(1, 9), seed=st.integers(0, 5))
def test_an_epoch_shows_no_image_twice_and_leaves_out_less_than_a_batch(
    images: int, batch: int, seed: int
) -> None:
    order = BatchOrder(images, batch, seed, np.arange(images) % 3 == 0)
    seen = np.concatenate([order.of_step(step) for step in range(order.steps_per_epoch)])
    if images >= batch:
        assert len(set(seen.tolist())) == len(seen) > images - batch
    assert seen.min() >= 0
    assert seen.max() < images


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_workers_share_a_batch_whatever_their_number(workers: int) -> None:
    order = BatchOrder(50, 8, 1, np.ones(50, bool))
    for step in (0, 3, 17):
        shares = [order.share(step, worker, workers) for worker in range(workers)]
        assert np.concatenate(shares).tolist() == order.of_step(step).tolist()


def test_epochs_differ_and_repeat() -> None:
    order = BatchOrder(40, 8, 1, np.ones(40, bool))
    first, second = order.of_step(0), order.of_step(order.steps_per_epoch)
    assert first.tolist() != second.tolist()
    assert first.tolist() == BatchOrder(40, 8, 1, np.ones(40, bool)).of_step(0).tolist()


def test_batches_are_of_one_shape_but_one() -> None:
    wide = np.arange(64) % 2 == 0
    order = BatchOrder(64, 6, 2, wide)
    mixed = [len(set(wide[order.of_step(s)].tolist())) == 2 for s in range(order.steps_per_epoch)]
    assert sum(mixed) <= 1
