"""What a training starts from: a network for the classes and keypoints of the labels, with the weights that fit it.

A model that is trained further keeps its weights. Classes and keypoints that it knows already keep theirs too, whatever
their order; new ones start from nothing. Batch norm of pretrained weights is frozen: its statistics come from more
images than a training's batches have (He et al. 2017, section 3.1). A backbone from nothing has group norm (Wu & He 2018).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masklake.model import checkpoint
from masklake.model.checkpoint import LoadedModel
from masklake.model.errors import ModelError, first_line
from masklake.model.networks.config import BACKBONE_LAYERS, TINY, Composed, Network, parse
from masklake.model.spec import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

BACKBONES = tuple(name.removesuffix("-fpn") for name in BACKBONE_LAYERS)

_FAMILIES = {
    (False, False): "faster_rcnn",
    (True, False): "mask_rcnn",
    (False, True): "keypoint_rcnn",
    (True, True): "joint",
}
_BY_CLASS = {
    "roi_heads.box_predictor.cls_score": 1,
    "roi_heads.box_predictor.bbox_pred": 4,
    "roi_heads.mask_predictor.mask_fcn_logits": 1,
}
"""Layers with an output, or so many, for each class."""

_BY_KEYPOINT = "roi_heads.keypoint_predictor.kps_score_lowres"


@dataclass(frozen=True, kw_only=True)
class Start:
    """A network to train. `fresh`: what of it starts from nothing, in words. `frozen`: parameters of the `trained_part`, by
    the beginnings of their names, that are not trained. `notes`: what becomes of what nobody labelled, in words."""

    spec: ModelSpec
    module: nn.Module
    fresh: tuple[str, ...]
    frozen: tuple[str, ...]
    notes: tuple[str, ...] = ()


def new_network(backbone: str, *, masks: bool, keypoints: bool, pretrained: bool) -> Network:
    """The network on a backbone of `BACKBONES`. Raises ModelError for another."""
    if backbone not in BACKBONES:
        raise ModelError(f"--backbone {backbone}: unknown; known: {', '.join(BACKBONES)}")
    family = _FAMILIES[masks, keypoints]
    if backbone == "tiny":
        return Network(family=family, **TINY)
    return Network(
        family=family, backbone=f"{backbone}-fpn", backbone_norm="frozen" if pretrained else "group"
    )


def from_backbone(spec: ModelSpec, weights: str | os.PathLike[str] | None) -> Start:
    """`spec`'s network with a pretrained backbone (an ImageNet classifier's weights, its classifier left out), or from
    nothing. Raises ModelError when the file is none, or of another backbone."""
    from masklake.model.networks.build import build

    module = build(spec)
    network = parse(spec.architecture)
    assert isinstance(network, Network)  # noqa: S101  # `new_network` makes no other
    if weights is None:
        return Start(spec=spec, module=module, fresh=("everything",), frozen=())
    _fill_body(module, _backbone_tensors(Path(weights)), Path(weights))
    return Start(
        spec=spec,
        module=module,
        fresh=("everything but the backbone",),
        frozen=_first_layers(network, module),
    )


def from_model(loaded: LoadedModel, spec: ModelSpec, *, masks: bool, keypoints: bool) -> Start:
    """A network for the classes and keypoints of `spec` that starts as the model `loaded`.

    masks, keypoints: whether there are labels of them. A head without labels keeps its weights, untrained. Of a composed model
    whose keypoints nobody labelled the detector is trained, and its second network stays beside it. The architecture and
    preprocessing of `spec` are not used: the model's are kept. Raises ModelError where the network cannot be built.
    """
    from masklake.model.networks.build import build

    network, tensors, old = _as_one(loaded, keypoints)
    second = None if keypoints else _second_network(loaded)
    people = any(info.keypoints for info in spec.classes)
    network = replace(network, family=_FAMILIES[network.masks or masks, network.keypoints or keypoints])
    network = replace(network, class_index="position")
    if network.backbone != "tiny":
        frozen_norms: dict[str, Any] = {
            part: "frozen"
            for part in ("backbone_norm", "fpn_norm", "head_norm")
            if getattr(network, part) == "batch"
        }
        network = replace(network, **frozen_norms)
    names = spec.keypoint_names or (old.keypoint_names if network.keypoints else ())
    spec = replace(
        spec,
        architecture=network.to_dict(),
        keypoint_names=names,
        skeleton=old.skeleton if names == old.keypoint_names else (),
        flip_pairs=_flip_pairs(spec, old, names),
        preprocessing=old.preprocessing,
    )
    module = build(spec)
    fresh = _fill(module, tensors, old, spec, _outputs(loaded))
    frozen = [] if network.backbone == "tiny" else list(_first_layers(network, module))
    notes = []
    for head, used, labelled in (("mask", network.masks, masks), ("keypoint", network.keypoints, keypoints)):
        if used and not labelled:
            frozen += [f"roi_heads.{head}_head.", f"roi_heads.{head}_predictor."]
            notes.append(f"no {head}s are labelled: their head stays as it is, on a backbone that changes")
    if second and people:
        spec, module = _composed(spec, network, module, second)
        notes.append(
            "no keypoints are labelled: the network that places them stays as it is, beside the trained one"
        )
    elif second:
        notes.append("the model's keypoints are given up: it has them for no class that is labelled")
    return Start(spec=spec, module=module, fresh=tuple(fresh), frozen=tuple(frozen), notes=tuple(notes))


def trained_part(module: nn.Module) -> nn.Module:
    """The one R-CNN of a start that is trained: of a composed one the detector."""
    from masklake.model.networks.composed import ComposedRCNN

    return module.detector if isinstance(module, ComposedRCNN) else module


def _second_network(loaded: LoadedModel) -> tuple[Network, nn.Module] | None:
    """What places the keypoints of a composed model; None for a model that is one network."""
    network = parse(loaded.spec.architecture)
    both: Any = loaded.module
    return (network.joints, both.joints) if isinstance(network, Composed) else None


def _composed(
    spec: ModelSpec, detector: Network, module: nn.Module, second: tuple[Network, nn.Module]
) -> tuple[ModelSpec, nn.Module]:
    import torch
    from masklake.model.networks.build import build

    spec = replace(spec, architecture=Composed(detector=detector, joints=second[0]).to_dict())
    with torch.device("meta"):  # both its parts are there
        both: Any = build(spec)
    both.detector, both.joints = module, second[1]
    return spec, both


def _flip_pairs(
    spec: ModelSpec, old: ModelSpec, names: tuple[str, ...]
) -> tuple[tuple[int, int], ...] | None:
    """Those of `spec`, else those of the model that it starts as, if its keypoints are the same."""
    if spec.flip_pairs is not None or names != old.keypoint_names:
        return spec.flip_pairs
    return old.flip_pairs


def freeze(module: nn.Module, frozen: Sequence[str]) -> None:
    """Train no parameter whose name begins with one of `frozen`."""
    for name, parameter in module.named_parameters():
        if name.startswith(tuple(frozen)) and frozen:
            parameter.requires_grad_(False)


def _as_one(loaded: LoadedModel, keypoints: bool) -> tuple[Network, dict[str, Tensor], ModelSpec]:
    """The model as one network: of a composed one the detector, which gets the other's keypoint head if `keypoints`."""
    network = parse(loaded.spec.architecture)
    if isinstance(network, Network):
        return network, dict(loaded.module.state_dict()), loaded.spec
    detector: Any = loaded.module
    tensors = dict(detector.detector.state_dict())
    whole = network.detector
    if keypoints:
        whole = replace(
            whole,
            family=_FAMILIES[whole.masks, True],
            keypoint_levels=network.joints.keypoint_levels,
            keypoint_resolution=network.joints.keypoint_resolution,
            keypoint_head_layers=network.joints.keypoint_head_layers,
        )
        tensors |= {
            k: t for k, t in detector.joints.state_dict().items() if k.startswith("roi_heads.keypoint")
        }
    return whole, tensors, loaded.spec


