"""Which images make the batch of each training step: a function of the seed, the images and the step, and nothing else.

So a training that was killed continues with the batch that it would have had, and the number of workers that share a
batch does not matter.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class BatchOrder:
    """The batches of a training.

    images: how many there are. batch: images a step. seed: of the shuffles. wide: (images,) bool, which of them are
    wider than high: a batch holds images of one kind where possible, since it is padded to its largest image. An
    epoch leaves out the images that do not fill a batch, other ones each time.
    """

    images: int
    batch: int
    seed: int
    wide: NDArray[np.bool_]

    @property
    def steps_per_epoch(self) -> int:
        return max(1, self.images // self.batch)

    def of_step(self, step: int) -> NDArray[np.int64]:
        """The images of step `step` (from 0): positions, (batch,)."""
        epoch, position = divmod(step, self.steps_per_epoch)
        return _epoch(self.images, self.batch, self.seed, epoch, self.wide.tobytes())[position]

    def share(self, step: int, worker: int, workers: int) -> NDArray[np.int64]:
        """The part of the batch that belongs to worker `worker` of `workers`: positions, about batch / workers of them."""
        return np.array_split(self.of_step(step), workers)[worker]


@functools.lru_cache(maxsize=4)
def _epoch(images: int, batch: int, seed: int, epoch: int, wide: bytes) -> NDArray[np.int64]:
    shuffled = np.random.default_rng([seed, epoch]).permutation(images)
    if images < batch:
        return np.resize(shuffled, (1, batch))
    shuffled = shuffled[: images // batch * batch]
    is_wide = np.frombuffer(wide, np.bool_)[shuffled]
    # One batch may mix the two kinds.
    batches = np.concatenate([shuffled[is_wide], shuffled[~is_wide]]).reshape(-1, batch)
    return np.random.default_rng([seed, epoch, 1]).permutation(batches)
