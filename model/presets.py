"""Models by name: `demo` (ships with the project), `coco` (published weights); else a checkpoint directory.

Importing this module and describing a model do not import torch: a command line can check names at once.
"""

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from masklake.model import checkpoint, coco
from masklake.model.checkpoint import LoadedModel
from masklake.model.errors import ModelError, first_line
from masklake.model.networks.config import PUBLISHED_V1, V2, Composed, Network
from masklake.model.networks.torchvision_import import import_torchvision
from masklake.model.spec import ClassInfo, ModelSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

PRESETS = ("demo", "coco")

DETECTOR_WEIGHTS = "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth"
KEYPOINTS_WEIGHTS = "keypointrcnn_resnet50_fpn_coco-fc266e95.pth"
"""Names under which torchvision publishes them. The digits are the first of the content's SHA-256."""

_COCO = Composed(
    detector=Network(family="mask_rcnn", backbone="resnet50-fpn", class_index="id", **V2),
    joints=Network(family="keypoint_rcnn", backbone="resnet50-fpn", class_index="id", **PUBLISHED_V1),
)

_DEMO = Path(__file__).parent / "weights" / "demo"

Source = str | os.PathLike[str]


def describe(name_or_dir: Source, *, weights_dir: Source | None = None) -> ModelSpec:
    """The spec of a preset or a checkpoint directory, without its weights and without torch.

    weights_dir: for `coco`, a directory with the two published files (`.pth`, or `.safetensors` of the same
        stem), instead of torchvision's download cache; it is checked that they exist.
    Raises ModelError for an unknown name, and a checkpoint or weights file that is missing or unreadable.
    """
    _check_weights_dir(name_or_dir, weights_dir)
    if name_or_dir == "coco":
        if weights_dir is not None:
            for name in (DETECTOR_WEIGHTS, KEYPOINTS_WEIGHTS):
                _published_file(Path(weights_dir), name)
        return _coco()
    return checkpoint.read_spec(_directory(name_or_dir))


def fingerprint(name_or_dir: Source, *, weights_dir: Source | None = None) -> str:
    """12 hex digits that change when results may change; see `model.checkpoint.fingerprint`. Free of torch.

    For `coco` from the download cache they follow from the published names, which hold the content's hash.
    """
    spec = describe(name_or_dir, weights_dir=weights_dir)
    if name_or_dir != "coco":
        return checkpoint.fingerprint(_directory(name_or_dir))
    hashes = []
    for name in (DETECTOR_WEIGHTS, KEYPOINTS_WEIGHTS):
        published = Path(name).stem.rpartition("-")[2]
        if weights_dir is None:
            hashes.append(published)
        else:
            with _published_file(Path(weights_dir), name).open("rb") as file:
                hashes.append(hashlib.file_digest(file, "sha256").hexdigest()[: len(published)])
    return checkpoint.spec_fingerprint(spec, hashes)


def load_model(name_or_dir: Source, *, weights_dir: Source | None = None) -> LoadedModel:
    """The spec and the network with its weights, in evaluation mode, float32, on the CPU.

    `coco` without `weights_dir` takes its weights from torchvision's download cache, or downloads them.
    Raises ModelError as `describe` does, and for weights that cannot be loaded, or do not fit the network.
    """
    import_torchvision()
    spec = describe(name_or_dir, weights_dir=weights_dir)
    if name_or_dir != "coco":
        return checkpoint.load(_directory(name_or_dir))
    from masklake.model.networks.composed import UNUSED, ComposedRCNN
    from masklake.model.networks.empty import without_weights

    with without_weights():
        module = ComposedRCNN(_COCO, spec)
    for part, name in ((module.detector, DETECTOR_WEIGHTS), (module.joints, KEYPOINTS_WEIGHTS)):
        tensors = _published(name, None if weights_dir is None else Path(weights_dir))
        if part is module.joints:
            tensors = {key: t for key, t in tensors.items() if not key.startswith(UNUSED)}
        _fill(part, tensors, name)
    return LoadedModel(spec, module.eval())


