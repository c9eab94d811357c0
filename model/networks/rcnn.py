"""One R-CNN, built from torchvision's parts as `model.json` describes it.

Mask R-CNN: He et al. 2017. State-dict keys are torchvision's: weights published for its builders load
strictly into the same network built here. `model.networks.config` says which keys make which network.
"""

import copy
from collections.abc import Callable
from functools import partial

import torch
from masklake.model.errors import ModelError
from masklake.model.networks.config import Network
from masklake.model.spec import ModelSpec
from torch import nn
from torchvision.models import mobilenet, resnet
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

GROUPS = 8
"""Channel groups of group norm (Wu & He 2018 use 32 for 256 channels; the tiny model has few channels)."""

_PROBE = 128  # pixels a side; a multiple of every backbone's largest stride


def build_network(network: Network, spec: ModelSpec) -> FasterRCNN:
    """The one R-CNN that `network` describes, with the classes, keypoints and preprocessing of `spec`."""
    backbone = _backbone(network)
    strides = _strides(backbone)
    if len(network.anchor_sizes) != len(strides):
        raise ModelError(
            f"architecture: {len(network.anchor_sizes)} levels in anchor_sizes, {len(strides)} in the pyramid"
        )
    pool = partial(_roi_pool, strides, network)
    with torch.device("cpu"):  # anchors are no parameters: loading weights would not bring them off "meta"
        anchors = AnchorGenerator(network.anchor_sizes, (network.aspect_ratios,) * len(network.anchor_sizes))
    channels = network.fpn_channels
    outputs = class_outputs(network, spec)
    model = FasterRCNN(
        backbone,
        min_size=spec.preprocessing.min_size,
        max_size=spec.preprocessing.max_size,
        image_mean=list(spec.preprocessing.mean),
        image_std=list(spec.preprocessing.std),
        rpn_anchor_generator=anchors,
        rpn_head=RPNHead(channels, anchors.num_anchors_per_location()[0], conv_depth=network.rpn_conv_depth),
        rpn_pre_nms_top_n_test=network.rpn_pre_nms_top_n,
        rpn_post_nms_top_n_test=network.rpn_post_nms_top_n,
        rpn_nms_thresh=network.rpn_nms_threshold,
        rpn_score_thresh=network.rpn_score_threshold,
        box_roi_pool=pool(network.box_levels, network.box_resolution),
        box_head=_box_head(network),
        box_predictor=FastRCNNPredictor(network.box_head_width, outputs),
        box_nms_thresh=network.box_nms_threshold,
    )
    heads = model.roi_heads
    if network.masks:
        layers = list(network.mask_head_layers)
        heads.mask_roi_pool = pool(network.mask_levels, network.mask_resolution)
        heads.mask_head = MaskRCNNHeads(channels, layers, 1, norm_layer=_norm(network.head_norm))
        heads.mask_predictor = MaskRCNNPredictor(layers[-1], layers[-1], outputs)
    if network.keypoints:
        if not spec.keypoint_names:
            raise ModelError(f"model {spec.name!r}: the family {network.family!r} needs keypoint_names")
        heads.keypoint_roi_pool = pool(network.keypoint_levels, network.keypoint_resolution)
        heads.keypoint_head = KeypointRCNNHeads(channels, network.keypoint_head_layers)
        heads.keypoint_predictor = KeypointRCNNPredictor(
            network.keypoint_head_layers[-1], len(spec.keypoint_names)
        )
    return model


def output_labels(network: Network, spec: ModelSpec) -> list[int | None]:
    """The class id that each output of the box head stands for; None for background and unused outputs."""
    if network.class_index == "position":
        return [None, *(c.id for c in spec.classes)]
    labels: list[int | None] = [None] * (max(c.id for c in spec.classes) + 1)
    for c in spec.classes:
        labels[c.id] = c.id
    return labels


def class_outputs(network: Network, spec: ModelSpec) -> int:
    """How many outputs the box head has, background included."""
    if network.class_index == "id" and max(c.id for c in spec.classes) > 10_000:
        raise ModelError(f"model {spec.name!r}: class ids above 10000 need class_index 'position'")
    return len(output_labels(network, spec))


