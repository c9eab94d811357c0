"""model.json: what is written is what is read, and what is wrong is named."""

import json
import subprocess
import sys
from dataclasses import fields
from typing import Any

import pytest
from masklake.model.errors import ModelError
from masklake.model.networks.config import BACKBONE_LAYERS, FAMILIES, PUBLISHED_V1, V2, Network, parse
from masklake.model.spec import FORMAT_VERSION, ClassInfo, ModelSpec, Preprocessing

NETWORK: dict[str, Any] = {"family": "joint", "backbone": "resnet18-fpn"}


def make(**changes: Any) -> ModelSpec:
    settings: dict[str, Any] = {
        "name": "cats",
        "architecture": NETWORK,
        "classes": (ClassInfo(1, "cat", True), ClassInfo(7, "mug")),
        "keypoint_names": ("nose", "tail"),
        "skeleton": ((0, 1),),
        "preprocessing": Preprocessing(min_size=320, max_size=512, mean=(0, 0, 0), std=(1, 1, 1)),
        "lineage": {"parent": "demo", "labels": 17},
        "metrics": {"box": {"AP": 0.5}},
    }
    return ModelSpec(**settings | changes)


def test_what_is_written_is_read() -> None:
    spec = make()
    assert ModelSpec.from_json(spec.to_json(), "model.json") == spec
    assert json.loads(spec.to_json())["version"] == FORMAT_VERSION


def test_flip_pairs_are_those_that_the_names_tell_unless_the_file_has_some() -> None:
    names = ("left_ear", "right_ear")
    spec = make(keypoint_names=names)
    assert "flip_pairs" not in json.loads(spec.to_json())  # as in the files of older versions
    assert spec.mirror == [1, 0]
    with_pairs = make(keypoint_names=names, flip_pairs=[[0, 1]])
    assert ModelSpec.from_json(with_pairs.to_json(), "model.json") == with_pairs
    assert make(keypoint_names=names, flip_pairs=()).mirror == [0, 1]
    assert make().mirror is None  # nose and tail tell nothing
    for wrong in ([[0, 2]], [[0, 0]], [[0, 1], [1, 0]]):
        with pytest.raises(ModelError, match="flip_pairs names a keypoint twice, or beyond 2"):
            make(keypoint_names=names, flip_pairs=wrong)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ()}, "no classes"),
        ({"classes": (ClassInfo(1, "cat"), ClassInfo(1, "dog"))}, "more than one class with id 1"),
        ({"classes": (ClassInfo(1, "cat"), ClassInfo(2, "cat"))}, "more than one class with name cat"),
        ({"keypoint_names": ()}, "keypoints but no keypoint_names"),
        ({"skeleton": ((0, 2),)}, "skeleton names a keypoint beyond 2"),
    ],
)
def test_contradictions_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        make(**changes)


@pytest.mark.parametrize("id_", [0, -1, 2**31, True, "1", 1.0])
def test_class_ids_are_positive_int32(id_: object) -> None:
    with pytest.raises(ModelError, match="id"):
        ClassInfo(id_, "cat")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", None, 3])
def test_class_names_are_texts(name: object) -> None:
    with pytest.raises(ModelError, match="name"):
        ClassInfo(1, name)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings",
    [
        {"min_size": 0},
        {"min_size": 900, "max_size": 800},
        {"mean": (0, 0)},
        {"std": (1, 0, 1)},
        {"mean": (float("nan"),) * 3},
        {"mean": (1e300,) * 3},
        {"mean": (True,) * 3},
        {"std": (1e-300,) * 3},
        {"std": (float("inf"),) * 3},
        {"max_size": 10**9},
    ],
)
def test_preprocessing_is_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="preprocessing"):
        Preprocessing(**settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.update(version=FORMAT_VERSION + 1), "newer than this program reads.*upgrade"),
        (lambda b: b.update(version="1"), "format version '1'"),
        (lambda b: b.update(format="other"), "not a Masklake model.json"),
        (lambda b: b.pop("format"), "not a Masklake model.json"),
        (lambda b: b.pop("classes"), "lacks 'classes'"),
        (lambda b: b.pop("name"), "name"),
        (lambda b: b.update(colour="red"), "unknown key colour"),
        (lambda b: b["classes"][0].update(size=3), "unknown key size"),
        (lambda b: b.update(classes=3), "model.json"),
        (lambda b: b.update(classes=["cat"]), "ClassInfo is str"),
        (lambda b: b.update(preprocessing=None), "Preprocessing is NoneType"),
        (lambda b: b["preprocessing"].update(min_size="big"), "model.json"),
        (lambda b: b.update(skeleton=[[0]]), "model.json"),
    ],
)
def test_a_wrong_model_json_is_named(change: Any, message: str) -> None:
    body = json.loads(make().to_json())
    change(body)
    with pytest.raises(ModelError, match=message) as caught:
        ModelSpec.from_json(json.dumps(body), "somewhere/model.json")
    assert str(caught.value).startswith("somewhere/model.json: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[]", b"null", b"[" * 200_000])
