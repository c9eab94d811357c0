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
    # with random weights any class can be detected: two of three have keypoints
    classes=ref.SPECS[ref.joint].classes,
    keypoint_names=coco.KEYPOINT_NAMES,
    skeleton=coco.SKELETON,
    preprocessing=ref.PREPROCESSING,
)
WITH_KEYPOINTS = [c.id for c in SPEC.classes if c.keypoints]


@pytest.fixture(scope="module")
def models() -> tuple[FasterRCNN, FasterRCNN, LoadedModel]:
    detector, keypoint_network = ref.excite(ref.mask_v2(), 0), ref.excite(ref.keypoint_v1(), 1)
    ours = build(SPEC)
    assert isinstance(ours, ComposedRCNN)
    ours.detector.load_state_dict(detector.state_dict())
    ours.joints.load_state_dict(
        {k: t for k, t in keypoint_network.state_dict().items() if not k.startswith(UNUSED)}
    )
    return detector, keypoint_network, LoadedModel(SPEC, ours.eval())


@torch.no_grad()
def eager_keypoints(model: FasterRCNN, image: np.ndarray, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """torchvision's keypoint R-CNN with `boxes`, pixels of the resized image, in place of its own."""
    batch, _ = model.transform([ref.as_input(image)])
    heads = model.roi_heads
    x = heads.keypoint_roi_pool(model.backbone(batch.tensors), [boxes], batch.image_sizes)
    places, logits = keypointrcnn_inference(heads.keypoint_predictor(heads.keypoint_head(x)), [boxes])
    return resize_keypoints(places[0], batch.image_sizes[0], image.shape[:2]), logits[0]


@torch.no_grad()
def resized_boxes(model: FasterRCNN, image: np.ndarray) -> Tensor:
    boxes = []
    hook = model.roi_heads.register_forward_hook(lambda *args: boxes.append(args[2][0][0]["boxes"].clone()))
    model([ref.as_input(image)])
    hook.remove()
    return boxes[0]


def test_detector_and_keypoints_are_each_torchvisions(
    models: tuple[FasterRCNN, FasterRCNN, LoadedModel],
) -> None:
    detector, keypoint_network, ours = models
    predictor = Predictor(ours, device="cpu", precision="exact", max_detections=12)
    checked = 0
    for image in [ref.noise(2, 300, 180), *ref.photos(2)]:
        expected = ref.eager(detector, image, 0.05, 12)
        detections = predictor.predict([image])[0]
        assert isinstance(detections, Detections)
        assert len(detections) == len(expected["scores"]) > 3
        np.testing.assert_array_equal(detections.boxes, expected["boxes"])
        np.testing.assert_array_equal(detections.labels, expected["labels"])
        np.testing.assert_array_equal(detections.scores, expected["scores"])
        np.testing.assert_array_equal(detections.masks, expected["probs"][:, 0])
        rows = np.isin(detections.labels, WITH_KEYPOINTS)
        checked += rows.sum()
        assert detections.keypoints is not None
        assert np.isnan(detections.keypoints[~rows]).all()
        if rows.any():
            places, logits = eager_keypoints(
                keypoint_network, image, resized_boxes(detector, image)[torch.from_numpy(rows)]
            )
            np.testing.assert_array_equal(detections.keypoints[rows, :, :2], places[..., :2])
            np.testing.assert_array_equal(detections.keypoints[rows, :, 2], logits)
    assert checked > 3


def test_the_second_network_sees_only_images_that_need_it(
    models: tuple[FasterRCNN, FasterRCNN, LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    *_, ours = models
    images = [ref.noise(seed, 96, 128) for seed in range(4)]
    results = Predictor(ours, device="cpu", precision="float32", max_detections=4).predict(images)
    needed = sum(
        bool(np.isin(result.labels, WITH_KEYPOINTS).any())
        for result in results
        if isinstance(result, Detections)
    )
    seen: list[int] = []
    predictor = Predictor(ours, device="cpu", precision="float32", max_detections=4)
    backbone = predictor._engine.keypoint_parts.backbone
    monkeypatch.setattr(
        predictor._engine.keypoint_parts,
        "backbone",
        lambda images: seen.append(len(images)) or backbone(images),
    )
    predictor.predict(images)
    assert sum(seen) == needed
    without = next(c.name for c in SPEC.classes if not c.keypoints)
    predictor = Predictor(
        ours, device="cpu", precision="float32", max_detections=4, classes=[without], score_threshold=0
    )
    monkeypatch.setattr(predictor._engine.keypoint_parts, "backbone", lambda _: pytest.fail("it was run"))
    assert sum(len(result) for result in predictor.predict(images) if isinstance(result, Detections)) > 0


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
    mask, keypoints = ref.SPECS[ref.mask_v2].architecture, ref.SPECS[ref.keypoint_v1].architecture
    for parts, message in (
        ({"detector": keypoints, "joints": keypoints}, "without keypoints"),
        ({"detector": mask, "joints": mask}, "a keypoint network"),
        (
            {"detector": {"family": "composed", "detector": mask, "joints": keypoints}, "joints": keypoints},
            "itself composed",
        ),
        ({"detector": mask}, "family"),
        ({"detector": mask, "joints": keypoints, "third": mask}, "unknown key third"),
    ):
        with pytest.raises(ModelError, match=message):
            parse({"family": "composed", **parts})
    assert isinstance(parse({"family": "composed", "detector": mask, "joints": keypoints}), Composed)


def test_keypoints_that_are_not_finite_fail_the_image(
    models: tuple[FasterRCNN, FasterRCNN, LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, ours = models
    predictor = Predictor(ours, device="cpu", precision="float32")
    backbone = predictor._engine.keypoint_parts.backbone
    monkeypatch.setattr(
        predictor._engine.keypoint_parts,
        "backbone",
        lambda x: {k: v * torch.inf for k, v in backbone(x).items()},
    )
    failure = predictor.predict([ref.noise(2, 300, 180)])[0]
    assert isinstance(failure, PredictFailure)
    assert "keypoints have values that are not finite" in failure.reason
