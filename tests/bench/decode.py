"""Files to pixels, one thread: `model.decode` beside Pillow, which decoded them before.

    python -m tests.bench.decode

The picture is a real photo where the shared data is there, else a synthetic scene; at 640 x 480 and at 4000 x 3000.
CPU time, so that other work on the machine counts little. Both sides take turns; the ratio is the median of the rounds'. Scaled is for a model of 800 to 1333 pixels.

The process keeps the memory that it frees, as one that decodes for a job does. Otherwise each side would use what the
other has freed, or pay for what it has returned: of a progressive JPEG, whose coefficients are 36 MB, that is a quarter of
the time, and falls to either side by chance.
"""

import io
import statistics
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
        scale = min(target[0] / min(image.size), target[1] / max(image.size), 1.0)
        image.draft(None, (round(image.width * scale), round(image.height * scale)))
    return np.asarray(image.convert("RGB"))


def seconds(call: Callable[[], np.ndarray]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def main() -> None:
    keep_freed_memory(*DECODING_KEEPS)
    print("| file | size | Pillow | `model.decode` | ratio |\n|---|---|---|---|---|")
    for size in SIZES:
        image = photo().resize(size, Image.Resampling.BICUBIC)
        for name, options in FORMATS.items():
            file = io.BytesIO()
            image.save(file, name.split(",")[0], **options)
            data = file.getvalue()
            for target in (None, TARGET) if name.startswith("JPEG") and size[0] > 640 else (None,):
                ours = DecodeOptions(target=target)
                same = np.array_equal(decode(data, ours)[0], by_pillow(data, target))
                rounds = [
                    (seconds(lambda: by_pillow(data, target)), seconds(lambda: decode(data, ours)[0]))  # noqa: B023
                    for _ in range(40 if size[0] == 640 else 9)
                ]
                pillow, own = (1000 * statistics.median(column) for column in zip(*rounds, strict=True))
                ratio = statistics.median(a / b for a, b in rounds)
                title = f"{name}, scaled" if target else name
                width, height = size
                print(
                    f"| {title}, {len(data) / 1e6:.2f} MB{'' if same else ', pixels differ'} | {width} × {height} "
                    f"| {pillow:.2f} ms | {own:.2f} ms | {ratio:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
