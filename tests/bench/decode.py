"""Files to pixels, one thread: `model.decode` beside Pillow, which decoded them before.

    python -m tests.bench.decode
    PILLOW_SIMD_PYTHON=…/bin/python python -m tests.bench.decode    # an interpreter that has pillow-simd and numpy: a column more

The picture is a real photo where the shared data is there, else a synthetic scene; at 640 x 480 and at 4000 x 3000.
CPU time, so that other work on the machine counts little. Both sides take turns; the ratio is the median of the rounds'. Scaled is for a model of 800 to 1333 pixels.

The process keeps the memory that it frees, as one that decodes for a job does. Otherwise each side would use what the
other has freed, or pay for what it has returned: of a progressive JPEG, whose coefficients are 36 MB, that is a quarter of
the time, and falls to either side by chance.
"""

import io
import os
import statistics
import subprocess
import time
from collections.abc import Callable

import numpy as np
from masklake.model.decode import DecodeOptions, decode
from masklake.model.engine.allocator import keep_freed_memory
from masklake.pipeline.decode import DECODING_KEEPS
from PIL import Image

from tests.helpers.paths import SHARED

SIZES = ((640, 480), (4000, 3000))
TARGET = (800, 1333)
FORMATS: dict[str, dict] = {
    "JPEG": {"quality": 90},
    "JPEG, progressive": {"quality": 90, "progressive": True},
    "PNG": {},
    "WEBP": {"quality": 90},
    "TIFF": {"compression": "tiff_deflate"},
}


def photo() -> Image.Image:
    folder = SHARED / "data" / "coco-sample"
    for path in sorted(folder.rglob("*.jpg")):
        with Image.open(path) as image:
            if image.mode == "RGB" and image.width >= 640 and image.height >= 480:
                return image.crop((0, 0, 640, 480))
    y, x = np.mgrid[:480, :640]
    noise = np.random.default_rng(0).normal(0, 6, (480, 640, 3))
    waves = np.dstack([128 + 90 * np.sin(x / 17 + y / 50), 128 + 90 * np.cos(y / 11), 60 + x / 5])
    return Image.fromarray(np.clip(waves + noise, 0, 255).astype(np.uint8))


def by_pillow(data: bytes, target: tuple[int, int] | None) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    if target and image.format == "JPEG":
        image.draft(None, fitted(image.size, target))
    return np.asarray(image.convert("RGB"))


def fitted(size: tuple[int, int], target: tuple[int, int] | None) -> tuple[int, int]:
    """Width and height of an image made to fit `target` (short side, long side), never larger; its own where None."""
    scale = min(target[0] / min(size), target[1] / max(size), 1.0) if target else 1.0
    return round(size[0] * scale), round(size[1] * scale)


_PILLOW_ALONE = """
import io, statistics, sys, time
import numpy as np
from PIL import Image
rounds, fit, size = int(sys.argv[1]), sys.argv[2] == "fit", (int(sys.argv[3]), int(sys.argv[4]))
data, took = sys.stdin.buffer.read(), []
for _ in range(rounds):
    start = time.process_time()
    image = Image.open(io.BytesIO(data))
    if fit:
        image.draft(None, size)
    np.asarray(image.convert("RGB"))
    took.append(time.process_time() - start)
print(1000 * statistics.median(took))
"""


def by_other_pillow(python: str, data: bytes, target: tuple[int, int] | None, rounds: int) -> str:
    """Milliseconds of the Pillow of another interpreter, in a process of its own that keeps what it frees; that it was
    built without the format, where it was."""
    fit = map(str, fitted(Image.open(io.BytesIO(data)).size, target))
    keeps = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
    command = [python, "-c", _PILLOW_ALONE, str(rounds), "fit" if target else "whole", *fit]
    answer = subprocess.run(command, input=data, env=os.environ | keeps, capture_output=True, check=False)
    if b"UnidentifiedImageError" in answer.stderr or b"decoder" in answer.stderr:
        return "built without it"
    answer.check_returncode()
    return f"{float(answer.stdout):.2f} ms"


def seconds(call: Callable[[], np.ndarray]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def main() -> None:
    keep_freed_memory(*DECODING_KEEPS)
    simd = os.environ.get("PILLOW_SIMD_PYTHON")
    more = " Pillow-SIMD |" if simd else ""
    print(
        f"| file | size | Pillow | `model.decode` | ratio |{more}\n|---|---|---|---|---|{'---|' if simd else ''}"
    )
    for size in SIZES:
        image = photo().resize(size, Image.Resampling.BICUBIC)
        for name, options in FORMATS.items():
            file = io.BytesIO()
            image.save(file, name.split(",")[0], **options)
            data = file.getvalue()
            for target in (None, TARGET) if name.startswith("JPEG") and size[0] > 640 else (None,):
                ours = DecodeOptions(target=target)
                same = np.array_equal(decode(data, ours)[0], by_pillow(data, target))
                times = 40 if size[0] == 640 else 9
                rounds = [
                    (seconds(lambda: by_pillow(data, target)), seconds(lambda: decode(data, ours)[0]))  # noqa: B023
                    for _ in range(times)
                ]
                pillow, own = (1000 * statistics.median(column) for column in zip(*rounds, strict=True))
                ratio = statistics.median(a / b for a, b in rounds)
                title = f"{name}, scaled" if target else name
                width, height = size
                more = f" {by_other_pillow(simd, data, target, times)} |" if simd else ""
                print(
                    f"| {title}, {len(data) / 1e6:.2f} MB{'' if same else ', pixels differ'} | {width} × {height} "
                    f"| {pillow:.2f} ms | {own:.2f} ms | {ratio:.2f} |{more}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