def _outputs(loaded: LoadedModel) -> dict[str, int]:
    """The box head's output of each class of the model, by name."""
    from masklake.model.networks.rcnn import output_labels

    network = parse(loaded.spec.architecture)
    network = network.detector if isinstance(network, Composed) else network
    names = {info.id: info.name for info in loaded.spec.classes}
    return {
        names[id_]: output
        for output, id_ in enumerate(output_labels(network, loaded.spec))
        if id_ is not None
    }


def _fill(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    old: ModelSpec,
    new: ModelSpec,
    outputs: Mapping[str, int],
) -> list[str]:
    """Put the weights that fit into `module`; returns, in words, the parts for which there are none."""
    state = module.state_dict()
    # (output in the new network, in the old one): background, and the classes that both know
    classes = [(0, 0)] + [
        (output, outputs[info.name])
        for output, info in enumerate(new.classes, start=1)
        if info.name in outputs
    ]
    places = {name: i for i, name in enumerate(old.keypoint_names)}
    keypoint_pairs = [(i, places[name]) for i, name in enumerate(new.keypoint_names) if name in places]
    missing = set()
    for key, into in state.items():
        layer = key.rpartition(".")[0]
        source = tensors.get(key)
        if source is None:
            missing.add(layer.split(".")[1] if layer.startswith("roi_heads.") else layer.split(".")[0])
        elif layer in _BY_CLASS:
            n = _BY_CLASS[layer]
            for a, b in classes:
                into[n * a : n * a + n] = source[n * b : n * b + n].to(into.dtype)
        elif layer == _BY_KEYPOINT:
            # a transposed convolution's weight is (in, out, k, k)
            for a, b in keypoint_pairs:
                if into.ndim == 4:
                    into[:, a] = source[:, b]
                else:
                    into[a] = source[b]
        elif source.shape == into.shape:
            into.copy_(source)
        else:
            missing.add(layer)
    known = {info.name for info in old.classes}
    fresh = [f"class {info.name}" for info in new.classes if info.name not in known]
    fresh += [f"keypoint {name}" for name in new.keypoint_names if name not in places] if places else []
    return fresh + sorted(missing)


