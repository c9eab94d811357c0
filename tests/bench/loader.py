"""Feeding a training: our loader beside that of torchvision's detection reference, images a second on two cores.

    python -m tests.bench.loader [--images 400]

The reference (torchvision, references/detection) is written anew: CocoDetection, polygons to a mask of the whole frame for
each instance, a random flip, float32 tensors, a DataLoader of two processes. It leaves the scaling to the network, which
does it in the training's own process; so there is a second reference that scales its examples as the network would.
Ours is what `masklake train` runs, on Ray, with two loaders: fetched through the lake's storage, decoded, scaled, its colours
changed, masks as crops. Once with that and once with only what the reference does: flip and scale.

The same photos for all (COCO's sample where it is, else generated scenes), labels of the lake from the same file. What
leaves a queue is counted, once the queue is in steady state; CPU is that of all processes, Ray's too.

Then the optimizer's step alone, for the network of `tests.bench.train`: AdamW with a group for each parameter, as it was, and with
one for each pair of learning rate and decay.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from masklake.model.coco import KEYPOINT_NAMES
from masklake.model.flip_pairs import mirrored
from masklake.model.networks.build import build
from masklake.model.spec import Preprocessing
from masklake.model.train.learner import _groups
from masklake.model.train.recipe import Recipe
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.storage.store import Storage
from masklake.pipeline.train import dataset as training_set
from masklake.pipeline.train.batches import Batches, stream
from masklake.pipeline.train.board import Board
from masklake.pipeline.train.shuffle import BatchOrder
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from tests.bench.process_cpu import _look
from tests.bench.train import PHOTOS, cli
from tests.helpers import reference

BATCH, WORKERS = 4, 2
WARM = 64
SIZES = ((320, 533), (800, 1333))
STEPS = 15
Pair = tuple[Tensor, dict[str, Tensor]]


class Frames(torch.utils.data.Dataset[Pair]):
    """torchvision's CocoDetection and ConvertCocoPolysToMask. `transform`: the network's own, or None."""

    def __init__(
        self, folder: Path, annotations: Path, names: set[str], transform: GeneralizedRCNNTransform | None
    ) -> None:
        self._folder, self._coco, self._transform = folder, COCO(str(annotations)), transform
        # torchvision's reference leaves out what has no object
        self._ids = [
            image["id"]
            for image in self._coco.dataset["images"]
            if image["file_name"] in names and self._coco.getAnnIds(image["id"], iscrowd=False)
        ]

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Pair:
        [info] = self._coco.loadImgs(self._ids[index])
        picture = Image.open(self._folder / info["file_name"]).convert("RGB")
        image = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
        width, height = picture.size
        found = self._coco.loadAnns(self._coco.getAnnIds(info["id"], iscrowd=False))
        boxes = torch.tensor([a["bbox"] for a in found], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes[:, 0::2].clamp_(min=0, max=width)
        boxes[:, 1::2].clamp_(min=0, max=height)
        masks = torch.stack([_frame(a["segmentation"], height, width) for a in found])
        keep = (boxes[:, 3] > boxes[:, 1]) & (boxes[:, 2] > boxes[:, 0])
        boxes, masks = boxes[keep], masks[keep]
        labels = torch.tensor([a["category_id"] for a in found], dtype=torch.int64)[keep]
        if torch.rand(()) < 0.5:
            image, masks = image.flip(-1), masks.flip(-1)
            boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
        target = {"boxes": boxes, "labels": labels, "masks": masks}
        pixels = image.float() / 255
        if self._transform is None:
            return pixels, target
        batch, [scaled] = self._transform([pixels], [target])
        return batch.tensors[0], scaled


def _frame(segmentation: Any, height: int, width: int) -> Tensor:
    """A mask of the whole frame, as convert_coco_poly_to_mask."""
    if isinstance(segmentation, dict):  # a run length of the sample's own, which the reference does not know
        if isinstance(segmentation["counts"], list):
            segmentation = coco_mask.frPyObjects(segmentation, height, width)
        return torch.from_numpy(coco_mask.decode(segmentation))
    mask = coco_mask.decode(coco_mask.frPyObjects(segmentation, height, width))
    return torch.as_tensor(mask, dtype=torch.uint8).any(dim=2).to(torch.uint8)


def collate(pairs: list[Pair]) -> tuple[tuple[Any, ...], ...]:
    """The reference's collate_fn."""
    return tuple(zip(*pairs, strict=True))


def theirs(data: Frames) -> Generator[int]:
    """How many images each batch holds, without end."""
    loader = torch.utils.data.DataLoader(
        data, BATCH, shuffle=True, num_workers=WORKERS, collate_fn=collate, drop_last=True, persistent_workers=True
    )  # fmt: skip
    while True:
        for images, _ in loader:
            yield len(images)