def test_what_is_no_json_object(text: bytes) -> None:
    with pytest.raises(ModelError, match=r"^model\.json: not "):
        ModelSpec.from_json(text, "model.json")


def test_metrics_that_json_cannot_hold() -> None:
    with pytest.raises(ModelError, match="cannot be written as JSON"):
        make(metrics={"AP": float("nan")}).to_json()
    with pytest.raises(ModelError, match="cannot be written as JSON"):
        make(lineage={"when": object()}).to_json()


def test_networks_are_written_in_full() -> None:
    network = parse(NETWORK)
    assert isinstance(network, Network)
    written = network.to_dict()
    assert written.keys() == {f.name for f in fields(Network)}
    assert parse(json.loads(json.dumps(written))) == network
    assert parse({**NETWORK, **V2, **PUBLISHED_V1}) != network


def test_families_say_what_they_have() -> None:
    has = {family: parse({**NETWORK, "family": family}) for family in FAMILIES}
    assert [f for f, n in has.items() if isinstance(n, Network) and n.masks] == ["mask_rcnn", "joint"]
    assert [f for f, n in has.items() if isinstance(n, Network) and n.keypoints] == ["keypoint_rcnn", "joint"]


def test_levels_follow_the_backbone() -> None:
    for backbone, layers in BACKBONE_LAYERS.items():
        network = parse({"family": "joint", "backbone": backbone})
        assert isinstance(network, Network)
        assert network.box_levels == network.mask_levels == tuple(str(level) for level in range(len(layers)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "yolo"}, "unknown family 'yolo'; known: faster_rcnn"),
        ({"backbone": "vit"}, "unknown backbone 'vit'; known: resnet18-fpn"),
        ({"head_norm": "layer"}, "unknown head_norm 'layer'"),
        ({"class_index": "name"}, "unknown class_index"),
        ({"wings": 2}, "unknown key wings"),
        ({"backbone": "tiny", "backbone_norm": "group"}, "tiny backbone has its own"),
        ({"anchor_sizes": []}, "anchor_sizes"),
        ({"anchor_sizes": [[32], []]}, "anchor_sizes"),
        ({"anchor_sizes": 32}, "architecture"),
        ({"mask_head_layers": []}, "mask_head_layers must not be empty"),
        ({"box_head_width": 0}, "box_head_width must not be empty or 0"),
        ({"fpn_channels": -1}, "fpn_channels -1 is not a whole number from 1"),
        ({"fpn_channels": 10**12}, "fpn_channels 1000000000000 is not a whole number from 1"),
        ({"rpn_post_nms_top_n": "x"}, "rpn_post_nms_top_n x is not a whole number"),
        ({"box_resolution": 7.5}, "box_resolution 7.5 is not a whole number"),
        ({"canonical_scale": True}, "canonical_scale True is not a whole number"),
        ({"mask_head_layers": [256, 0]}, "mask_head_layers .256, 0. is not a list of whole numbers"),
        ({"mask_head_layers": 256}, "mask_head_layers 256 is not a list of whole numbers"),
        ({"box_nms_threshold": float("nan")}, "box_nms_threshold nan is not a number from 0 to 1"),
        ({"rpn_nms_threshold": "0.7"}, "rpn_nms_threshold 0.7 is not a number from 0 to 1"),
        ({"anchor_sizes": [[0]] * 5}, "anchor_sizes .* is not made of numbers above 0"),
        (
            {"anchor_sizes": [[32, 40], [64], [9], [9], [9]]},
            "anchor_sizes .* is not of as many sizes on every",
        ),
        ({"anchor_sizes": "abcde"}, "anchor_sizes abcde is not made of numbers above 0"),
        ({"aspect_ratios": [1, "2"]}, "aspect_ratios .1, '2'. is not made of numbers above 0"),
        ({"mask_levels": 5}, "mask_levels 5 is not a list of names"),
        ({"backbone_layers": [1, 2, 3, 4]}, "backbone_layers .1, 2, 3, 4. is not a list of names"),
    ],
)
def test_a_wrong_architecture_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        parse({**NETWORK, **change})


@pytest.mark.parametrize("architecture", [{}, {"family": "joint"}, [], None])
def test_an_architecture_that_says_too_little(architecture: Any) -> None:
    with pytest.raises(ModelError, match="architecture"):
        parse(architecture)


def test_specs_need_no_torch() -> None:
    code = "import sys, masklake.model.spec, masklake.model.networks.config, masklake.model.detections; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
