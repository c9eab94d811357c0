"""Training beside a plain torchvision loop: the same network from the same weights, the same photos.

    python -m tests.bench.train [--minutes 3,8] [--size 320]

Persons with keypoints of the COCO sample, MobileNetV2 with ImageNet weights, all CPUs. First the step alone, on the same
batches in turn. Then both sides train for the same minutes, one after the other, and are measured on the same photos
that neither saw. The plain loop is torchvision's reference recipe (SGD, warm-up, frames flipped, a DataLoader's process
to load), with a rate that drops at two thirds and eight ninths of its time; ours is `masklake train` as a user types it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from masklake.model import checkpoint, presets
from masklake.model.flip_pairs import mirrored
from masklake.model.train.learner import Learner
from masklake.model.train.recipe import Recipe
from masklake.model.train.start import freeze
from masklake.pipeline.labels import store as label_store
from masklake.pipeline.labels.sets import LabelSet
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.storage.store import Storage
from masklake.pipeline.train import dataset as training_set
from masklake.pipeline.train import record as training_record
from masklake.pipeline.train.batches import Batches, load_step, truth_of
from masklake.pipeline.train.shuffle import BatchOrder
from PIL import Image
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN

from tests.helpers.paths import SHARED
from tests.helpers.trainings import only

PHOTOS = SHARED / "data" / "coco-sample"
WEIGHTS = SHARED / "weights" / "mobilenet_v2_imagenet_features.pth"
BATCH, STEPS = 4, 6
RATE = 0.02 * BATCH / 16
"""torchvision's reference: 0.02 for 16 images a step."""
WARM_UP = 100


def cli(*args: str) -> str:
    """What `masklake ARGS` prints. Raises CalledProcessError where it fails."""
    run = subprocess.run(
        [sys.executable, "-m", "masklake.jobs.cli", *args], stdout=subprocess.PIPE, text=True, check=True
    )
    return run.stdout


def make_lake(folder: str) -> str:
    """The sample's labels in a lake."""
    lake, files = (
        f"{folder}/lake",
        [str(PHOTOS / f"{name}.json") for name in ("instances", "person_keypoints")],
    )
    cli("labels", "import", *files, lake, "--uri-prefix", f"{PHOTOS}/images/")
    return lake


class Frames(torch.utils.data.Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Photos and targets as torchvision's reference makes them: whole frames, a mask for each instance."""

    def __init__(
        self, labels: training_set.TrainingSet, outputs: dict[str, int], keypoints: tuple[str, ...]
    ) -> None:
        self._labels, self._outputs, self._keypoints = labels, outputs, keypoints
        having = [i for i, image in enumerate(labels.sets(range(len(labels)))) if _persons(image)]
        self._having = having  # torchvision's reference leaves out what has no object

    def __len__(self) -> int:
        return len(self._having)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        from pycocotools import mask as coco_mask

        [image_labels] = self._labels.sets([self._having[index]])
        image = torch.from_numpy(np.asarray(Image.open(image_labels.uri).convert("RGB")).copy()).permute(
            2, 0, 1
        )
        image = image.float() / 255
        height, width = image.shape[-2:]
        truth = truth_of(image_labels, width, height, self._outputs, self._keypoints)
        kept = [
            g
            for g, m in enumerate(truth.masks)
            if m is not None and (truth.boxes[g, 2:] > truth.boxes[g, :2]).all()
        ]
        masks = [torch.from_numpy(coco_mask.decode(truth.masks[g])) for g in kept]
        boxes, keypoints = torch.from_numpy(truth.boxes[kept]), torch.from_numpy(truth.keypoints[kept])
        frames = torch.stack(masks) if masks else torch.zeros(0, height, width, dtype=torch.uint8)
        if torch.rand(()) < 0.5:
            image, frames = image.flip(-1), frames.flip(-1)
            boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
            keypoints = keypoints[:, mirrored(self._keypoints)]
            keypoints[..., 0] = torch.where(
                keypoints[..., 2] > 0, width - keypoints[..., 0], keypoints[..., 0]
            )
        labels = torch.tensor([truth.outputs[g] for g in kept], dtype=torch.int64)
        return image, {"boxes": boxes, "labels": labels, "masks": frames, "keypoints": keypoints}


def _persons(labels: LabelSet) -> bool:
    return any(i.label == "person" and not i.iscrowd and i.mask is not None for i in labels.instances)


def _network(start: str, frozen: list[str]) -> tuple[FasterRCNN, Any]:
    loaded = presets.load_model(start)
    module: Any = loaded.module
    freeze(module, frozen)
    return module.train(), loaded.spec


def _optimizer(network: nn.Module) -> torch.optim.Optimizer:
    trained = [p for p in network.parameters() if p.requires_grad]
    return torch.optim.SGD(trained, lr=RATE, momentum=0.9, weight_decay=1e-4)


def _plain_step(network: FasterRCNN, optimizer: torch.optim.Optimizer, batch: list[Any]) -> None:
    losses = network([image for image, _ in batch], [target for _, target in batch])
    loss = sum(losses.values())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def plain(lake: str, run: str, minutes: float, out: str) -> None:
    """The plain loop: train for so long from the start of `run`, and write the model into `out`."""
    record = training_record.load(lake, run, Storage())
    network, spec = _network(f"{lake}/runs/{run}/start", record.options["frozen"])
    labels = training_set.gather(Lake(lake, Storage()), classes=["person"])
    data = Frames(labels, {"person": 1}, spec.keypoint_names)
    loader = torch.utils.data.DataLoader(
        data, BATCH, shuffle=True, num_workers=1, collate_fn=list, drop_last=True, persistent_workers=True
    )
    optimizer, started, steps = _optimizer(network), time.monotonic(), 0
    while (done := (time.monotonic() - started) / (60 * minutes)) < 1:
        for batch in loader:
            done = (time.monotonic() - started) / (60 * minutes)
            if done >= 1:
                break
            rate = RATE * min(1, (steps + 1) / WARM_UP) * 0.1 ** ((done >= 2 / 3) + (done >= 8 / 9))
            optimizer.param_groups[0]["lr"] = rate
            _plain_step(network, optimizer, batch)
            steps += 1
    checkpoint.save(out, network.eval(), spec)
    print(json.dumps({"steps": steps, "images": steps * BATCH}))


def step_alone(lake: str, run: str) -> None:
    """Both steps on the same photos, in turn; seconds a step, and their ratio."""
    record = training_record.load(lake, run, Storage())
    start, frozen = f"{lake}/runs/{run}/start", record.options["frozen"]
    theirs, spec = _network(start, frozen)
    optimizer = _optimizer(theirs)
    recipe = replace(Recipe.from_dict(record.options["recipe"]), flip=0.0, jitter=(1.0, 1.0), colour=0.0)
    sides = {
        "bfloat16": Learner(_network(start, frozen)[0], recipe, torch.device("cpu")),
        "float32": Learner(
            _network(start, frozen)[0], replace(recipe, precision="float32"), torch.device("cpu")
        ),
        "the same RoIs": Learner(
            _network(start, frozen)[0], replace(recipe, rois=512, proposals=2000), torch.device("cpu")
        ),
    }
    labels = training_set.gather(Lake(lake, Storage()), classes=["person"])
    data = Frames(labels, {"person": 1}, spec.keypoint_names)
    order = BatchOrder(len(data), BATCH, 1, labels.wide[data._having])
    batches = Batches(
        order=BatchOrder(len(labels), BATCH, 1, labels.wide),
        recipe=recipe,
        preprocessing=spec.preprocessing,
        outputs={"person": 1},
        keypoint_names=spec.keypoint_names,
        mirror=spec.mirror,
        storage=Storage(),
    )
    from masklake.model.train.examples import unpack

    class Same:
        """The photos of the plain side's batch, for ours."""

        def share(self, step: int, worker: int, workers: int) -> Any:
            return np.array([data._having[index] for index in order.of_step(step)])

    ours = replace(batches, order=Same())  # type: ignore[arg-type]  # all that load_step asks of an order
    seconds: dict[str, list[float]] = {"torchvision": [], **{name: [] for name in sides}}
    for step in range(STEPS + 2):
        frames = [data[index] for index in order.of_step(step)]
        examples = unpack(load_step(ours, labels, step, worker=0, workers=1)["examples"])
        start = time.perf_counter()
        _plain_step(theirs, optimizer, frames)
        seconds["torchvision"].append(time.perf_counter() - start)
        for name, learner in sides.items():
            start = time.perf_counter()
            learner.step(examples, step, 0.0)
            seconds[name].append(time.perf_counter() - start)
    # torchvision takes 512 RoIs of 2,000 proposals an image, where our recipe takes 128 of 500.
    print(
        f"\nthe step, {BATCH} photos at {spec.preprocessing.min_size} px, {torch.get_num_threads()} threads: wall seconds"
    )
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(seconds["torchvision"][2:], times[2:], strict=True)]
        print(f"  {name:14} {statistics.median(times[2:]):.3f}   {statistics.median(ratios):.2f} ×")


