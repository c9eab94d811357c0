"""The batches of a training, streamed by Ray Data: from labels and images to packed examples, step by step, in order.

Each worker of a training streams its own part of every batch. Ray tasks fetch, decode and augment
the images, while the worker learns from examples that are ready.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from masklake.model.decode import DecodeOptions, UndecodableError, decode
from masklake.pipeline.segment.source import datasource
from masklake.pipeline.storage.store import Storage, redact
from masklake.pipeline.streams.context import packet_context
from masklake.pipeline.streams.packet import pack, unpack
from masklake.pipeline.train.dataset import TrainingSet
from masklake.pipeline.train.shuffle import BatchOrder

if TYPE_CHECKING:
    from masklake.model.spec import Preprocessing
    from masklake.model.train.augment import Augment, ImageLabels
    from masklake.model.train.examples import Example
    from masklake.model.train.recipe import Recipe
    from masklake.pipeline.labels.sets import LabelSet

_IMAGES_A_TASK, _BYTES_A_TASK = 32, 32 * 2**20
"""What a task makes at most. Ray Data lets few tasks begin where their results are large beside `_AHEAD_BYTES`: with 80 MB a task, loaders
of 800 px made one image a second."""
_STEPS_AHEAD = 16
_LOOK_AGAIN_S = 0.1
_AHEAD_BYTES = 256 * 2**20
"""Bytes of the object store that a worker's batches may take before the worker has learnt from them."""

_SKIPPED = pa.list_(pa.struct([("uri", pa.string()), ("reason", pa.string())]))
BATCH = pa.schema([("step", pa.int64()), ("examples", pa.large_binary()), ("skipped", _SKIPPED)])


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Everything that decides the batches of a training. `outputs`: the box head's output of each class that is learnt.
    `mirror`: the model spec's, which says how keypoints change places; None where images are not mirrored."""

    order: BatchOrder
    recipe: Recipe
    preprocessing: Preprocessing
    outputs: dict[str, int]
    keypoint_names: tuple[str, ...]
    mirror: list[int] | None
    storage: Storage
    max_pixels: int = 128_000_000
    max_bytes: int = 512_000_000


@dataclass(frozen=True, kw_only=True)
class StepBatch:
    """One worker's part of the batch of a step. `skipped`: (uri, reason) of images that could not be read."""

    step: int
    examples: list[Example]
    skipped: list[tuple[str, str]]


