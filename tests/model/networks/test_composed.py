"""Two networks as one, against torchvision's two models run one after the other."""

import numpy as np
import pytest
import torch
from masklake.model import checkpoint, coco
from masklake.model.checkpoint import LoadedModel
from masklake.model.detections import Detections, PredictFailure
from masklake.model.errors import ModelError
from masklake.model.networks.build import build
from masklake.model.networks.composed import UNUSED, ComposedRCNN
from masklake.model.networks.config import Composed, parse
from masklake.model.predictor import Predictor
from masklake.model.spec import ModelSpec
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.roi_heads import keypointrcnn_inference
from torchvision.models.detection.transform import resize_keypoints

from tests.helpers import reference as ref

SPEC = ModelSpec(
    name="composed",
    architecture={
        "family": "composed",
        "detector": ref.SPECS[ref.mask_v2].architecture,
        "joints": ref.SPECS[ref.keypoint_v1].architecture,
    },
    # with random weights any class can be what is found: two of three have joints
    classes=ref.SPECS[ref.joint].classes,
    keypoint_names=coco.KEYPOINT_NAMES,
    skeleton=coco.SKELETON,
    preprocessing=ref.PREPROCESSING,
)
JOINTED = [c.id for c in SPEC.classes if c.keypoints]


@pytest.fixture(scope="module")
def models() -> tuple[FasterRCNN, FasterRCNN, LoadedModel]:
    detector, joints = ref.excite(ref.mask_v2(), 0), ref.excite(ref.keypoint_v1(), 1)
    ours = build(SPEC)
    assert isinstance(ours, ComposedRCNN)
    ours.detector.load_state_dict(detector.state_dict())
    ours.joints.load_state_dict({k: t for k, t in joints.state_dict().items() if not k.startswith(UNUSED)})
    return detector, joints, LoadedModel(SPEC, ours.eval())


@torch.no_grad()
def eager_joints(model: FasterRCNN, image: np.ndarray, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """torchvision's keypoint R-CNN with `boxes`, pixels of the resized image, in place of its own."""
    batch, _ = model.transform([ref.as_input(image)])
    heads = model.roi_heads
    x = heads.keypoint_roi_pool(model.backbone(batch.tensors), [boxes], batch.image_sizes)
    places, logits = keypointrcnn_inference(heads.keypoint_predictor(heads.keypoint_head(x)), [boxes])
    return resize_keypoints(places[0], batch.image_sizes[0], image.shape[:2]), logits[0]


@torch.no_grad()
def resized_boxes(model: FasterRCNN, image: np.ndarray) -> Tensor:
    found = []
    hook = model.roi_heads.register_forward_hook(lambda *args: found.append(args[2][0][0]["boxes"].clone()))
    model([ref.as_input(image)])
    hook.remove()
    return found[0]


def test_detector_and_joints_are_each_torchvisions(
    models: tuple[FasterRCNN, FasterRCNN, LoadedModel],
) -> None:
    detector, joints, ours = models
    predictor = Predictor(ours, device="cpu", precision="exact", max_detections=12)
    jointed = 0
    for image in [ref.noise(2, 300, 180), *ref.photos(2)]:
        expected = ref.eager(detector, image, 0.05, 12)
        found = predictor.predict([image])[0]
        assert isinstance(found, Detections)
        assert len(found) == len(expected["scores"]) > 3
        np.testing.assert_array_equal(found.boxes, expected["boxes"])
        np.testing.assert_array_equal(found.labels, expected["labels"])
        np.testing.assert_array_equal(found.scores, expected["scores"])
        np.testing.assert_array_equal(found.masks, expected["probs"][:, 0])
        rows = np.isin(found.labels, JOINTED)
        jointed += rows.sum()
        assert found.keypoints is not None
        assert np.isnan(found.keypoints[~rows]).all()
        if rows.any():
            places, logits = eager_joints(
                joints, image, resized_boxes(detector, image)[torch.from_numpy(rows)]
            )
            np.testing.assert_array_equal(found.keypoints[rows, :, :2], places[..., :2])
            np.testing.assert_array_equal(found.keypoints[rows, :, 2], logits)
    assert jointed > 3


def test_the_second_network_sees_only_images_that_need_it(
    models: tuple[FasterRCNN, FasterRCNN, LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    *_, ours = models
    images = [ref.noise(seed, 96, 128) for seed in range(4)]
    found = Predictor(ours, device="cpu", precision="float32", max_detections=4).predict(images)
    needed = sum(bool(np.isin(of.labels, JOINTED).any()) for of in found if isinstance(of, Detections))
    seen: list[int] = []
    predictor = Predictor(ours, device="cpu", precision="float32", max_detections=4)
    backbone = predictor._engine.joints.backbone
    monkeypatch.setattr(
        predictor._engine.joints, "backbone", lambda images: seen.append(len(images)) or backbone(images)
    )
    predictor.predict(images)
    assert sum(seen) == needed
    without = next(c.name for c in SPEC.classes if not c.keypoints)
    predictor = Predictor(
        ours, device="cpu", precision="float32", max_detections=4, classes=[without], score_threshold=0
    )
    monkeypatch.setattr(predictor._engine.joints, "backbone", lambda _: pytest.fail("it was run"))
    assert sum(len(of) for of in predictor.predict(images) if isinstance(of, Detections)) > 0


def test_it_can_be_saved_and_loaded(
    models: tuple[FasterRCNN, FasterRCNN, LoadedModel], tmp_path_factory: pytest.TempPathFactory
) -> None:
    *_, ours = models
    directory = tmp_path_factory.mktemp("composed")
    checkpoint.save(directory, ours.module, SPEC)
    again = checkpoint.load(directory)
    before, after = ours.module.state_dict(), again.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert parse(again.spec.architecture) == parse(SPEC.architecture)


def test_parts_that_cannot_be_composed() -> None:
    mask, joints = ref.SPECS[ref.mask_v2].architecture, ref.SPECS[ref.keypoint_v1].architecture
    for parts, message in (
        ({"detector": joints, "joints": joints}, "without joints"),
        ({"detector": mask, "joints": mask}, "a joints network"),
        (
            {"detector": {"family": "composed", "detector": mask, "joints": joints}, "joints": joints},
            "itself composed",
        ),
        ({"detector": mask}, "family"),
        ({"detector": mask, "joints": joints, "third": mask}, "unknown key third"),
    ):
        with pytest.raises(ModelError, match=message):
            parse({"family": "composed", **parts})
    assert isinstance(parse({"family": "composed", "detector": mask, "joints": joints}), Composed)


def test_joints_that_are_not_finite_fail_the_image(
    models: tuple[FasterRCNN, FasterRCNN, LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, ours = models
    predictor = Predictor(ours, device="cpu", precision="float32")
    backbone = predictor._engine.joints.backbone
    monkeypatch.setattr(
        predictor._engine.joints, "backbone", lambda x: {k: v * torch.inf for k, v in backbone(x).items()}
    )
    found = predictor.predict([ref.noise(2, 300, 180)])[0]
    assert isinstance(found, PredictFailure)
    assert "keypoints have values that are not finite" in found.reason
