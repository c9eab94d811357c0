"""Peak memory of `masklake export` at 20,000 and at 200,000 images of a generated lake: it must not grow with the lake.

Memory is that of the one process (the largest resident set, as the kernel counts it).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench import scale_lakes

SIZES = (20_000, 200_000)
FORMATS = ("coco", "coco-results", "yolo-segment", "label-studio", "fiftyone", "huggingface")


def measured(lake: Path, format_: str, out: Path) -> tuple[int, float]:
    """(peak bytes, seconds) of an export."""
    started = time.perf_counter()
    command = [
        sys.executable,
        "-m",
        "masklake.jobs.cli",
        "export",
        str(lake),
        "--format",
        format_,
        "--out",
        str(out),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"the export of {lake} as {format_} ended with status {status}")
    return usage.ru_maxrss * 1024, time.perf_counter() - started


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        lakes = {n: Path(scratch, f"lake-{n}") for n in SIZES}
        for n, lake in lakes.items():
            scale_lakes.tall(lake, "20261128T042234-000000", n, commit=512, per_folder=1_000)
        for format_ in FORMATS:
            peaks = {}
            for n, lake in lakes.items():
                out = Path(scratch, f"{format_}-{n}")
                peaks[n], seconds = measured(lake, format_, out)
                print(
                    f"  {format_:12} {n:7,} images: peak {peaks[n] / 2**20:5.0f} MiB, {n / seconds:6,.0f} images/s",
                    flush=True,
                )
                subprocess.run(["rm", "-rf", str(out)], check=True)
            print(
                f"  {format_:12} peak at {SIZES[1]:,} / peak at {SIZES[0]:,}: {peaks[SIZES[1]] / peaks[SIZES[0]]:.2f}"
            )