def _coco() -> ModelSpec:
    return ModelSpec(
        name="coco",
        architecture=_COCO.to_dict(),
        classes=tuple(ClassInfo(id_, name, id_ == coco.PERSON_ID) for id_, name in coco.CATEGORIES),
        keypoint_names=coco.KEYPOINT_NAMES,
        skeleton=coco.SKELETON,
        lineage={
            "source": "torchvision",
            "weights": [DETECTOR_WEIGHTS, KEYPOINTS_WEIGHTS],
            "data": "COCO 2017 train",
        },
        # as torchvision publishes them: COCO val2017, in per cent; keypoints in the second network's own boxes
        metrics={"box_ap": 47.4, "mask_ap": 41.8, "keypoint_ap": 65.0},
    )


def _directory(name_or_dir: Source) -> Path:
    if name_or_dir == "demo":
        if not (_DEMO / checkpoint.SPEC).is_file():
            raise ModelError(
                f"model 'demo': its weights are not in this installation ({_DEMO}); install Masklake again"
            )
        return _DEMO
    directory = Path(name_or_dir)
    if not directory.exists() and directory.name == os.fspath(name_or_dir) and not directory.suffix:
        known = ", ".join(PRESETS)
        raise ModelError(
            f"model {name_or_dir!r}: no such model or directory; known: {known}, or a checkpoint directory"
        )
    return directory


def _check_weights_dir(name_or_dir: Source, weights_dir: Source | None) -> None:
    if weights_dir is not None and name_or_dir != "coco":
        raise ModelError(
            f"model {os.fspath(name_or_dir)!r} has its own weights; a weights directory is for 'coco' only"
        )


def _published_file(weights_dir: Path, name: str) -> Path:
    for file in (weights_dir / name, weights_dir / Path(name).with_suffix(".safetensors")):
        if file.is_file():
            return file
    raise ModelError(
        f"model 'coco': {weights_dir} has no {name} (or .safetensors of that name); copy it there"
    )


def _published(name: str, weights_dir: Path | None) -> "dict[str, torch.Tensor]":
    import pickle

    import torch
    from torchvision.models.detection import (
        KeypointRCNN_ResNet50_FPN_Weights,
        MaskRCNN_ResNet50_FPN_V2_Weights,
    )

    if weights_dir is not None:
        file = _published_file(weights_dir, name)
        if file.suffix == ".safetensors":
            return checkpoint.read_tensors(file)
        try:
            return dict(torch.load(file, map_location="cpu", weights_only=True))
        except (pickle.UnpicklingError, EOFError, OSError, RuntimeError, TypeError, ValueError) as err:
            raise ModelError(
                f"{file}: damaged, or more than weights ({first_line(err)}); download it again"
            ) from err
    weights = {
        DETECTOR_WEIGHTS: MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1,
        KEYPOINTS_WEIGHTS: KeypointRCNN_ResNet50_FPN_Weights.COCO_V1,
    }[name]
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        tensors = weights.get_state_dict(
            progress=False, check_hash=True, map_location="cpu", weights_only=True
        )
    except (pickle.UnpicklingError, EOFError, OSError, RuntimeError) as err:  # URLError is an OSError
        raise ModelError(
            f"model 'coco': {name} could not be had from {weights.url} ({first_line(err)}); "
            f"put the file into {cache}, or name a weights directory that has it"
        ) from err
    return dict(tensors)


def _fill(module: "nn.Module", tensors: "dict[str, torch.Tensor]", name: str) -> None:
    """Strictly, but with torchvision's own renaming of the keys of older files."""
    checkpoint.require_floats(name, module.state_dict(), tensors)
    for key, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ModelError(f"{name}: {key} has values that are not finite; download the file again")
    try:
        module.load_state_dict(
            {k: t.float() if t.is_floating_point() else t for k, t in tensors.items()}, assign=True
        )
    except RuntimeError as err:
        raise ModelError(
            f"{name}: not the weights of that name ({first_line(err)}); download the file again"
        ) from err