def _figures(lake: str, model: str) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(cli("eval", lake, "--model", model, "--format", "json"))["figures"]
    return figures


def main(minutes: list[float] | None = None, size: int = 320) -> None:
    if not WEIGHTS.is_file() or not PHOTOS.is_dir():
        print("skipped: the COCO sample or the backbone's weights are not on this machine")
        return
    with tempfile.TemporaryDirectory() as folder:
        lake = make_lake(folder)
        images = label_store.newest(Lake(lake, Storage()))
        print(f"{sum(image.split == 'train' for image in images)} photos to train on, the others to measure")
        for length in minutes or [3.0, 8.0]:
            cli(
                "train", lake, "--backbone", "mobilenet_v2", "--backbone-weights", str(WEIGHTS), "--classes", "person",
                "--min-size", str(size), "--batch-size", str(BATCH), "--minutes", str(length), "--name", "person",
                "--checkpoint-minutes", "60",
            )  # fmt: skip
            record = only(lake)
            out = f"{folder}/plain-{length:g}"
            run = subprocess.run(
                [sys.executable, "-m", "tests.bench.train", "plain", lake, record.run, str(length), out],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            report = json.loads(run.stdout.splitlines()[-1])
            print(
                f"\n{length:g} minutes      images    box AP / AP50    mask AP / AP50    keypoint AP / AP50"
            )
            for name, n_images, figures in (
                ("torchvision", report["images"], _figures(lake, out)),
                ("masklake", record.position["images"], record.figures),
            ):
                stats = "    ".join(
                    f"{figures[k]['AP']:.3f} / {figures[k]['AP50']:.3f}" for k in ("box", "mask", "keypoints")
                )
                print(f"  {name:12} {n_images:7,}    {stats}", flush=True)
        step_alone(lake, record.run)


if __name__ == "__main__":
    if sys.argv[1:2] == ["plain"]:
        plain(sys.argv[2], sys.argv[3], float(sys.argv[4]), sys.argv[5])
    else:
        parser = argparse.ArgumentParser(
            description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        parser.add_argument(
            "--minutes", type=lambda text: [float(part) for part in text.split(",")], default=[3.0, 8.0]
        )
        parser.add_argument("--size", type=int, default=320)
        args = parser.parse_args()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        main(args.minutes, args.size)