def _first_layers(network: Network, module: nn.Module) -> tuple[str, ...]:
    """The layers of a pretrained backbone up to the first that enters the pyramid: edges and blobs look alike
    everywhere (torchvision's default of three trainable layers does the same for ResNets)."""
    body: Any = module.backbone.body  # type: ignore[union-attr]  # every backbone but the tiny one has a body
    names = list(dict(body.named_children()))
    return tuple(f"backbone.body.{name}." for name in names[: names.index(network.backbone_layers[0]) + 1])


def _backbone_tensors(path: Path) -> dict[str, Tensor]:
    import pickle

    import torch

    if path.suffix == ".safetensors":
        return checkpoint.read_tensors(path)
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError as err:
        raise ModelError(f"--backbone-weights {path}: no such file") from err
    except (pickle.UnpicklingError, EOFError, OSError, RuntimeError, TypeError, ValueError) as err:
        raise ModelError(
            f"--backbone-weights {path}: damaged, or more than weights ({first_line(err)})"
        ) from err


def _fill_body(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    import torch

    body: Any = module.backbone.body  # type: ignore[union-attr]  # as above
    named = {key.removeprefix("features."): tensor for key, tensor in tensors.items()}
    for key, into in body.state_dict().items():
        source = named.get(key)
        if not isinstance(source, torch.Tensor) or source.shape != into.shape:
            has = f"has it as {tuple(source.shape)}" if isinstance(source, torch.Tensor) else "lacks it"
            raise ModelError(
                f"--backbone-weights {path}: the backbone wants {key} as {tuple(into.shape)}, and the file {has}; "
                "it is another backbone's"
            )
        checkpoint.require_floats(f"--backbone-weights {path}", {key: into}, {key: source})
        if not source.isfinite().all():
            raise ModelError(
                f"--backbone-weights {path}: {key} has values that are not finite; download it again"
            )
        into.copy_(source)
