"""The checkpoint directory: whole and finite weights go in and come out, all else is refused in one line."""

import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from masklake.model import checkpoint
from masklake.model.errors import ModelError
from masklake.model.networks.build import build
from masklake.model.spec import ClassInfo, ModelSpec
from safetensors.torch import load_file, save_file
from torch import nn

SPEC = ModelSpec(
    name="small",
    architecture={
        "family": "joint",
        "backbone": "tiny",
        "fpn_channels": 16,
        "anchor_sizes": [[16], [32], [64]],
        "box_head_width": 32,
        "mask_head_layers": [16],
        "keypoint_head_layers": [16],
    },
    classes=(ClassInfo(3, "cat", True), ClassInfo(1, "dog")),
    keypoint_names=("nose", "tail"),
)


@pytest.fixture(scope="module")
def module() -> nn.Module:
    torch.manual_seed(0)
    return build(SPEC).eval()


@pytest.fixture
def saved(module: nn.Module, tmp_path: Path) -> Path:
    checkpoint.save(tmp_path / "small", module, SPEC)
    return tmp_path / "small"


def refused(directory: Path, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        checkpoint.load(directory)
    assert "\n" not in str(caught.value)


def test_what_is_saved_is_loaded(module: nn.Module, saved: Path) -> None:
    loaded = checkpoint.load(saved)
    expected, state = module.state_dict(), loaded.module.state_dict()
    assert state.keys() == expected.keys()
    for key in expected:
        assert torch.equal(state[key], expected[key])
        assert state[key].dtype == expected[key].dtype
    assert not loaded.module.training
    image = torch.rand(3, 100, 120)
    with torch.no_grad():
        a, b = module([image])[0], loaded.module([image])[0]
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert loaded.spec.classes == SPEC.classes
    assert sorted(p.name for p in saved.iterdir()) == ["model.json", "model.safetensors"]


def test_a_loaded_model_can_be_trained(saved: Path) -> None:
    model = checkpoint.load(saved).module.train()
    target = {
        "boxes": torch.tensor([[10.0, 10, 60, 80]]),
        "labels": torch.tensor([1]),
        "masks": torch.ones(1, 100, 120, dtype=torch.uint8),
        "keypoints": torch.tensor([[[20.0, 20, 2], [50, 70, 2]]]),
    }
    losses = model([torch.rand(3, 100, 120)], [target])
    assert {"loss_mask", "loss_keypoint", "loss_classifier", "loss_objectness"} <= losses.keys()
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.roi_heads.parameters())


def test_half_precision_is_stored_and_full_is_loaded(module: nn.Module, tmp_path: Path) -> None:
    checkpoint.save(tmp_path, module, SPEC, half=True)
    stored = load_file(tmp_path / checkpoint.WEIGHTS)
    assert {t.dtype for k, t in stored.items() if t.ndim >= 2} == {torch.float16}
    state = checkpoint.load(tmp_path).module.state_dict()
    for key, tensor in module.state_dict().items():
        assert state[key].dtype == tensor.dtype
        torch.testing.assert_close(state[key], tensor, rtol=1e-3, atol=1e-4)


def test_weights_beyond_half_precision_are_refused(tmp_path: Path) -> None:
    module = build(SPEC)
    with torch.no_grad():
        module.roi_heads.box_head.fc6.weight[0, 0] = 1e6
    with pytest.raises(ModelError, match=r"as float16: roi_heads\.box_head\.fc6\.weight"):
        checkpoint.save(tmp_path, module, SPEC, half=True)
    assert not (tmp_path / checkpoint.SPEC).exists()


def test_only_what_the_spec_describes_is_saved(tmp_path: Path, module: nn.Module) -> None:
    with pytest.raises(ModelError, match="shape"):
        checkpoint.save(tmp_path, module, replace(SPEC, classes=(*SPEC.classes, ClassInfo(9, "cow"))))
    with pytest.raises(ModelError, match=r"unknown roi_heads\.mask_head"):
        checkpoint.save(
            tmp_path, module, replace(SPEC, architecture={**SPEC.architecture, "family": "keypoint_rcnn"})
        )
    diverged = build(SPEC)
    with torch.no_grad():
        diverged.rpn.head.cls_logits.bias[0] = torch.nan
    with pytest.raises(ModelError, match=r"rpn\.head\.cls_logits\.bias has values that are not finite"):
        checkpoint.save(tmp_path, diverged, SPEC)
    assert list(tmp_path.iterdir()) == []