def stream(
    batches: Batches,
    truth: Any,
    board: Any,
    first: int,
    *,
    worker: int,
    workers: int,
    loader_cpus: float,
    loaders: int,
) -> Iterator[StepBatch]:
    """The batches of steps `first`, `first` + 1, …, without end. `truth`: an object reference to the TrainingSet;
    `board`: the training's Board, which keeps loaders from making examples long before they are needed.

    loaders: actors that make examples, each asking Ray for `loader_cpus`.
    """
    from masklake.model.train.examples import unpack as unpack_examples
    from ray.data import ActorPoolStrategy, read_datasource

    context = packet_context()
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = context.execution_options.resource_limits.copy(
        object_store_memory=_AHEAD_BYTES
    )
    ours = max(1, batches.order.batch // workers)
    largest = (
        3 * batches.recipe.jitter[1] ** 2 * batches.preprocessing.min_size * batches.preprocessing.max_size
    )
    at_once = max(1, min(_IMAGES_A_TASK, int(_BYTES_A_TASK / largest)) // ours)
    ahead = max(_STEPS_AHEAD, 3 * at_once * loaders)

    def read() -> Iterator[pa.Table]:
        import ray

        for step in itertools.count(first, at_once):
            while step - max(first, ray.get(board.step.remote())) > ahead:
                time.sleep(_LOOK_AGAIN_S)
            yield pack(pa.table({"step": np.arange(step, step + at_once)}))

    ds = read_datasource(datasource(read), override_num_blocks=1, num_cpus=0.01)
    # Actors, not tasks: Ray ends a task's process after a second without work, and the next one would import torch again.
    ds = ds.map_batches(
        _Loader,
        fn_constructor_args=(batches, truth, worker, workers),
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=loader_cpus,
        compute=ActorPoolStrategy(size=loaders),
    )
    for packet in ds.iter_batches(batch_size=None, batch_format="pyarrow"):
        for row in unpack(packet).to_pylist():
            yield StepBatch(
                step=row["step"],
                examples=unpack_examples(row["examples"]),
                skipped=[(skipped["uri"], skipped["reason"]) for skipped in row["skipped"]],
            )


class _Loader:
    """Makes the rows of steps. Ray Data calls it."""

    def __init__(self, batches: Batches, truth: Any, worker: int, workers: int) -> None:
        import ray
        import torch

        torch.set_num_threads(1)
        self._batches, self._worker, self._workers = batches, worker, workers
        self._labels: TrainingSet = ray.get(truth)

    def __call__(self, packet: pa.Table) -> pa.Table:
        rows = [
            load_step(self._batches, self._labels, step, worker=self._worker, workers=self._workers)
            for step in unpack(packet)["step"].to_pylist()
        ]
        return pack(pa.Table.from_pylist(rows, BATCH))


def load_step(
    batches: Batches, labels: TrainingSet, step: int, *, worker: int, workers: int
) -> dict[str, Any]:
    """A row of BATCH: the examples of one step and worker."""
    from masklake.model.train.augment import Augment
    from masklake.model.train.examples import pack as pack_examples

    positions = batches.order.share(step, worker, workers)
    sets = labels.sets(positions)
    augment = Augment(batches.recipe, batches.preprocessing, batches.mirror)
    scale = batches.recipe.jitter[1]
    options = DecodeOptions(
        max_pixels=batches.max_pixels,
        target=(
            round(scale * batches.preprocessing.min_size),
            round(scale * batches.preprocessing.max_size),
        ),
    )
    examples: list[Example] = []
    skipped = []
    fetched_images = batches.storage.get_many([label_set.uri for label_set in sets], batches.max_bytes)
    for position, label_set, fetched in zip(positions.tolist(), sets, fetched_images, strict=True):
        seed = int(np.random.SeedSequence([batches.recipe.seed, step, position]).generate_state(1)[0])
        outcome = _example(label_set, fetched, batches, options, augment, seed)
        if isinstance(outcome, str):
            skipped.append({"uri": label_set.uri, "reason": redact(outcome)})
        else:
            examples.append(outcome)
    return {"step": step, "examples": pack_examples(examples), "skipped": skipped}


def _example(
    labels: LabelSet, fetched: Any, batches: Batches, options: DecodeOptions, augment: Augment, seed: int
) -> Example | str:
    """The example, or a text that says why there is none."""
    if isinstance(fetched, FileNotFoundError):
        return "gone since it was labelled"
    if isinstance(fetched, Exception):
        return f"could not be read: {type(fetched).__name__}: {fetched}"
    try:
        pixels, (width, height) = decode(fetched.data, options)
    except UndecodableError as error:
        return f"cannot be decoded: {error}"
    labelled_size = (labels.width or width, labels.height or height)
    if labelled_size != (width, height):
        return f"is {width}×{height} now, and was {labelled_size[0]}×{labelled_size[1]} when it was labelled"
    return augment(pixels, truth_of(labels, width, height, batches.outputs, batches.keypoint_names), seed)


def truth_of(
    labels: LabelSet, width: int, height: int, outputs: dict[str, int], keypoint_names: tuple[str, ...]
) -> ImageLabels:
    """The truth for the classes in `outputs`; instances and crowds of others are left out, and are background."""
    from masklake.model.train.augment import ImageLabels

    learnt = [instance for instance in labels.instances if instance.label in outputs]
    known = [instance for instance in learnt if not (instance.iscrowd or instance.ignore)]
    columns = {name: i for i, name in enumerate(keypoint_names)}
    keypoints_GK3 = np.zeros((len(known), len(keypoint_names), 3), np.float32)
    for row, instance in zip(keypoints_GK3, known, strict=True):
        for keypoint in instance.keypoints:
            if keypoint.visibility and keypoint.name in columns:
                row[columns[keypoint.name]] = keypoint.x, keypoint.y, keypoint.visibility
    return ImageLabels(
        width=width,
        height=height,
        boxes=_xyxy([instance.box for instance in known]),
        outputs=[outputs[instance.label] for instance in known],
        masks=[
            instance.mask.as_coco() if instance.mask is not None and instance.mask.area else None
            for instance in known
        ],
        keypoints=keypoints_GK3,
        crowds=_xyxy([instance.box for instance in learnt if instance.iscrowd or instance.ignore]),
        unsearched=sorted(outputs[name] for name in _unsearched(labels, outputs.keys())),
    )


def _unsearched(labels: LabelSet, classes: Collection[str]) -> set[str]:
    """The classes, among `classes`, whose objects in the image may be unlabelled."""
    if labels.absent is None:
        return set(classes).intersection(labels.not_exhaustive)
    searched = {instance.label for instance in labels.instances}.union(labels.absent)
    return set(classes) - (searched - set(labels.not_exhaustive))


def _xyxy(boxes: list[tuple[float, float, float, float]]) -> np.ndarray:
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    return corners
