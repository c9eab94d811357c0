"""The architecture part of `model.json`: every choice that shapes a network. Free of torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Any

from masklake.model.errors import ModelError

FAMILIES = ("faster_rcnn", "mask_rcnn", "keypoint_rcnn", "joint")
NORMS = ("none", "batch", "frozen", "group")

BACKBONE_LAYERS: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "resnet18-fpn": ("layer1", "layer2", "layer3", "layer4"),
    "resnet50-fpn": ("layer1", "layer2", "layer3", "layer4"),
    "resnet101-fpn": ("layer1", "layer2", "layer3", "layer4"),
    "resnext101_32x8d-fpn": ("layer1", "layer2", "layer3", "layer4"),
    # the last block of each resolution, strides 4, 8, 16 and 32
    "mobilenet_v2-fpn": ("3", "6", "13", "18"),
    "mobilenet_v3_large-fpn": ("3", "6", "12", "16"),
    "tiny": ("1", "2", "3"),  # fixed: model.networks.tiny has one shape
})  # fmt: skip
"""Backbones, and the layers that enter the feature pyramid unless `backbone_layers` says otherwise."""

V2: Mapping[str, Any] = MappingProxyType({
    "fpn_norm": "batch",
    "head_norm": "batch",
    "rpn_conv_depth": 2,
    "box_head_convs": (256, 256, 256, 256),
})  # fmt: skip
"""What torchvision's `maskrcnn_resnet50_fpn_v2` and `fasterrcnn_resnet50_fpn_v2` add (Li et al. 2021)."""

PUBLISHED_V1: Mapping[str, Any] = MappingProxyType({"backbone_norm": "frozen", "backbone_norm_eps": 0.0})
"""How torchvision's first COCO weights were trained: frozen batch norm without an epsilon."""

TINY: Mapping[str, Any] = MappingProxyType({
    "backbone": "tiny",
    "fpn_channels": 64,
    "anchor_sizes": ((20, 32), (48, 72), (110, 165)),
    "rpn_pre_nms_top_n": 300,
    "rpn_post_nms_top_n": 150,
    "canonical_scale": 112,
    "box_head_width": 192,
    "mask_levels": ("0",),
    "mask_head_layers": (48, 48),
    "keypoint_levels": ("0",),
    "keypoint_head_layers": (64, 64, 64),
})  # fmt: skip
"""The demo model: a few MB, for pictures of a few hundred pixels."""

_COUNTS = (
    "fpn_channels", "rpn_conv_depth", "rpn_pre_nms_top_n", "rpn_post_nms_top_n", "box_resolution", "mask_resolution",
    "keypoint_resolution", "canonical_scale", "canonical_level", "box_head_width",
)  # fmt: skip
_COUNT_LISTS = ("box_head_convs", "mask_head_layers", "keypoint_head_layers")
_SHARES = ("backbone_norm_eps", "rpn_nms_threshold", "rpn_score_threshold", "box_nms_threshold")
_LARGEST = 100_000


