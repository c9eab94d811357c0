"""From the options of a training to the network that it starts from, and from the lake to the network in a worker."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masklake.jobs.models import resolve as models
from masklake.jobs.terminal.suggestions import did_you_mean
from masklake.jobs.train.options import TrainOptions
from masklake.model.flip_pairs import parse as parse_pairs
from masklake.model.flip_pairs import propose
from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.registry import Registry
from masklake.pipeline.storage.explain import explaining
from masklake.pipeline.storage.files import at_home
from masklake.pipeline.storage.store import Storage, join

if TYPE_CHECKING:
    from masklake.model.spec import ModelSpec
    from masklake.model.train.start import Start
    from masklake.pipeline.train.dataset import TrainingSet
    from torchvision.models.detection import FasterRCNN


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a training's first weights come from: a model, or a backbone with or without weights."""

    model: models.Resolved | None
    backbone: str | None = None
    weights: str | None = None

    @property
    def name(self) -> str:
        """The model's name, for the result; "model" where there is none of the user's own."""
        if self.model is None or self.model.requested is None:
            return "model"
        return self.model.spec.name

    def describe(self) -> str:
        if self.model is not None:
            return f"{self.model.spec.name}@{self.model.fingerprint}"
        return f"{self.backbone}{f' of {Path(self.weights).name}' if self.weights else ' from nothing'}"


def origin(options: TrainOptions, lake: str, storage: Storage) -> Origin:
    """What the options name. Raises UserError or ModelError when there is no such model or backbone."""
    from masklake.model.train.start import BACKBONES

    if options.backbone:
        if options.backbone not in BACKBONES:
            raise UserError(
                f"--backbone {options.backbone}: unknown; known: {', '.join(BACKBONES)}{did_you_mean(options.backbone, BACKBONES)}"
            )
        if options.backbone_weights and options.backbone == "tiny":
            raise UserError("--backbone tiny: there are no weights for it but those of --model demo")
        if options.backbone_weights and not at_home(options.backbone_weights).is_file():
            raise UserError(f"--backbone-weights {options.backbone_weights}: no such file")
        return Origin(model=None, backbone=options.backbone, weights=options.backbone_weights)
    name = options.model
    if name is None:
        registry, alias = Registry(lake, storage), options.alias
        names = {version.name for version in registry.versions()}
        having = [name for name in sorted(names) if registry.aliases(name).version(alias)]
        if len(having) > 1:
            raise UserError(
                f"{lake}: {len(having)} models have an alias {alias!r}; say by --model which is trained further: "
                + ", ".join(f"{name}:{alias}" for name in having)
            )
        name = alias if having else "coco"
    return Origin(model=models.resolve(name, storage, options.weights_dir, lake=lake))


def build(
    from_: Origin,
    labels: TrainingSet,
    name: str,
    size: tuple[int, int] | None,
    seed: int,
    flip_pairs: str | None = None,
) -> Start:
    """The network for these labels. `flip_pairs` is the option's text; without it they are those of the model it starts
    from, or those that the names tell.

    Raises ModelError when the weights cannot be had or do not fit, and for pairs of keypoints that there are not.
    """
    start = _build(from_, labels, name, size, seed)
    names = start.spec.keypoint_names
    if flip_pairs is not None:
        pairs: tuple[tuple[int, int], ...] | None = parse_pairs(flip_pairs, names)
    elif start.spec.flip_pairs is not None or not names:
        return start
    else:
        proposed = propose(names)
        pairs = proposed.pairs if proposed.usable else None
    return replace(start, spec=replace(start.spec, flip_pairs=pairs))


def _build(from_: Origin, labels: TrainingSet, name: str, size: tuple[int, int] | None, seed: int) -> Start:
    import torch
    from masklake.model import presets
    from masklake.model.coco import KEYPOINT_NAMES, SKELETON
    from masklake.model.networks.config import parse
    from masklake.model.spec import ClassInfo, ModelSpec, Preprocessing
    from masklake.model.train.start import from_backbone, from_model, new_network

    torch.manual_seed(seed)
    masks, keypoints = labels.masks > 0, bool(labels.keypoint_names)
    classes = [
        ClassInfo(labels.ids[c], c, c in labels.with_keypoints)
        for c in sorted(labels.counts, key=lambda c: labels.ids[c])
    ]
    skeleton = SKELETON if labels.keypoint_names == KEYPOINT_NAMES else ()
    sized = None if size is None else Preprocessing(min_size=size[0], max_size=size[1])
    if from_.model is None:
        assert from_.backbone is not None  # noqa: S101  # an origin has one or the other
        network = new_network(
            from_.backbone, masks=masks, keypoints=keypoints, pretrained=from_.weights is not None
        )
        spec = ModelSpec(
            name=name,
            architecture=network.to_dict(),
            classes=tuple(classes),
            keypoint_names=labels.keypoint_names,
            skeleton=skeleton,
            preprocessing=sized
            or (Preprocessing(min_size=256, max_size=448) if from_.backbone == "tiny" else Preprocessing()),
        )
        return from_backbone(spec, from_.weights)
    loaded = presets.load_model(from_.model.source.local(), weights_dir=from_.model.source.weights_dir)
    old = loaded.spec
    names = (
        old.keypoint_names
        if keypoints and set(labels.keypoint_names) <= set(old.keypoint_names)
        else labels.keypoint_names
    )
    keeps_keypoints = not keypoints and parse(old.architecture).keypoints
    known = {info.name: info for info in old.classes}
    if keeps_keypoints:  # no keypoints are labelled: the model keeps those that it has
        names = old.keypoint_names
        classes = [replace(c, keypoints=c.name in known and known[c.name].keypoints) for c in classes]
    spec = ModelSpec(
        name=name,
        architecture=old.architecture,
        classes=tuple(classes),
        keypoint_names=names,
        skeleton=skeleton,
        preprocessing=old.preprocessing,
    )
    start = from_model(loaded, spec, masks=masks, keypoints=keypoints)
    return start if sized is None else replace(start, spec=replace(start.spec, preprocessing=sized))


def keep(start: Start, folder: str, storage: Storage) -> None:
    """Write the start into the run's folder, from where every worker takes it."""
    put(start.module, start.spec, folder, storage)


def put(module: Any, spec: ModelSpec, folder: str, storage: Storage, *, half: bool = False) -> None:
    """Write a model into a folder of any storage. Raises UserError when it cannot be written."""
    from masklake.model import checkpoint

    with tempfile.TemporaryDirectory() as local:
        checkpoint.save(local, module, spec, half=half)
        for name in (checkpoint.WEIGHTS, checkpoint.SPEC):
            uri = join(folder, name)
            with explaining(uri, "write the model"):
                storage.write(uri, (Path(local) / name).read_bytes())


@dataclass(frozen=True, kw_only=True)
class NetworkFactory:
    """Makes the network inside a worker. Picklable; carries no weights."""

    source: models.ModelSource
    frozen: tuple[str, ...]

    def __call__(self) -> FasterRCNN:
        from masklake.model import presets
        from masklake.model.train.start import freeze, trained_part

        module: Any = trained_part(presets.load_model(self.source.local()).module)
        freeze(module, self.frozen)
        return module