def test_saving_again_replaces(saved: Path) -> None:
    torch.manual_seed(1)
    other = build(SPEC)
    before = checkpoint.fingerprint(saved)
    checkpoint.save(saved, other, SPEC)
    assert checkpoint.fingerprint(saved) != before
    state = checkpoint.load(saved).module.state_dict()
    assert all(torch.equal(state[key], t) for key, t in other.state_dict().items())


def test_others_may_read_the_weights(saved: Path) -> None:
    modes = {stat.S_IMODE(p.stat().st_mode) for p in saved.iterdir()}
    umask = os.umask(0)
    os.umask(umask)
    assert modes == {0o666 & ~umask}


def test_the_fingerprint_follows_results_only(saved: Path, module: nn.Module, tmp_path: Path) -> None:
    first = checkpoint.fingerprint(saved)
    assert len(first) == 12
    assert int(first, 16) >= 0
    checkpoint.save(
        tmp_path / "a", module, replace(SPEC, name="other", metrics={"AP": 1}, lineage={"by": "me"})
    )
    assert checkpoint.fingerprint(tmp_path / "a") == first
    renamed = (ClassInfo(3, "lion", True), ClassInfo(1, "dog"))
    checkpoint.save(tmp_path / "b", module, replace(SPEC, classes=renamed))
    assert checkpoint.fingerprint(tmp_path / "b") != first


def edit(directory: Path, change: dict[str, torch.Tensor | None]) -> None:
    tensors = load_file(directory / checkpoint.WEIGHTS) | {k: t for k, t in change.items() if t is not None}
    for key in (k for k, t in change.items() if t is None):
        del tensors[key]
    save_file(tensors, directory / checkpoint.WEIGHTS)


BIAS = "rpn.head.cls_logits.bias"


def test_other_keys_shapes_and_values_are_refused(saved: Path) -> None:
    bias = load_file(saved / checkpoint.WEIGHTS)[BIAS]
    for change, message in (
        ({BIAS: bias[:-1].clone()}, rf"{BIAS} has shape \(\d,\), not \(\d,\); .* another architecture"),
        ({BIAS: None}, f"lacks {BIAS}"),
        ({BIAS: bias, "wings": bias.clone()}, "has unknown wings"),
        ({BIAS: bias * torch.inf, "wings": None}, f"{BIAS} has values that are not finite"),
        ({BIAS: bias * torch.nan}, f"{BIAS} has values that are not finite"),
    ):
        edit(saved, change)
        refused(saved, message)


def test_damaged_weights_are_refused(saved: Path) -> None:
    weights = saved / checkpoint.WEIGHTS
    whole = weights.read_bytes()
    for broken in (b"", whole[:5], whole[:1000], whole[:-100], b"\xff" * 100, whole[100:]):
        weights.write_bytes(broken)
        refused(saved, "model.safetensors: damaged or not safetensors")


def test_missing_parts_are_named(saved: Path, tmp_path: Path) -> None:
    (saved / checkpoint.WEIGHTS).unlink()
    refused(saved, "lacks model.safetensors")
    (saved / "model.pth").write_bytes(b"")
    refused(saved, "lacks model.safetensors; not a complete checkpoint; model.pth is a pickle")
    refused(tmp_path / "nowhere", "no such directory")
    refused(saved / checkpoint.SPEC, "a file; name the directory")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".PTH", ".ckpt", ".bin", ".pkl"])
def test_pickles_are_refused_unopened(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    refused(path, "a pickle can run code when it is opened and is refused; .*model.checkpoint.save")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 99}, "newer"),
        ({"architecture": {"family": "transformer", "backbone": "tiny"}}, "unknown family 'transformer'"),
        (
            {"architecture": {"family": "joint", "backbone": "tiny", "anchor_sizes": [[16]]}},
            "1 levels in anchor_sizes, 3",
        ),
    ],
)
def test_a_model_json_from_elsewhere_is_refused(saved: Path, change: dict[str, object], message: str) -> None:
    path = saved / checkpoint.SPEC
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused(saved, message)
