"""What a training starts from: what is kept of the weights when classes, keypoints and heads change."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from masklake.model import presets
from masklake.model.coco import KEYPOINT_NAMES, SKELETON
from masklake.model.errors import ModelError
from masklake.model.networks.config import Network, parse
from masklake.model.spec import ClassInfo, ModelSpec, Preprocessing
from masklake.model.train.start import BACKBONES, freeze, from_backbone, from_model, new_network, trained_part

from tests.helpers.paths import SHARED

BOX, MASK = "roi_heads.box_predictor.cls_score.weight", "roi_heads.mask_predictor.mask_fcn_logits.weight"
KEYPOINTS_LAYER = "roi_heads.keypoint_predictor.kps_score_lowres.weight"
WEIGHTS = SHARED / "weights" / "mobilenet_v2_imagenet_features.pth"


@pytest.fixture(scope="module")
def demo():
    return presets.load_model("demo")


def spec_of(
    *names: str, keypoints: tuple[str, ...] = KEYPOINT_NAMES, persons: tuple[str, ...] = ("person",)
) -> ModelSpec:
    return ModelSpec(
        name="t",
        architecture={},
        classes=tuple(ClassInfo(10 + i, name, name in persons) for i, name in enumerate(names)),
        keypoint_names=keypoints,
        skeleton=SKELETON if keypoints == KEYPOINT_NAMES else (),
        preprocessing=Preprocessing(),
    )


def outputs(state: dict[str, torch.Tensor], key: str, index: int) -> torch.Tensor:
    return state[key][index]


def test_classes_that_are_known_keep_their_outputs(demo) -> None:
    """Another order, one less, one new: background and the known ones are where they belong now."""
    start = from_model(demo, spec_of("star", "dragon", "person"), masks=True, keypoints=True)
    old, new = demo.module.state_dict(), start.module.state_dict()
    for key in (BOX, MASK):
        for new_index, old_index in ((0, 0), (1, 5), (3, 1)):
            assert torch.equal(outputs(new, key, new_index), outputs(old, key, old_index)), key
        assert not any(torch.equal(outputs(new, key, 2), row) for row in old[key])
    assert start.fresh == ("class dragon",)
    assert start.spec.preprocessing == demo.spec.preprocessing
    shared = [k for k in new if "predictor" not in k]
    assert all(torch.equal(new[k], old[k]) for k in shared)


def test_nothing_new_is_nothing_fresh(demo) -> None:
    names = [info.name for info in demo.spec.classes]
    start = from_model(demo, spec_of(*names), masks=True, keypoints=True)
    old = demo.module.state_dict()
    assert start.fresh == ()
    assert all(torch.equal(t, old[k]) for k, t in start.module.state_dict().items())


def test_keypoints_are_known_by_their_names(demo) -> None:
    keypoints = ("left_wrist", "tail", "nose")
    start = from_model(demo, spec_of("person", keypoints=keypoints), masks=True, keypoints=True)
    old, new = demo.module.state_dict()[KEYPOINTS_LAYER], start.module.state_dict()[KEYPOINTS_LAYER]
    assert torch.equal(new[:, 0], old[:, KEYPOINT_NAMES.index("left_wrist")])
    assert torch.equal(new[:, 2], old[:, KEYPOINT_NAMES.index("nose")])
    assert start.fresh == ("keypoint tail",)


def test_heads_without_labels_are_kept_as_they_are(demo) -> None:
    names = [info.name for info in demo.spec.classes]
    start = from_model(demo, spec_of(*names), masks=False, keypoints=False)
    assert parse(start.spec.architecture).family == "joint"
    freeze(start.module, start.frozen)
    still = {n for n, p in start.module.named_parameters() if not p.requires_grad}
    assert {n.split(".")[1] for n in still} == {
        "mask_head",
        "mask_predictor",
        "keypoint_head",
        "keypoint_predictor",
    }


@pytest.mark.parametrize(
    ("masks", "keypoints", "family"),
    [
        (True, True, "joint"),
        (True, False, "mask_rcnn"),
        (False, True, "keypoint_rcnn"),
        (False, False, "faster_rcnn"),
    ],
)
def test_a_new_network_has_the_heads_that_are_labelled(masks: bool, keypoints: bool, family: str) -> None:
    assert new_network("tiny", masks=masks, keypoints=keypoints, pretrained=False).family == family


def test_a_backbone_from_nothing_has_group_norm() -> None:
    assert new_network("resnet18", masks=True, keypoints=False, pretrained=False).backbone_norm == "group"
    assert new_network("resnet18", masks=True, keypoints=False, pretrained=True).backbone_norm == "frozen"


def test_an_unknown_backbone() -> None:
    with pytest.raises(ModelError, match="--backbone vgg: unknown; known: resnet18"):
        new_network("vgg", masks=True, keypoints=False, pretrained=False)
    assert "mobilenet_v2" in BACKBONES


def backbone(name: str, *, pretrained: bool) -> ModelSpec:
    network = new_network(name, masks=True, keypoints=True, pretrained=pretrained)
    return replace(spec_of("person"), architecture=network.to_dict())


def test_imagenet_weights_of_this_machine() -> None:
    if not WEIGHTS.is_file():
        pytest.skip("the MobileNetV2 weights are not on this machine")
    start = from_backbone(backbone("mobilenet_v2", pretrained=True), WEIGHTS)
    published = torch.load(WEIGHTS, weights_only=True)
    body = start.module.backbone.body.state_dict()
    assert body
    for key, tensor in body.items():
        expected = published.get(f"features.{key}", published.get(key))
        assert torch.equal(tensor, expected), key
    assert start.fresh == ("everything but the backbone",)
    freeze(start.module, start.frozen)
    assert not start.module.backbone.body["0"][0].weight.requires_grad
    assert isinstance(parse(start.spec.architecture), Network)


def test_weights_that_are_of_another_backbone(tmp_path: Path) -> None:
    from torchvision.models import resnet18

    file = tmp_path / "resnet18.pth"
    torch.save(resnet18().state_dict(), file)
    with pytest.raises(ModelError, match="it is another backbone's"):
        from_backbone(backbone("mobilenet_v2", pretrained=True), file)
    start = from_backbone(backbone("resnet18", pretrained=True), file)
    assert start.fresh == ("everything but the backbone",)
    poisoned = resnet18().state_dict()
    poisoned["conv1.weight"][0, 0, 0, 0] = torch.nan
    torch.save(poisoned, file)
    with pytest.raises(ModelError, match=r"conv1.weight has values that are not finite"):
        from_backbone(backbone("resnet18", pretrained=True), file)
    codes = {"conv1.weight": torch.ones(64, 3, 7, 7, dtype=torch.int8)}
    torch.save(resnet18().state_dict() | codes, file)
    with pytest.raises(ModelError, match=r"conv1.weight is stored as torch.int8"):
        from_backbone(backbone("resnet18", pretrained=True), file)
    torch.save({**resnet18().state_dict(), "conv1.weight": "text"}, file)
    with pytest.raises(ModelError, match=r"conv1.weight as .* lacks it"):
        from_backbone(backbone("resnet18", pretrained=True), file)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no", b"not weights at all"])
def test_a_file_that_is_no_weights(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "w.pth"
    file.write_bytes(content)
    with pytest.raises(ModelError, match="damaged, or more than weights"):
        from_backbone(backbone("resnet18", pretrained=True), file)


def test_the_published_pair_becomes_one_network_with_three_heads() -> None:
    """`--model coco`: the detector keeps everything, the keypoint head comes from the other network."""
    from masklake.model.checkpoint import LoadedModel
    from masklake.model.networks.build import build

    from tests.model.networks.test_composed import SPEC

    torch.manual_seed(0)
    pair = LoadedModel(SPEC, build(SPEC))
    known = [info.name for info in SPEC.classes]
    start = from_model(
        pair, spec_of("dragon", *known[:2], persons=tuple(known[:1])), masks=True, keypoints=True
    )
    network = parse(start.spec.architecture)
    assert isinstance(network, Network)
    assert (network.family, network.class_index) == ("joint", "position")
    state = start.module.state_dict()
    detector, keypoint_state = pair.module.detector.state_dict(), pair.module.joints.state_dict()
    assert torch.equal(state[KEYPOINTS_LAYER], keypoint_state[KEYPOINTS_LAYER])
    for key in (k for k in state if k.startswith("backbone.") and k in detector):
        assert torch.equal(state[key], detector[key]), key
    assert torch.equal(state[MASK][2], detector[MASK][SPEC.classes[0].id])
    assert start.fresh == ("class dragon",)
    without = from_model(pair, spec_of(*known[:2], keypoints=(), persons=()), masks=True, keypoints=False)
    assert parse(without.spec.architecture).family == "mask_rcnn"
    assert without.notes == ("the model's keypoints are given up: it has them for no class that is labelled",)


def test_two_networks_of_which_one_is_trained(tmp_path: Path) -> None:
    """Masks of people are labelled, their keypoints are not: the second network places them as before."""
    from masklake.model import checkpoint
    from masklake.model.checkpoint import LoadedModel
    from masklake.model.networks.build import build
    from masklake.model.networks.composed import ComposedRCNN

    from tests.model.networks.test_composed import SPEC

    torch.manual_seed(0)
    pair = LoadedModel(SPEC, build(SPEC))
    person = next(info.name for info in SPEC.classes if info.keypoints)
    start = from_model(pair, spec_of("dragon", person, persons=(person,)), masks=True, keypoints=False)
    assert start.spec.keypoint_names == SPEC.keypoint_names
    assert "the network that places them stays as it is" in start.notes[0]
    checkpoint.save(tmp_path, start.module, start.spec)
    kept = checkpoint.load(tmp_path)
    assert isinstance(kept.module, ComposedRCNN)
    trained = trained_part(kept.module)
    freeze(trained, start.frozen)
    assert any(p.requires_grad for p in trained.parameters())
    for key, tensor in pair.module.joints.state_dict().items():
        assert torch.equal(kept.module.joints.state_dict()[key], tensor), key
    before = pair.module.detector.state_dict()
    for key, tensor in trained.state_dict().items():
        if key.startswith("backbone."):
            assert torch.equal(before[key], tensor), key
    again = from_model(kept, kept.spec, masks=True, keypoints=False)  # the next night
    assert again.spec.architecture == start.spec.architecture
    assert again.fresh == ()


def test_a_head_without_labels_is_told() -> None:
    from masklake.model import presets

    demo = presets.load_model("demo")
    start = from_model(demo, demo.spec, masks=True, keypoints=False)
    assert start.notes == (
        "no keypoints are labelled: their head stays as it is, on a backbone that changes",
    )
