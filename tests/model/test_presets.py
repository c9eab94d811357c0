"""Models by name, with random weights under the published names: the published ones are not in the tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from masklake.model import checkpoint, presets
from masklake.model.errors import ModelError
from masklake.model.networks.composed import UNUSED, ComposedRCNN
from safetensors.torch import save_file
from torchvision.models.detection import (
    KeypointRCNN_ResNet50_FPN_Weights,
    MaskRCNN_ResNet50_FPN_V2_Weights,
    keypointrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn_v2,
)
from torchvision.ops import FrozenBatchNorm2d

MASK, KEYPOINT = presets.DETECTOR_WEIGHTS, presets.KEYPOINTS_WEIGHTS


@pytest.fixture(scope="module")
def weights_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("weights")
    torch.save(maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None).state_dict(), directory / MASK)
    keypoint = keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    # The published file was written by a network with frozen batch norm, and by an older RPN head.
    old = {k.replace("rpn.head.conv.0.0.", "rpn.head.conv."): t for k, t in keypoint.items()}
    torch.save({k: t for k, t in old.items() if "num_batches" not in k}, directory / KEYPOINT)
    return directory


def test_coco_is_described_as_torchvision_says() -> None:
    mask, keypoint = MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1, KeypointRCNN_ResNet50_FPN_Weights.COCO_V1
    spec = presets.describe("coco")
    expected = [(i, n) for i, n in enumerate(mask.meta["categories"]) if n not in ("__background__", "N/A")]
    assert [(c.id, c.name) for c in spec.classes] == expected
    assert [c.name for c in spec.classes if c.keypoints] == keypoint.meta["categories"][1:]
    assert list(spec.keypoint_names) == keypoint.meta["keypoint_names"]
    assert [Path(w.url).name for w in (mask, keypoint)] == [MASK, KEYPOINT]
    assert spec.metrics["box_ap"] == mask.meta["_metrics"]["COCO-val2017"]["box_map"]
    assert spec.metrics["mask_ap"] == mask.meta["_metrics"]["COCO-val2017"]["mask_map"]
    assert spec.metrics["keypoint_ap"] == keypoint.meta["_metrics"]["COCO-val2017"]["kp_map"]
    transform = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None).transform
    p = spec.preprocessing
    assert ([p.min_size], p.max_size) == (list(transform.min_size), transform.max_size)
    assert (list(p.mean), list(p.std)) == (transform.image_mean, transform.image_std)


def test_describing_is_quick_and_free_of_torch() -> None:
    code = (
        "import sys\nfrom masklake.model import presets\n"
        "for name in presets.PRESETS: presets.describe(name); presets.fingerprint(name)\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_coco_from_a_weights_directory(weights_dir: Path) -> None:
    loaded = presets.load_model("coco", weights_dir=weights_dir)
    assert isinstance(loaded.module, ComposedRCNN)
    assert not loaded.module.training
    published = torch.load(weights_dir / MASK, weights_only=True)
    ours = loaded.module.detector.state_dict()
    assert ours.keys() == published.keys()
    assert all(torch.equal(ours[key], published[key]) for key in ours)
    published = torch.load(weights_dir / KEYPOINT, weights_only=True)
    ours = loaded.module.joints.state_dict()
    assert ours.keys() == {key for key in published if not key.startswith(UNUSED)}
    assert all(torch.equal(ours[key], published[key]) for key in ours)
    assert not any(p.is_meta for p in loaded.module.parameters())
    frozen = [m for m in loaded.module.joints.modules() if isinstance(m, FrozenBatchNorm2d)]
    assert len(frozen) == 53
    assert {m.eps for m in frozen} == {0.0}  # as torchvision sets it for these weights
    assert not any(isinstance(m, FrozenBatchNorm2d) for m in loaded.module.detector.modules())


def test_safetensors_of_the_same_name_do_as_well(weights_dir: Path, tmp_path: Path) -> None:
    for name in (MASK, KEYPOINT):
        tensors = torch.load(weights_dir / name, weights_only=True)
        save_file(
            {k: t.clone() for k, t in tensors.items()}, tmp_path / Path(name).with_suffix(".safetensors")
        )
    a, b = (presets.load_model("coco", weights_dir=d).module.state_dict() for d in (weights_dir, tmp_path))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_missing_file_is_named(weights_dir: Path, tmp_path: Path) -> None:
    (tmp_path / MASK).symlink_to(weights_dir / MASK)
    for call in (presets.describe, presets.load_model, presets.fingerprint):
        with pytest.raises(ModelError, match=f"has no {KEYPOINT}"):
            call("coco", weights_dir=tmp_path)  # type: ignore[operator]  # three signatures


def test_damaged_and_foreign_files_are_named(weights_dir: Path, tmp_path: Path) -> None:
    (tmp_path / KEYPOINT).symlink_to(weights_dir / KEYPOINT)
    wanted = tmp_path / MASK
    wanted.write_bytes((weights_dir / MASK).read_bytes()[:100_000])
    with pytest.raises(ModelError, match=f"{MASK}: damaged"):
        presets.load_model("coco", weights_dir=tmp_path)
    wanted.write_bytes(b"<html>not found</html>")
    with pytest.raises(ModelError, match=f"{MASK}: damaged"):
        presets.load_model("coco", weights_dir=tmp_path)
    torch.save({"weight": torch.ones(3)}, wanted)
    with pytest.raises(ModelError, match=f"{MASK}: not the weights of that name"):
        presets.load_model("coco", weights_dir=tmp_path)
    torch.save({"epoch": 3, "model": {"weight": torch.ones(3)}}, wanted)  # the checkpoint of a training
    with pytest.raises(ModelError, match=f"{MASK}: epoch is int, not a tensor"):
        presets.load_model("coco", weights_dir=tmp_path)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("pwned",)


def test_no_pickle_runs_code(weights_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / KEYPOINT).symlink_to(weights_dir / KEYPOINT)
    torch.save({"weight": Evil()}, tmp_path / MASK)
    with pytest.raises(ModelError, match="more than weights"):
        presets.load_model("coco", weights_dir=tmp_path)
    assert not (tmp_path / "pwned").exists()


def test_weights_come_from_torchvisions_cache(
    weights_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    for name in (MASK, KEYPOINT):
        (cache / name).symlink_to(weights_dir / name)
    loaded = presets.load_model("coco")
    expected = presets.load_model("coco", weights_dir=weights_dir).module.state_dict()
    state = loaded.module.state_dict()
    assert all(torch.equal(state[key], expected[key]) for key in expected)


def test_no_weights_and_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing answers there
    with pytest.raises(ModelError, match=f"{MASK} could not be had from https.*put the file into {tmp_path}"):
        presets.load_model("coco")


def test_fingerprints_follow_the_weights(weights_dir: Path, tmp_path: Path) -> None:
    first = presets.fingerprint("coco", weights_dir=weights_dir)
    assert len(first) == 12
    assert first == presets.fingerprint("coco", weights_dir=weights_dir)
    # random weights are not the published ones
    assert first != presets.fingerprint("coco")
    for name in (MASK, KEYPOINT):
        (tmp_path / name).write_bytes((weights_dir / name).read_bytes())
    with (tmp_path / KEYPOINT).open("ab") as file:
        file.write(b"x")
    assert first != presets.fingerprint("coco", weights_dir=tmp_path)


def test_the_demo_model_ships() -> None:
    spec = presets.describe("demo")
    loaded = presets.load_model("demo")
    assert loaded.spec == spec
    assert any(c.keypoints for c in spec.classes)
    assert presets.fingerprint("demo") == checkpoint.fingerprint(
        Path(presets.__file__).parent / "weights" / "demo"
    )


def test_a_demo_that_was_left_out_of_an_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "_DEMO", tmp_path)
    with pytest.raises(ModelError, match="not in this installation"):
        presets.describe("demo")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cocoo", "model 'cocoo': no such model or directory; known: demo, coco"),
        ("models/mine", "models/mine: no such directory"),
        ("mask.pth", "pickle.*refused"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    for call in (presets.describe, presets.load_model, presets.fingerprint):
        with pytest.raises(ModelError, match=message):
            call(name)  # type: ignore[operator]  # three signatures


def test_a_weights_directory_is_for_coco_only(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="'demo' has its own weights"):
        presets.describe("demo", weights_dir=tmp_path)
