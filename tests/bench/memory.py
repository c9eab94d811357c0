"""Peak memory of the job at 1,000 and at 10,000 images: it must not grow with the bucket.

A predictor without a network stands in for the model, whose memory is constant; what could grow is everything
around it. Memory is the sum of the proportional set sizes (PSS) of the driver and all Ray processes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from masklake.model import scenes

from tests.bench.process_cpu import Used, measured

SIZES = (1_000, 10_000)
DISTINCT = 200


def run_over(n: int, source: Path, lake: Path) -> Used:
    """What a run used over `n` images, which are links to the files in `source`."""
    folder = lake.with_suffix(".images")
    folder.mkdir()
    files = sorted(source.glob("*.jpg"))
    for i in range(n):
        (folder / f"{i:06d}.jpg").hardlink_to(files[i % len(files)])
    return measured([sys.executable, "-m", "tests.bench.null_job", f"{folder}/", str(lake)])


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "scenes")
        scenes.write(source, DISTINCT, seed=12)
        peaks = []
        for n in SIZES:
            used = run_over(n, source, Path(scratch, f"lake-{n}"))
            peaks.append(used.peak_bytes)
            print(
                f"  {n:6,} images: peak {used.peak_bytes / 2**20:7.0f} MiB, {n / used.seconds:6.1f} images/s with Ray's start",
                flush=True,
            )
    print(f"  peak at {SIZES[1]:,} / peak at {SIZES[0]:,}: {peaks[1] / peaks[0]:.2f}")
