"""Peer: the loop that a person writes. `python -m tests.bench.peers.torchvision_loop IMAGES OUT`

One process with torch's threads; what cannot be opened is skipped; one Parquet file at the end.
"""

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.bench.peers.network import BATCH, files, network, pixels, predict


def main(folder: str, out: str) -> None:
    module = network()
    rows = []
    todo = files(folder)
    for start in range(0, len(todo), BATCH):
        names, images = [], []
        for file in todo[start : start + BATCH]:
            try:
                images.append(pixels(file))
            except OSError as e:
                print(f"{file.name}: {e}", file=sys.stderr)
                continue
            names.append(file.name)
        rows += [
            {"path": name, "instances": found}
            for name, found in zip(names, predict(module, images), strict=True)
        ]
    Path(out).mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), Path(out, "instances.parquet"), compression="zstd")


if __name__ == "__main__":
    main(*sys.argv[1:])