@dataclass(frozen=True, kw_only=True)
class Network:
    """One R-CNN with a feature pyramid. Defaults are those of torchvision's `MaskRCNN`, `KeypointRCNN`.

    family: which heads there are: `faster_rcnn` boxes; `mask_rcnn` boxes, masks; `keypoint_rcnn` boxes,
        keypoints; `joint` boxes, masks and keypoints on one backbone (Mask R-CNN, table 5).
    backbone: a key of `BACKBONE_LAYERS`; "tiny" is `model.networks.tiny`, a pyramid without a pooled last level.
    class_index: "position": output 0 is background and output i + 1 is the model's i-th class; "id": output k
        is the class with id k, as in torchvision's COCO weights (91 outputs for 80 classes).
    backbone_layers: layers that enter the pyramid, by name in the backbone.
    backbone_norm, fpn_norm, head_norm: "none", "batch", "frozen" (batch norm with fixed statistics), "group".
    anchor_sizes: a tuple for each pyramid level, the pooled last one included; pixels of the resized image.
    aspect_ratios: height / width, the same at all levels.
    box_levels, mask_levels, keypoint_levels: pyramid levels, named "0", "1", …, that RoIs are pooled from;
        all but the pooled last one unless given.
    box_resolution, mask_resolution, keypoint_resolution: cells a side of the RoI grid that enters the head;
        masks come out twice as fine, heat maps of keypoints four times.
    canonical_scale, canonical_level: eq. 1 of the FPN paper: an RoI of this side (pixels) goes to this level.
    box_head_convs, box_head_width: channels of 3 x 3 convolutions, then one linear layer; without
        convolutions two linear layers.
    mask_head_layers, keypoint_head_layers: channels of the 3 x 3 convolutions.
    rpn_*, box_nms_threshold: proposals kept before and after NMS, and the thresholds, at inference.

    Raises ModelError for choices that are not known, and values of which no network can be made.
    """

    family: str
    backbone: str
    class_index: str = "position"
    backbone_layers: tuple[str, ...] = ()
    backbone_norm: str = "batch"
    backbone_norm_eps: float = 1e-5
    fpn_channels: int = 256
    fpn_norm: str = "none"
    head_norm: str = "none"
    anchor_sizes: tuple[tuple[int, ...], ...] = ((32,), (64,), (128,), (256,), (512,))
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    rpn_conv_depth: int = 1
    rpn_pre_nms_top_n: int = 1000
    rpn_post_nms_top_n: int = 1000
    rpn_nms_threshold: float = 0.7
    rpn_score_threshold: float = 0.0
    box_levels: tuple[str, ...] = ()
    box_resolution: int = 7
    canonical_scale: int = 224
    canonical_level: int = 4
    box_head_convs: tuple[int, ...] = ()
    box_head_width: int = 1024
    box_nms_threshold: float = 0.5
    mask_levels: tuple[str, ...] = ()
    mask_resolution: int = 14
    mask_head_layers: tuple[int, ...] = (256, 256, 256, 256)
    keypoint_levels: tuple[str, ...] = ()
    keypoint_resolution: int = 14
    keypoint_head_layers: tuple[int, ...] = (512,) * 8

    def __post_init__(self) -> None:
        _choice("family", self.family, FAMILIES)
        _choice("backbone", self.backbone, tuple(BACKBONE_LAYERS))
        _choice("class_index", self.class_index, ("position", "id"))
        for key in ("backbone_norm", "fpn_norm", "head_norm"):
            _choice(key, getattr(self, key), NORMS)
        if not self.backbone_layers:
            object.__setattr__(self, "backbone_layers", BACKBONE_LAYERS[self.backbone])
        for key in ("box_levels", "mask_levels", "keypoint_levels"):
            if not getattr(self, key):
                object.__setattr__(self, key, tuple(str(i) for i in range(len(self.backbone_layers))))
        for key in (f.name for f in fields(self)):
            if isinstance(value := getattr(self, key), list | tuple):
                object.__setattr__(self, key, tuple(tuple(v) if isinstance(v, list) else v for v in value))
        if self.backbone == "tiny" and (
            self.backbone_layers != BACKBONE_LAYERS["tiny"] or self.backbone_norm != "batch"
        ):
            raise ModelError("architecture: the tiny backbone has its own backbone_layers and backbone_norm")
        if not self.anchor_sizes or not all(self.anchor_sizes) or not self.aspect_ratios:
            raise ModelError("architecture: anchor_sizes and aspect_ratios must not be empty")
        required = ["box_head_width", "fpn_channels"]
        required += ["mask_head_layers"] * self.masks + ["keypoint_head_layers"] * self.keypoints
        for key in required:
            if not getattr(self, key):
                raise ModelError(f"architecture: {key} must not be empty or 0 for {self.family!r}")
        for key, value in self.to_dict().items():
            _check(key, value)
        # The proposals' head has so many outputs a cell, the same for all levels.
        alike = len(set(map(len, self.anchor_sizes))) == 1
        _require(alike, "anchor_sizes", self.anchor_sizes, "of as many sizes on every level")

    @property
    def masks(self) -> bool:
        """Whether it has a mask head."""
        return self.family in ("mask_rcnn", "joint")

    @property
    def keypoints(self) -> bool:
        """Whether it has a keypoint head."""
        return self.family in ("keypoint_rcnn", "joint")

    def to_dict(self) -> dict[str, Any]:
        """All keys, defaults written out, as they go into `model.json`."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Composed:
    """Two networks: `detector` finds instances and masks, `joints` places keypoints in the detector's boxes.

    The names are keys of `model.json` and beginnings of the weights' keys, so `joints` keeps its name.
    Raises ModelError where the detector places keypoints itself, or `joints` places none.
    """

    detector: Network
    joints: Network

    def __post_init__(self) -> None:
        if self.detector.keypoints or not self.joints.keypoints:
            raise ModelError(
                "architecture: composed needs a detector without keypoints and, as joints, a keypoint network"
            )

    @property
    def keypoints(self) -> bool:
        """Whether it places keypoints: always."""
        return True

    def to_dict(self) -> dict[str, Any]:
        """All keys, defaults written out, as they go into `model.json`."""
        return {"family": "composed"} | asdict(self)


def parse(architecture: Mapping[str, Any]) -> Network | Composed:
    """Read the `architecture` object of `model.json`. Raises ModelError for unknown keys and values."""
    if not isinstance(architecture, Mapping):
        raise ModelError(f"architecture is {type(architecture).__name__}, not an object")
    if architecture.get("family") == "composed":
        _known(architecture, {"family", "detector", "joints"})
        parts = {key: parse(architecture.get(key, {})) for key in ("detector", "joints")}
        for key, part in parts.items():
            if isinstance(part, Composed):
                raise ModelError(f"architecture: {key} is itself composed; it has to be one R-CNN")
        return Composed(**parts)  # type: ignore[arg-type]  # Composed parts were refused above
    _known(architecture, {f.name for f in fields(Network)})
    try:
        return Network(**architecture)
    except TypeError as err:  # family or backbone missing, or a value of the wrong type
        raise ModelError(f"architecture: {err}") from err


def _known(architecture: Mapping[str, Any], keys: set[str]) -> None:
    unknown = sorted(str(k) for k in architecture.keys() - keys)
    if unknown:
        raise ModelError(f"architecture: unknown key {', '.join(unknown)}; a newer Masklake may know it")


def _check(key: str, value: object) -> None:
    """Raises ModelError where torchvision could not make a network of `value`; choices are checked elsewhere."""
    if key in _COUNTS:
        _require(_is_count(value), key, value, f"a whole number from 1 to {_LARGEST}")
    elif key in _COUNT_LISTS:
        counts = isinstance(value, tuple) and all(map(_is_count, value))
        _require(counts, key, value, f"a list of whole numbers from 1 to {_LARGEST}")
    elif key in _SHARES:
        _require(_is_number(value, 0, 1), key, value, "a number from 0 to 1")
    elif key in ("aspect_ratios", "anchor_sizes"):
        parts = value if key == "anchor_sizes" and isinstance(value, tuple) else (value,)
        sizes = all(
            isinstance(part, tuple) and all(_is_number(v, 1e-3, _LARGEST) for v in part) for part in parts
        )
        _require(sizes, key, value, "made of numbers above 0")
    elif key in ("backbone_layers", "box_levels", "mask_levels", "keypoint_levels"):
        names = isinstance(value, tuple) and all(isinstance(name, str) for name in value)
        _require(names, key, value, "a list of names")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _LARGEST


def _is_number(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _require(holds: bool, key: str, value: object, what: str) -> None:
    if not holds:
        raise ModelError(f"architecture: {key} {str(value)[:60]} is not {what}")


def _choice(key: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ModelError(f"architecture: unknown {key} {value!r}; known: {', '.join(known)}")
