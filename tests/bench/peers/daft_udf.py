"""Peer: Daft, with a class as its guide for models has it. `python -m tests.bench.peers.daft_udf IMAGES OUT`

Download and decode are Daft's own and give null for what cannot be read; the model runs in a process a CPU.
"""

import os
import sys
from typing import Any

import daft
import torch
from daft import DataType, col
from daft.functions import decode_image, download

from tests.bench.peers.network import BATCH, network, predict

INSTANCE = DataType.struct(
    {
        "label": DataType.int64(),
        "score": DataType.float64(),
        "box": DataType.list(DataType.float64()),
        "mask": DataType.string(),
    }
)


@daft.cls(max_concurrency=os.cpu_count(), use_process=True)
class Detector:
    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._module = network()

    @daft.method.batch(return_dtype=DataType.list(INSTANCE), batch_size=BATCH)
    def predict(self, images: daft.Series) -> list[Any]:
        decoded = images.to_pylist()
        read = [index for index, image in enumerate(decoded) if image is not None]
        answers: list[Any] = [None] * len(decoded)
        for index, found in zip(read, predict(self._module, [decoded[i] for i in read]), strict=True):
            answers[index] = found
        return answers


def main(folder: str, out: str) -> None:
    frame = daft.from_glob_path(f"{folder}/*")
    image = decode_image(download(col("path"), on_error="null"), on_error="null", mode="RGB")
    frame = frame.select(col("path"), image.alias("image"))
    frame = frame.select(col("path"), Detector().predict(col("image")).alias("instances"))  # type: ignore[attr-defined]  # daft's decorator
    frame.write_parquet(out, compression="zstd")


if __name__ == "__main__":
    main(*sys.argv[1:])
