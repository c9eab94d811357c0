"""Peak memory of the job at 1,000 and at 10,000 images: it must not grow with the bucket.

A predictor without a network stands in for the model, whose memory is constant; what could grow is everything
around it. Memory is the sum of the proportional set sizes (PSS) of the driver and all Ray processes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from masklake.model import scenes

SIZES = (1_000, 10_000)
DISTINCT = 200


def peak_bytes(process: subprocess.Popen[bytes]) -> int:
    """The largest sum of PSS of `process` and its descendants until it ends, looked at twice a second."""
    peak = 0
    while process.poll() is None:
        total = 0
        try:
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            break
        for member in family:
            try:
                total += member.memory_full_info().pss
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        peak = max(peak, total)
        time.sleep(0.5)
    return peak


def measured(n: int, source: Path, lake: Path) -> tuple[int, float]:
    """(peak bytes, seconds) of a run over `n` images, which are links to the files in `source`."""
    folder = lake.with_suffix(".images")
    folder.mkdir()
    files = sorted(source.glob("*.jpg"))
    for i in range(n):
        (folder / f"{i:06d}.jpg").hardlink_to(files[i % len(files)])
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "tests.bench.null_job", f"{folder}/", str(lake)])
    peak = peak_bytes(process)
    if process.returncode:
        raise RuntimeError(f"the job over {n} images ended with exit code {process.returncode}")
    return peak, time.perf_counter() - started


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "scenes")
        scenes.write(source, DISTINCT, seed=12)
        peaks = []
        for n in SIZES:
            peak, seconds = measured(n, source, Path(scratch, f"lake-{n}"))
            peaks.append(peak)
            print(
                f"  {n:6,} images: peak {peak / 2**20:7.0f} MiB, {n / seconds:6.1f} images/s with Ray's start",
                flush=True,
            )
    print(f"  peak at {SIZES[1]:,} / peak at {SIZES[0]:,}: {peaks[1] / peaks[0]:.2f}")
