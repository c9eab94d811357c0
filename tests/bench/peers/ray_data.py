"""Peer: Ray Data as its object-detection example does it. `python -m tests.bench.peers.ray_data IMAGES OUT`

`read_images`, a class that holds the model for `map_batches`, up to an actor a CPU (that many from the start would leave none to its readers), `write_parquet`. Blocks with files that
cannot be read are left out (`max_errored_blocks`), which is what Ray Data offers; without it one broken file ends the job.
"""

import os
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from tests.bench.peers.network import BATCH, network, predict


class Detector:
    def __init__(self) -> None:
        self._module = network()

    def __call__(self, batch: dict[str, Any]) -> pa.Table:
        names = [Path(path).name for path in batch["path"]]
        return pa.table({"path": names, "instances": predict(self._module, batch["image"])})


def main(folder: str, out: str) -> None:
    ray.init(log_to_driver=False, include_dashboard=False)
    ray.data.DataContext.get_current().max_errored_blocks = -1
    images = ray.data.read_images(folder, mode="RGB", include_paths=True)
    found = images.map_batches(Detector, batch_size=BATCH, concurrency=(1, os.cpu_count() or 1))
    found.write_parquet(out, compression="zstd")


if __name__ == "__main__":
    main(*sys.argv[1:])
