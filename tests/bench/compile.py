"""Would torch.compile pay? The R50-FPN backbone in bfloat16: as modules, fused as in `model.engine.fuse`, and compiled.

    python -m tests.bench.compile

The compiler's first call for each shape is told apart; photos come in a dozen shapes or more. It needs a C++ compiler
on every machine, which the fused operators do not.
"""

import copy
import os
import time
from collections.abc import Callable

import torch
from masklake.model.engine.allocator import keep_freed_memory
from masklake.model.engine.fold import fold_norms
from masklake.model.engine.fuse import fuse
from torch import Tensor
from torchvision.models.detection import maskrcnn_resnet50_fpn

from tests.helpers import reference

SHAPES = ((800, 1088), (800, 1216))
REPEATS = 7


def seconds(call: Callable[[Tensor], object], images: Tensor) -> float:
    start = time.perf_counter()
    call(images)
    return time.perf_counter() - start


@torch.no_grad()
def main() -> None:
    import torch._inductor.config as inductor

    # weights become constants in the processor's layout: what the compiler has to offer
    inductor.freezing = True
    inductor.force_disable_caches = True  # a new machine has none
    torch.set_num_threads(os.cpu_count() or 1)
    keep_freed_memory()
    model = reference.excite(maskrcnn_resnet50_fpn(weights=None, weights_backbone=None), 0)
    plain = fold_norms(model.backbone).to(torch.bfloat16).to(memory_format=torch.channels_last)
    sides: dict[str, Callable[[Tensor], object]] = {
        "modules": plain,
        "masklake.model.engine.fuse": fuse(copy.deepcopy(plain)),
        "torch.compile": torch.compile(copy.deepcopy(plain), dynamic=False),
    }
    for height, width in SHAPES:
        images = torch.rand(1, 3, height, width).to(torch.bfloat16).to(memory_format=torch.channels_last)
        first = {name: seconds(call, images) for name, call in sides.items()}
        rest: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(REPEATS):
            for name, call in sides.items():
                rest[name].append(seconds(call, images))
        for name in sides:
            best = min(rest[name])
            print(
                f"{height} x {width}  {name:<14} {best * 1e3:6.1f} ms   {min(rest['modules']) / best:4.2f} times"
                f"   first call {first[name]:6.2f} s",
                flush=True,
            )
        saved = min(rest["masklake.model.engine.fuse"]) - min(rest["torch.compile"])
        if saved > 0:
            print(
                f"  the compiler's first call is paid back after {first['torch.compile'] / saved:.0f} images"
            )


if __name__ == "__main__":
    main()