def _norm(name: str, eps: float = 1e-5) -> Callable[[int], nn.Module] | None:
    if name == "none":
        return None
    if name == "batch":
        return partial(nn.BatchNorm2d, eps=eps)
    if name == "frozen":
        return partial(FrozenBatchNorm2d, eps=eps)
    return partial(_group_norm, eps=eps)


def _group_norm(channels: int, eps: float) -> nn.GroupNorm:
    return nn.GroupNorm(min(GROUPS, channels), channels, eps=eps)


def _backbone(network: Network) -> nn.Module:
    norm = _norm(network.backbone_norm, network.backbone_norm_eps)
    if network.backbone == "tiny":
        from masklake.model.networks.tiny import TinyFPN  # only the demo model needs it

        return TinyFPN(network.fpn_channels)
    name = network.backbone.removesuffix("-fpn")
    if norm is None:
        raise ModelError(f"architecture: backbone_norm 'none' is not possible with {network.backbone!r}")
    if name.startswith("res"):
        body = getattr(resnet, name)(weights=None, norm_layer=norm)
    else:
        body = getattr(mobilenet, name)(weights=None, norm_layer=norm).features
    children = dict(body.named_children())
    absent = [layer for layer in network.backbone_layers if layer not in children]
    if absent:
        raise ModelError(f"architecture: {network.backbone!r} has no layer {', '.join(absent)}")
    return BackboneWithFPN(
        body,
        {layer: str(level) for level, layer in enumerate(network.backbone_layers)},
        [_out_channels(children[layer]) for layer in network.backbone_layers],
        network.fpn_channels,
        norm_layer=_norm(network.fpn_norm),
    )


def _out_channels(layer: nn.Module) -> int:
    if isinstance(layer, nn.Sequential) and isinstance(layer[-1], resnet.BasicBlock | resnet.Bottleneck):
        last = layer[-1]
        return int((last.conv3 if isinstance(last, resnet.Bottleneck) else last.conv2).out_channels)
    return int(layer.out_channels)  # type: ignore[arg-type]  # torchvision's mobilenet blocks have it as int


def _box_head(network: Network) -> nn.Module:
    shape = (network.fpn_channels, network.box_resolution, network.box_resolution)
    if network.box_head_convs:
        convs, norm = list(network.box_head_convs), _norm(network.head_norm)
        return FastRCNNConvFCHead(shape, convs, [network.box_head_width], norm_layer=norm)
    return TwoMLPHead(shape[0] * shape[1] * shape[2], network.box_head_width)


def _strides(backbone: nn.Module) -> dict[str, int]:
    """Pixels of the input a cell of each pyramid level covers, by level name."""
    # A copy with any weights: on "meta", where nothing would be computed, torch would import its compiler.
    probe = copy.deepcopy(backbone).to_empty(device="cpu").eval()
    with torch.no_grad():
        levels = probe(torch.zeros(1, 3, _PROBE, _PROBE, device="cpu"))
    return {name: _PROBE // feature_NCHW.shape[-1] for name, feature_NCHW in levels.items()}


def _roi_pool(
    strides: dict[str, int], network: Network, levels: tuple[str, ...], resolution: int
) -> MultiScaleRoIAlign:
    absent = [level for level in levels if level not in strides]
    if absent:
        raise ModelError(f"architecture: no pyramid level {', '.join(absent)}; there is {', '.join(strides)}")
    names = [level for level in strides if level in levels]
    pool = MultiScaleRoIAlign(
        names,
        resolution,
        sampling_ratio=2,
        canonical_scale=network.canonical_scale,
        canonical_level=network.canonical_level,
    )
    # torchvision infers the scales from the first image that it sees and keeps them; it errs where that image
    # is a few pixels high.
    pool.scales = [1 / strides[level] for level in names]
    pool.map_levels = LevelMapper(
        strides[names[0]].bit_length() - 1,
        strides[names[-1]].bit_length() - 1,
        canonical_scale=network.canonical_scale,
        canonical_level=network.canonical_level,
    )
    return pool