def ours(labels: training_set.TrainingSet, recipe: Recipe, preprocessing: Preprocessing) -> Generator[int]:
    """How many images each batch holds, without end."""
    import ray

    board: Any = ray.remote(Board).remote()
    batches = Batches(
        order=BatchOrder(len(labels), BATCH, recipe.seed, labels.wide),
        recipe=recipe,
        preprocessing=preprocessing,
        outputs={name: output for output, name in enumerate(sorted(labels.counts), start=1)},
        keypoint_names=KEYPOINT_NAMES,
        mirror=mirrored(KEYPOINT_NAMES),
        storage=Storage(),
    )
    streamed = stream(
        batches, ray.put(labels), board, 0, worker=0, workers=1, loader_cpus=0.5, loaders=WORKERS
    )
    for batch in streamed:
        board.tell.remote({"step": batch.step})
        yield len(batch.examples)


def cpu_seconds(parents: dict[int, int], used: dict[int, float], cpu: Counter[str]) -> float:
    """CPU seconds of this process and its descendants so far."""
    _look(os.getpid(), parents, used, cpu)
    return sum(used.values())


def measure(title: str, batches: Generator[int], images: int) -> float:
    """Print images a second, and CPU milliseconds an image, after the first `WARM`; the former."""
    seen = 0
    while seen < WARM:
        seen += next(batches)
    known: tuple[dict[int, int], dict[int, float], Counter[str]] = {}, {}, Counter()
    began, cpu = time.perf_counter(), cpu_seconds(*known)
    seen = 0
    while seen < images:
        seen += next(batches)
    seconds, spent = time.perf_counter() - began, cpu_seconds(*known) - cpu
    batches.close()  # and with it the processes that load
    print(
        f"  {title:<58} {seen / seconds:7.1f} images/s  {1000 * spent / seen:6.1f} CPU ms/image", flush=True
    )
    return seen / seconds


def optimizer() -> None:
    """Milliseconds of AdamW's step, all ways in turn."""
    recipe = Recipe()
    spec = reference.spec("mask_rcnn", backbone="mobilenet_v2-fpn")
    ways: dict[str, Callable[[dict[str, Any]], torch.optim.Optimizer]] = {
        "a group for each parameter, as it was": lambda p: _adamw(_each(p, recipe)),
        "a group for each rate and decay, one by one": lambda p: _adamw(_groups(p, recipe), foreach=False),
        "the same, foreach": lambda p: _adamw(_groups(p, recipe), foreach=True),
        "the same, fused: ours": lambda p: _adamw(_groups(p, recipe), fused=True),
    }
    steps = {}
    for name, make in ways.items():
        torch.manual_seed(0)
        parameters = dict(build(spec).named_parameters())
        for parameter in parameters.values():
            parameter.grad = torch.randn_like(parameter)
        steps[name] = make(parameters).step
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(STEPS):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(1000 * (time.perf_counter() - start))
    first = next(iter(times.values()))
    print(f"AdamW's step alone, {len(parameters)} parameters of a MobileNetV2 Mask R-CNN, median of {STEPS}")
    for name, of_way in times.items():
        ratio = statistics.median(a / b for a, b in zip(first, of_way, strict=True))
        print(f"  {name:<58} {statistics.median(of_way):7.1f} ms  {ratio:5.2f} x")


def _adamw(groups: list[dict[str, Any]], **how: bool) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=1e-4, **how)


def _each(parameters: dict[str, torch.nn.Parameter], recipe: Recipe) -> list[dict[str, Any]]:
    return [group | {"params": [p]} for group in _groups(parameters, recipe) for p in group["params"]]


def main(images: int = 400) -> None:
    import ray

    optimizer()
    with tempfile.TemporaryDirectory() as folder:
        photos, files = PHOTOS / "images", [PHOTOS / "instances.json"]
        if not photos.is_dir():
            cli("scenes", f"{folder}/scenes", "--images", "200")
            photos, files = Path(folder, "scenes"), [Path(folder, "scenes", "annotations.json")]
        lake = f"{folder}/lake"
        cli("labels", "import", *map(str, files), lake, "--uri-prefix", f"{photos}/")
        labels = training_set.gather(Lake(lake, Storage()))
        names = {uri.rpartition("/")[2] for uri in labels.uris(range(len(labels)))}
        print(
            f"{len(labels)} photos, batches of {BATCH}, {WORKERS} processes that load; {images} images each"
        )
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        sizes = [Preprocessing(min_size=low, max_size=high) for low, high in SIZES]
        scaled: list[tuple[str, GeneralizedRCNNTransform | None]] = [("the reference", None)]
        scaled += [
            (
                f"the reference, scaled to {size.min_size}",
                GeneralizedRCNNTransform(size.min_size, size.max_size, list(size.mean), list(size.std)),
            )
            for size in sizes
        ]
        for title, transform in scaled:
            measure(title, theirs(Frames(photos, files[0], names, transform)), images)
        plain = Recipe(batch=BATCH, colour=0.0, jitter=(1.0, 1.0))
        for size, (what, recipe) in itertools.product(
            sizes,
            (("flip and scale", plain), ("all of the recipe", replace(plain, colour=0.3, jitter=(0.8, 1.2)))),
        ):
            measure(f"ours, to {size.min_size}: {what}", ours(labels, recipe, size), images)
        ray.shutdown()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=400)
    main(parser.parse_args().images)
