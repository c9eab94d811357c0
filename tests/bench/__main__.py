"""`make bench`: every benchmark, each printing both sides of its comparison from one run."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import sys
from pathlib import Path

BENCHMARKS = {
    "rle": "mask probabilities to COCO RLE: paste + pycocotools beside model.rle",
    "predictor": "torchvision eager beside model.predictor, from pixels to RLE",
    "parity": "how exact each precision is on a trained model: IoU of its detections, difference in AP",
    "proposals": "--proposals N: AP and time against N",
    "int8": "--precision int8: AP and time, with and without VNNI",
    "decode": "files to pixels: Pillow beside model.decode, 640 × 480 and 4000 × 3000",
    "device": "from JPEG bytes to RLE on a GPU where there is one: batches, stages, memory",
    "compile": "whether torch.compile would pay: the backbone as modules, fused, compiled",
    "job": "the whole job beside the bare predictor loop on the same images, steady and with its start; CPU time an image by stage",
    "start": "ten images from the command to its end: seconds, CPU by kind of process, parts of a predictor's start",
    "overhead": "CPU time an image of everything around the model, by kind of process, beside one GET and one decode",
    "train": "training beside a plain torchvision loop: seconds a step, AP after the same minutes",
    "loader": "the training's loader beside that of torchvision's reference; AdamW's step by its groups",
    "scale": "planning, resume and reading of lakes at a million keys: seconds, memory of the driver",
    "scaleout": "1 … 16 predictors that only sleep: efficiency, what driver and scheduler cost an image",
    "storage": "bytes a row by layout; five questions beside one flat sorted Parquet and pandas on COCO JSON",
    "peers": "the same photos and weights through Masklake, a torchvision loop, Ray Data, Daft, FiftyOne; broken files, a kill",
    "export": "peak memory of an export of 20,000 and of 200,000 images, by format",
    "memory": "peak memory of the job at 1,000 and at 10,000 images",
}


def main(names: list[str]) -> None:
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        sys.exit(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    versions = " · ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("torch", "ray", "pyarrow")
    )
    print(f"{cpu}, {os.cpu_count()} CPUs · Python {platform.python_version()} · {versions}")
    for name in names or BENCHMARKS:
        print(f"\n{name}: {BENCHMARKS[name]}\n  repeat: .venv/bin/python -m tests.bench {name}", flush=True)
        importlib.import_module(f"tests.bench.{name}").main()


if __name__ == "__main__":
    main(sys.argv[1:])
