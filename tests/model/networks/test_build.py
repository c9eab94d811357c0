"""Networks by description: torchvision's keys, torchvision's shapes, torchvision's losses."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from masklake.model import coco
from masklake.model.engine.fold import fold_norms
from masklake.model.errors import ModelError
from masklake.model.networks.build import build
from masklake.model.networks.config import BACKBONE_LAYERS, PUBLISHED_V1, V2, parse
from masklake.model.networks.rcnn import output_labels
from masklake.model.spec import ClassInfo, ModelSpec, Preprocessing
from torch import nn
from torchvision.models import detection

CLASSES = tuple(ClassInfo(id_, name, id_ == coco.PERSON_ID) for id_, name in coco.CATEGORIES)
TINY = {"backbone": "tiny", "fpn_channels": 32, "anchor_sizes": ((16,), (32,), (64,)), "box_head_width": 64}
MOBILENET_320 = {
    "backbone_layers": ("13", "16"),
    "anchor_sizes": ((32, 64, 128, 256, 512),) * 3,
    "rpn_score_threshold": 0.05,
}


def spec(classes: tuple[ClassInfo, ...] = CLASSES, **keys: Any) -> ModelSpec:
    return ModelSpec(
        name="test",
        architecture=keys,
        classes=classes,
        keypoint_names=coco.KEYPOINT_NAMES,
        preprocessing=Preprocessing(min_size=96, max_size=128),
    )


def bare(builder: Callable[..., nn.Module]) -> Callable[[], nn.Module]:
    return partial(builder, weights=None, weights_backbone=None)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (detection.fasterrcnn_resnet50_fpn, {"family": "faster_rcnn", "backbone": "resnet50-fpn"}),
        (detection.fasterrcnn_resnet50_fpn_v2, {"family": "faster_rcnn", "backbone": "resnet50-fpn", **V2}),
        (detection.maskrcnn_resnet50_fpn, {"family": "mask_rcnn", "backbone": "resnet50-fpn"}),
        (detection.maskrcnn_resnet50_fpn_v2, {"family": "mask_rcnn", "backbone": "resnet50-fpn", **V2}),
        (
            detection.fasterrcnn_mobilenet_v3_large_fpn,
            {"family": "faster_rcnn", "backbone": "mobilenet_v3_large-fpn", **MOBILENET_320},
        ),
        (
            partial(detection.keypointrcnn_resnet50_fpn, num_classes=91),
            {"family": "keypoint_rcnn", "backbone": "resnet50-fpn"},
        ),
    ],
)
def test_torchvisions_weights_load_strictly(theirs: Callable[..., nn.Module], ours: dict[str, Any]) -> None:
    with torch.device("meta"):
        expected = bare(theirs)().state_dict()
        state = build(spec(**ours, class_index="id")).state_dict()
    assert list(state) == list(expected)
    assert all(state[key].shape == expected[key].shape for key in expected)


def test_frozen_weights_load_strictly() -> None:
    """Published weights with frozen batch norm have no batch counters."""
    with torch.device("meta"):
        expected = bare(detection.maskrcnn_resnet50_fpn)().state_dict()
        network = build(spec(family="mask_rcnn", backbone="resnet50-fpn", class_index="id", **PUBLISHED_V1))
    assert list(network.state_dict()) == [k for k in expected if not k.endswith("num_batches_tracked")]


@pytest.mark.parametrize("backbone", BACKBONE_LAYERS)
@torch.no_grad()
def test_every_backbone_has_its_strides_and_folds(backbone: str) -> None:
    torch.manual_seed(0)
    keys: dict[str, Any] = {"family": "faster_rcnn", "backbone": backbone, "box_head_width": 8}
    model = build(spec(**keys | (TINY if backbone == "tiny" else {})))
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        for tensor, low, high in (
            (norm.weight, 0.5, 1.5),
            (norm.bias, -0.5, 0.5),
            (norm.running_mean, -0.3, 0.3),
        ):
            nn.init.uniform_(tensor, low, high)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    images_NCHW = torch.rand(1, 3, 96, 128)
    levels = model.backbone.eval()(images_NCHW)
    pool = model.roi_heads.box_roi_pool
    strides = [96 // levels[name].shape[2] for name in pool.featmap_names]
    assert strides == ([8, 16, 32] if backbone == "tiny" else [4, 8, 16, 32])
    assert pool.scales == [1 / stride for stride in strides]
    assert len(levels) == len(model.rpn.anchor_generator.sizes)
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in model.backbone.modules())
    folded = fold_norms(model.backbone)
    assert norms > 10
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    for name, level in folded(images_NCHW).items():
        torch.testing.assert_close(
            level, levels[name], rtol=1e-3, atol=1e-4 * levels[name].abs().max().item()
        )


def targets() -> list[dict[str, torch.Tensor]]:
    keypoints = torch.rand(2, 17, 3) * 60 + 10
    keypoints[..., 2] = 2
    return [
        {
            "boxes": torch.tensor([[10.0, 10, 80, 70], [40, 20, 90, 90]]),
            "labels": torch.tensor([1, 2]),
            "masks": torch.randint(0, 2, (2, 96, 100), dtype=torch.uint8),
            "keypoints": keypoints,
        }
    ]


@pytest.mark.parametrize("family", ["faster_rcnn", "mask_rcnn", "keypoint_rcnn", "joint"])
@pytest.mark.parametrize("norm", ["none", "batch", "group"])
def test_each_family_trains_and_predicts(family: str, norm: str) -> None:
    torch.manual_seed(0)
    model = build(
        spec(**TINY, family=family, head_norm=norm, mask_head_layers=(16,), keypoint_head_layers=(16,))
    )
    assert model.training
    losses = model([torch.rand(3, 96, 100)], targets())
    masks, keypoints = family in ("mask_rcnn", "joint"), family in ("keypoint_rcnn", "joint")
    assert ("loss_mask" in losses) == masks
    assert ("loss_keypoint" in losses) == keypoints
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.roi_heads.parameters())
    with torch.no_grad():
        output = model.eval()([torch.rand(3, 96, 100)])[0]
    assert ("masks" in output) == masks
    assert ("keypoints" in output) == keypoints


def test_the_probe_teaches_norms_nothing() -> None:
    model = build(spec(**TINY, family="joint"))
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        assert norm.num_batches_tracked == 0
        assert not norm.running_mean.any()


def test_no_weights_are_made_on_meta() -> None:
    with torch.device("meta"):
        model = build(spec(family="joint", backbone="resnet101-fpn"))
    assert all(p.is_meta for p in model.parameters())
    assert not any(a.is_meta for a in model.rpn.anchor_generator.cell_anchors)


def test_outputs_stand_for_classes() -> None:
    classes = (ClassInfo(5, "a"), ClassInfo(2, "b"))
    by_position = parse({"family": "mask_rcnn", "backbone": "resnet50-fpn"})
    by_id = parse({"family": "mask_rcnn", "backbone": "resnet50-fpn", "class_index": "id"})
    assert output_labels(by_position, spec(classes)) == [None, 5, 2]  # type: ignore[arg-type]  # not composed
    assert output_labels(by_id, spec(classes)) == [None, None, 2, None, None, 5]  # type: ignore[arg-type]  # as above


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"backbone": "resnet50-fpn", "anchor_sizes": ((32,),)},
            "1 levels in anchor_sizes, 5 in the pyramid",
        ),
        (
            {"backbone": "resnet50-fpn", "mask_levels": ("0", "9")},
            "no pyramid level 9; there is 0, 1, 2, 3, pool",
        ),
        ({"backbone": "resnet50-fpn", "backbone_layers": ("layer9",)}, "has no layer layer9"),
        ({"backbone": "resnet50-fpn", "backbone_norm": "none"}, "backbone_norm 'none' is not possible"),
    ],
)
def test_what_cannot_be_built_is_named(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message), torch.device("meta"):
        build(spec(family="joint", **keys))


def test_ids_too_large_to_index_by() -> None:
    with pytest.raises(ModelError, match="above 10000"), torch.device("meta"):
        build(spec((ClassInfo(10**6, "a"),), family="mask_rcnn", backbone="resnet50-fpn", class_index="id"))


def test_keypoints_need_names() -> None:
    nameless = ModelSpec(
        name="x", architecture={"family": "joint", "backbone": "resnet50-fpn"}, classes=(ClassInfo(1, "a"),)
    )
    with pytest.raises(ModelError, match="needs keypoint_names"), torch.device("meta"):
        build(nameless)
